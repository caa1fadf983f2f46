"""A teacher from outside the library is one row of the registry; and the registry is light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from esnac_lib.config.study import StudyConfig
from esnac_lib.study.study import Study
from esnac_lib.teachers.registry import TEACHERS, TeacherEntry

TOY = {
    "teacher": "toy", "K": 1, "steps": 2, "epochs": 1, "teacher_epochs": 1, "candidates": 4, "search_images": 200,
    "final": "none", "baseline": False, "device": "cpu",
}  # fmt: skip


def toy(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(image_size),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


@pytest.fixture
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    TEACHERS.register(TeacherEntry("toy", "Toy", 4, toy))
    yield
    TEACHERS.unregister("toy")


@pytest.mark.usefixtures("_toy")
def test_a_teacher_from_outside_is_compressed() -> None:
    summary = Study(StudyConfig(**TOY)).run()
    assert summary is not None and summary["evaluations"] == 2
    assert summary["teacher"]["params"] == (72 + 8) + 2 * 8 + (1152 + 16) + 170


def test_the_registry_loads_without_torch() -> None:
    code = "import sys; from esnac_lib.teachers.registry import TEACHERS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_row_has_a_label_of_its_own() -> None:
    assert len({entry.label for entry in TEACHERS.values()}) == len(TEACHERS)
