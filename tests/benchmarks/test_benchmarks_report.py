"""The parameters of the benchmarks and their figures."""

from __future__ import annotations

import pandas as pd
import pytest

from esnac_lib import report
from esnac_lib.config.benchmarks import BenchmarksConfig
from esnac_lib.errors import ConfigError


def test_numbers_are_read() -> None:
    config = BenchmarksConfig(growth_observations="40, 80,1600", growth_K="3")
    assert config.numbers("growth_observations") == [40, 80, 1600]
    assert config.numbers("growth_K") == [3]


@pytest.mark.parametrize(
    ("name", "value"), [("device", "tpu"), ("growth_K", "1;2"), ("growth_K", "0.5"), ("steps", 1), ("images", -1)]
)
def test_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        BenchmarksConfig.from_dict({name: value})


def test_growth_next_to_a_proportional_line() -> None:
    table = pd.DataFrame({"observations": [40, 10], "learning": [3.0, 1.0], "choosing": [1, 1], "seconds": [4.0, 2.0]})
    (axes,) = report.growth_figure({"observations": table}).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    parts = {"in all": [2.0, 4.0], "learning kernels": [1.0, 3.0], "choosing candidates": [1, 1]}
    assert lines == parts | {"proportional": [2.0, 8.0]}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "40"]


def test_shares_are_drawn_and_written() -> None:
    parts = pd.DataFrame({"part": ["a", "b" * 60], "seconds": [3.0, 1.0], "share": [0.75, 0.25]})
    left, right = report.shares_figure({"one": parts, "two": parts.head(1)}).axes
    assert [bar.get_width() for bar in left.patches] == [0.75, 0.25]
    assert [text.get_text() for text in left.texts] == [" 75%", " 25%"]
    assert (left.get_title(), len(right.patches)) == ("one", 1)
    assert len(left.get_yticklabels()[1].get_text()) < 40
