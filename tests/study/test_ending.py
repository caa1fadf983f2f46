"""A study ends early with the best found so far: by its time limit, by `finish`, by fewer steps; and goes on later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study.helpers import Listening

from esnac_lib import report
from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.ending import EARLY
from esnac_lib.study.experiment import is_finished
from esnac_lib.study.study import Study
from esnac_lib.training import training_run

TINY: dict[str, Any] = {
    "study": "tiny", "sampler": "random", "K": 2, "steps": 3, "epochs": 2, "teacher_epochs": 2, "final_epochs": 2,
    "top": 2, "search_images": 200, "validation": 600, "batch_size": 64, "device": "cpu",
}  # fmt: skip


class Clock:
    """A clock that only batches move, a second each; nothing is learned from them, which takes no real time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

        def train_step(run: training_run.TrainingRun, batch: Any, lr: float) -> None:
            self.now += 1
            run.network.train()
            run.images += len(batch.y)

        monkeypatch.setattr(training_run.TrainingRun, "train_step", train_step)


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    return Clock(monkeypatch)


def study(**changes: Any) -> Study:
    return Study(StudyConfig(**TINY | changes), Listening())


def said(of: Study) -> list[str]:
    assert isinstance(of.progress, Listening)
    return of.progress.said


def ledger() -> Ledger:
    return Ledger(study_dir(StudyConfig(study="tiny")) / "ledger.sqlite", read_only=True)


