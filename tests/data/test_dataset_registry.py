"""A data set from outside the library is one row of the registry; and the registry is light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.registry import DATASETS, DatasetEntry
from esnac_lib.data.sources import Arrays
from esnac_lib.errors import DataError
from esnac_lib.study.study import Study

TOY: dict[str, Any] = {
    "dataset": "stripes", "K": 1, "steps": 2, "epochs": 1, "teacher_epochs": 1, "candidates": 4, "validation": 40,
    "final": "none", "baseline": False, "device": "cpu",
}  # fmt: skip


def stripes() -> Arrays:
    """Horizontal and vertical ones."""
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 200), ("test", 60)):
        labels = np.arange(count) % 2
        rows = rng.integers(0, 256, (count, 8, 1, 1), dtype=np.uint8).repeat(8, axis=2)
        images = np.where(labels[:, None, None, None] == 0, rows, rows.transpose(0, 2, 1, 3))
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetEntry]:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    yield DATASETS.register(DatasetEntry("stripes", "Stripes", (8, 8, 1), 2, flip=True, load=stripes))
    DATASETS.unregister("stripes")


def test_a_data_set_from_outside_is_searched_on(registered: DatasetEntry) -> None:
    summary = Study(StudyConfig(**TOY)).run()
    assert summary is not None and summary["evaluations"] == 2
    assert load_dataset("stripes").flip


def test_a_download_is_stored_and_read_the_next_time(tmp_path: Path) -> None:
    calls = []

    def download(folder: Path) -> Arrays:
        calls.append(list(folder.iterdir()))
        return stripes()

    DATASETS.register(DatasetEntry("stripes", "Stripes", (8, 8, 1), 2, flip=True, download=download))
    try:
        first, second = load_dataset("stripes", tmp_path), load_dataset("stripes", tmp_path)
    finally:
        DATASETS.unregister("stripes")
    assert calls == [[]] and np.array_equal(first.train_images, second.train_images)
    assert [path.name for path in tmp_path.iterdir()] == ["stripes.npz"]


def test_a_row_without_a_source_wants_its_file(tmp_path: Path) -> None:
    DATASETS.register(DatasetEntry("stripes", "Stripes", (8, 8, 1), 2, flip=True))
    try:
        with pytest.raises(DataError, match=r"stripes is not at \S+ and .* \(no download is known\)"):
            load_dataset("stripes", tmp_path)
        np.savez(tmp_path / "stripes.npz", **stripes())
        assert len(load_dataset("stripes", tmp_path).train_labels) == 200
    finally:
        DATASETS.unregister("stripes")


def test_the_registry_loads_without_torch() -> None:
    code = "import sys; from esnac_lib.data.registry import DATASETS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
