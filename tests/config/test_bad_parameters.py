"""Every parameter of every notebook against what it must not be: one line each, before anything is loaded."""

from __future__ import annotations

import json
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esnac_lib.errors import ConfigError

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
NOTHING = [None, [1], {"a": 1}, (), b"x", Path("x"), np.array([1, 2]), object(), 1j]
WRONG: dict[type, list[Any]] = {
    bool: [0, 1, 0.0, "true", "", math.nan, *NOTHING],
    int: [True, False, 1.0, 1.5, "1", "", "x", math.nan, math.inf, -math.inf, -(10**30), np.int64(1), *NOTHING],
    float: [True, "0.1", "", "x", math.nan, math.inf, -math.inf, -1.0, -1, np.float32(math.nan), *NOTHING],
    str: [True, 0, 1.5, math.nan, "no such thing\n", *NOTHING],
}
# Whether there is such a folder, study or cluster is told where it is used.
FREE_TEXTS = {"data_root", "compare_with", "whole_study", "ray_address"}


def config_of(notebook: Path) -> Any:
    """The class that validates a notebook's parameters."""
    cells = json.loads(notebook.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = re.search(r"^from (esnac_lib[\w.]*) import .*?\b(\w+Config)\b", code, re.MULTILINE)
    assert found is not None, f"{notebook.name} validates its parameters by no config class"
    return getattr(import_module(found[1]), found[2])


CONFIGS = [config_of(notebook) for notebook in NOTEBOOKS]
PARAMETERS = [(config, name) for config in dict.fromkeys(CONFIGS) for name in config.model_fields]


def refusal(config: Any, values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.from_notebook(values)
    return str(caught.value)


@pytest.mark.parametrize(("config", "name"), PARAMETERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_parameter_refuses_what_it_cannot_be(config: Any, name: str) -> None:
    defaults = config().to_dict()
    for value in WRONG[type(defaults[name])]:
        if name in FREE_TEXTS and isinstance(value, str):
            continue
        line = refusal(config, defaults | {name: value})
        assert name in line and "\n" not in line and len(line) < 500, line


@pytest.mark.parametrize("config", dict.fromkeys(CONFIGS), ids=lambda config: config.__name__)
def test_an_unknown_name_is_answered_with_the_nearest(config: Any) -> None:
    names = list(config.model_fields)
    for name in names:
        for wrong in (f"{name}s", name.swapcase(), f"{name}{name[-1]}"):
            if wrong not in names:
                line = refusal(config, {wrong: 1})
                known = re.fullmatch(
                    rf"unknown parameter '{wrong}' \(= 1\): the nearest known one is '(\w+)'; .*", line
                )
                assert known is not None and known[1] in names, line
