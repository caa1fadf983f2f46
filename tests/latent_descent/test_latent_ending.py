"""An Architecture Compression study ends early, by its time limit or by `finish`, with a student; and goes on later."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.errors import ConfigError
from esnac_lib.latent_descent.baselines import Baselines
from esnac_lib.latent_descent.study import CompressionStudy
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.report import latent_descent as compression
from esnac_lib.training import training_run
from esnac_lib.training.progress import Progress

TINY: dict[str, Any] = {
    "study": "tiny", "architectures": 12, "search_images": 200, "iterations": 10, "unlabelled": 10, "embedding": 8,
    "max_length": 32, "rounds": 1, "candidates": 2, "descent_steps": 6, "path_steps": 2, "starts": 2, "top": 1,
    "final_epochs": 1, "baselines": "narrowed,random", "device": "cpu",
}  # fmt: skip


class Acting(Progress):
    """Keeps what it is told, and does something once when a line begins so."""

    def __init__(self, start: str = "", act: Any = None) -> None:
        super().__init__(bars=False)
        self.said, self._start, self._act = list[str](), start, act

    def note(self, text: str) -> None:
        self.said.append(text)
        if self._act and text.startswith(self._start):
            act, self._act = self._act, None
            act()


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that only trained batches take, a second each; nothing is learned from them."""
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def train_step(run: training_run.TrainingRun, batch: Any, lr: float) -> None:
        now[0] += 1
        run.network.train()
        run.images += len(batch.y)

    monkeypatch.setattr(training_run.TrainingRun, "train_step", train_step)
    return now


def study(progress: Progress | None = None, **changes: Any) -> CompressionStudy:
    return CompressionStudy(CompressionConfig(**TINY | changes), progress or Acting())


def test_the_rounds_end_in_time_for_the_final_training(clock: list[float]) -> None:
    limit = 280  # 13 architectures of 7 batches, and final trainings of 41: the rest goes into rounds
    progress = Acting()
    assert study(progress, rounds=60, descent_steps=3, iterations=5, max_minutes=limit / 60).run()
    assert clock[0] - 1000 <= limit
    record = compression.read_compression("tiny")
    assert record.student is not None and record.student["ended"] == "time"
    assert "It is not final." in compression.compression_claim(record)
    assert "the search ends early: final training of the best decoded so far" in progress.said
    assert not [line for line in progress.said if "asked" in line]


def test_finish_while_architectures_are_collected(clock: list[float]) -> None:
    with pytest.raises(ConfigError, match="'tiny' has fewer than 8 random architectures: too few to finish with"):
        study().finish()
    progress = Acting("8 of 12", lambda: study().finish())
    assert study(progress).run()
    record = compression.read_compression("tiny")
    assert record.student is not None and record.student["ended"] == "asked" and not record.baselines
    assert progress.said[-1] == "finished early, without random, narrowed: the same command goes on with them"
    assert "8 of 12 random architectures trained" in record.status
    assert study().run()  # it goes on, and is final then
    record = compression.read_compression("tiny")
    assert (
        record.student is not None and "ended" not in record.student and set(record.baselines) <= {"random", "narrowed"}
    )
    assert "12 of 12" in record.status and "not final" not in compression.compression_claim(record)


def test_finish_where_nothing_runs(clock: list[float]) -> None:
    progress = Acting("8 of 12", lambda: Ledger(study().ledger_path, read_only=True).request_stop())
    assert not study(progress).run()
    assert progress.said[-1] == "stopped as asked; the same command goes on from here"
    assert study().finish()
    assert json.loads((study().folder / "summary.json").read_text())["student"]["ended"] == "asked"


def test_a_student_that_is_the_narrowed_teacher_is_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrowed(self: Baselines, params: int) -> dict[str, Any]:
        student = self.stage.ledger.results("compressed")["student"]
        return self._from_scratch("narrowed", Architecture.from_json(student["architecture"]))

    monkeypatch.setattr(Baselines, "narrowed", narrowed)
    assert study(architectures=8, baselines="narrowed").run()
    record = compression.read_compression("tiny")
    assert record.student is not None and record.baselines["narrowed"]["student"] == record.student["student"]
    assert "Teacher uniformly narrowed: it is the same network." in compression.compression_claim(record)
    table = compression.compression_table(record)
    assert len(table) == 2 and "it is the teacher uniformly narrowed" in table["note"][1]
