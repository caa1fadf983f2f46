"""The census of models: what it counts, what it resumes, and that a model that fails is a row and no error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esnac_lib import report
from esnac_lib.benchmarks.coverage import Survey, census, reasons, survey, table, totals
from esnac_lib.config.coverage import CoverageConfig
from esnac_lib.errors import ConfigError


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


class Choosy(nn.Module):
    """Which way it goes depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if bool(x.mean() > 0) else x


def test_a_model_is_counted_and_its_students_proved() -> None:
    row = survey("small", small, (3, 8, 8), students=2)
    assert row.traced and row.proved == 2 and not row.failure and row.times >= 4
    conv, linear = 8 * 27 + 8, 8 * 4 + 4
    assert row.params == conv + linear and row.share == 1.0 and row.own_share == pytest.approx(conv / (conv + linear))
    assert (row.layers, row.removable, row.shrinkable) == (5, 1, 1) and not row.opaque and not row.frozen


def test_a_model_that_fails_is_a_row() -> None:
    choosy = survey("choosy", Choosy, (3, 8, 8), students=1)
    missing = survey("missing", lambda: torch.load("nowhere"), (3, 8, 8), students=1)
    assert not choosy.traced and "Choosy" in choosy.failure and not missing.traced
    found = totals([choosy, survey("small", small, (3, 8, 8), students=1)])
    assert (found["models"], found["traced"], found["proved"], found["fourfold"]) == (2, 1, 1, 1)
    assert list(found["refused"]) == ["choosy"] and set(reasons([choosy])["what"]) == {"refused"}


def test_a_census_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    config = CoverageConfig(torchvision="squeezenet1_1@32", students=1)
    told: list[str] = []
    rows = census("torchvision", config, told.append)
    again = census("torchvision", config, told.append)
    assert len(told) == 1 and again == rows and isinstance(rows[0], Survey) and rows[0].proved == 1
    assert census("timm", config, told.append) == []
    report.coverage_figure({"torchvision": table(rows)}).savefig(tmp_path / "figure.png")


def test_an_unknown_model_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    with pytest.raises(ConfigError, match="nearest known one is 'resnet18'"):
        census("torchvision", CoverageConfig(torchvision="resnet19"))
    with pytest.raises(ConfigError, match="is no name of a model"):
        CoverageConfig(torchvision="resnet 18")
    assert CoverageConfig(torchvision="all, vgg11@96", image_size=32).models("torchvision") == {"all": 32, "vgg11": 96}