def when_evaluated(count: int, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something once so many students are evaluated."""
    real, seen = Ledger.complete, []

    def complete(self: Ledger, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        seen.append(given)
        if len(seen) == count:
            action()

    monkeypatch.setattr(Ledger, "complete", complete)


# Batches: the search teacher 2 × 11, a student 2 × 4 (a step 16, the search 48), the reference teacher 2 × 21, the
# finalists 2 × 2 × 11, the solution 2 × 21, the narrowed teacher 2 × 4 + 2 × 21: 22 + 48 + 42 + 44 + 42 + 50 = 248.
WHOLE = 248


def test_the_time_limit_covers_the_final_training(clock: Clock) -> None:
    short = study(max_minutes=(WHOLE + 10) / 60)  # the time kept for the end has a margin: not all steps fit in
    began = clock.now
    summary = short.run()
    assert summary is not None and clock.now - began <= 60 * short.config.max_minutes
    assert summary["ended"] == "time" and summary["solution"] and 2 <= summary["evaluations"] < 6
    assert not [line for line in said(short) if "asked" in line]
    early, last = (line for line in said(short) if "early" in line)
    assert "of 6 evaluated: the study is finished with the best, within the limit of" in early
    assert last.startswith("finished early") and last.endswith("the same command goes on searching")
    assert not is_finished(short.config)
    # what it found is a solution, and is not called the final one
    record = report.read("tiny")
    assert not record.is_final and "not final" in record.status
    assert f"The best of the first {summary['evaluations']} architectures has " in report.claim(record)
    assert "It is not final." in report.claim(record) and report.read_runs(short.folder.parent)[0].solution is None
    # later it goes on, and then it is
    again = study().run()
    assert again is not None and again["ended"] == "complete" and again["evaluations"] == 6
    assert report.read("tiny").is_final and is_finished(short.config)
    assert "The student that random search found has " in report.claim(report.read("tiny"))


def test_without_a_limit_nothing_is_left_out(clock: Clock) -> None:
    assert study().run() is not None and clock.now == 1000 + WHOLE


def test_where_the_time_is_short_the_baseline_and_then_the_choice_are_left_out(clock: Clock) -> None:
    limit = 22 + 16 + 42 + 42 + 5  # teacher, one step, reference teacher, the best alone
    short = study(max_minutes=limit / 60)
    summary = short.run()
    assert summary is not None and summary["evaluations"] == 2 and clock.now - 1000 <= limit
    assert summary["solution"] and summary["narrowed"] is None
    assert any("only the best of 2 is trained to the end: no time is left" in line for line in said(short))
    assert any("the narrowed teacher is not trained: no time is left" in line for line in said(short))


def test_what_is_trained_already_needs_no_time() -> None:
    first = study().run()
    again = study(max_minutes=1e-6)
    second = again.run()
    assert first is not None and second is not None
    assert (second["solution"], second["narrowed"]) == (first["solution"], first["narrowed"])
    assert not [line for line in said(again) if "no time is left" in line]


def test_a_limit_that_is_too_short_for_one_student_says_so() -> None:
    short = study(max_minutes=30 / 60)  # within the first step
    assert short.run() is None
    assert said(short)[-1] == (
        "the time limit of 0.5 min is over: the search teacher is trained, it was too short for even one evaluated "
        "student, last: epoch 1 of trial0001, search; the same command goes on from here, with max_minutes anew"
    )


def test_finish_from_elsewhere_ends_the_search_with_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    running = study()
    when_evaluated(3, lambda: study().finish(), monkeypatch)
    summary = running.run()
    assert summary is not None and summary["ended"] == "asked" and 3 <= summary["evaluations"] < 6
    assert summary["solution"] and summary["narrowed"]
    assert any("the study is finished with the best, as asked" in line for line in said(running))
    trials = ledger().trials()
    assert not (trials["state"] == "running").any()
    # the summary of the later end replaces the early one
    assert study().run()["ended"] == "complete"  # type: ignore[index]
    assert json.loads((running.folder / "summary.json").read_text())["evaluations"] == 6


def test_finish_where_nothing_runs_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'tiny' has no evaluated student to finish with: run it first"):
        study().finish()
    when_evaluated(3, lambda: ledger().request_stop(), monkeypatch)
    stopped = study()
    assert stopped.run() is None and said(stopped)[-1] == "stopped as asked; the same command goes on from here"
    count = len(ledger().trials().dropna(subset="told_at"))
    summary = study().finish()
    assert summary is not None and summary["evaluations"] == count and summary["ended"] in EARLY


def test_fewer_steps_finish_with_the_best_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    when_evaluated(4, lambda: ledger().request_stop(), monkeypatch)
    assert study().run() is None
    trained = ledger().trials().dropna(subset="told_at")
    summary = study(steps=1).run()
    assert summary is not None and summary["evaluations"] == len(trained) >= 4
    best = trained.sort_values("f").tail(2)["arch_id"]
    assert summary["solution"]["arch_id"] in set(best)
    assert report.read("tiny").is_final and "4 of 4 architectures evaluated" in report.read("tiny").status
    assert study(steps=3).run()["evaluations"] == 6  # type: ignore[index]


def test_a_request_to_finish_before_there_is_anything_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    running, real = study(), Ledger.epoch

    def epoch(self: Ledger, *given: Any) -> None:
        real(self, *given)
        study().finish() if self.writer() is None else Ledger(self.path, read_only=True).request_finish()

    monkeypatch.setattr(Ledger, "epoch", epoch)
    assert running.run() is None
    assert said(running)[-1].startswith("asked to finish, but there is nothing to finish with: it was too short")


def test_a_narrowed_teacher_that_is_the_solution_is_trained_once() -> None:
    summary = study(sampler="narrow", K=1, steps=2, top=1).run()
    assert summary is not None and summary["narrowed_is_solution"]
    assert summary["narrowed"]["student"] == summary["solution"]["student"]
    assert set(ledger().results("full")) == {summary["solution"]["student"]} and not ledger().results("narrowed")
    text = report.claim(report.read("tiny"))
    assert "The narrowed teacher is the best that was found: it is the solution." in text


# -- the time left -----------------------------------------------------------------------------------------------------


def test_the_time_left_covers_the_whole_run_and_only_falls(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[float, float]]()
    real = Ledger.set_left

    def set_left(self: Ledger, seconds: float) -> None:
        real(self, seconds)
        seen.append((clock.now - 1000, seconds))

    monkeypatch.setattr(Ledger, "set_left", set_left)
    running = study()
    running.run()
    lefts = [left for _, left in seen]
    assert lefts == sorted(lefts, reverse=True) and min(lefts) >= 1
    assert seen[0][0] <= 11 and seen[-1][0] > 0.9 * WHOLE
    for (
        at,
        left,
    ) in seen:  # before there is a student, the images that it is evaluated on are counted; here they are free
        near = pytest.approx(WHOLE - at, rel=0.25 if at > 22 + 16 else 1, abs=2)
        assert left == near, f"{left} s left after {at} of {WHOLE} s"
    assert any("s left in all" in line for line in said(running) if line.startswith("step "))
    assert any("left in all" in line for line in said(running) if line.startswith("  final training"))


def test_a_teacher_that_another_study_trained_takes_no_time(clock: Clock) -> None:
    study(study="first").run()
    began, second = clock.now, study(study="second", K=4, steps=1, max_minutes=(32 + 44 + 42 + 50 + 40) / 60)
    summary = second.run()  # no time is kept for the reference teacher: all four are evaluated, and all is trained
    assert summary is not None and summary["evaluations"] == 4 and summary["narrowed"]
    assert clock.now - began == 32 + 44 + 42 + 50
