"""Whole studies, small but real: scikit-learn's digits, a real teacher, real trainings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from esnac_lib import report
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build
from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError, LedgerError, TrainingError
from esnac_lib.files import load_weights, save_weights
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.study.study import Study
from esnac_lib.training import evaluator as evaluator_module
from esnac_lib.training.progress import Progress

TINY: dict[str, Any] = {
    "study": "tiny", "K": 2, "steps": 2, "epochs": 1, "teacher_epochs": 2, "final_epochs": 1, "top": 2,
    "candidates": 6, "search_images": 300, "device": "cpu",
}  # fmt: skip
SAME = ["trial", "step", "kernel", "arch_id", "state", "accuracy", "params", "macs", "f", "error", "mean", "variance",
        "ei", "decisions", "architecture", "best_epoch"]  # fmt: skip


class Quiet(Progress):
    """Says nothing."""

    def note(self, text: str) -> None:
        pass


def study(**changes: Any) -> Study:
    return Study(StudyConfig(**TINY | changes), Quiet())


def trials(name: str = "tiny") -> pd.DataFrame:
    return Ledger(study_dir(StudyConfig(study=name)) / "ledger.sqlite", read_only=True).trials()


@pytest.fixture(autouse=True)
def _shared_teachers(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh outputs folder for each test; only the trained teachers are shared, as studies share them."""
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path))
    shared = tmp_path_factory.getbasetemp() / "teachers"
    shared.mkdir(exist_ok=True)
    (tmp_path / "teachers").symlink_to(shared)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The trials of a study that nobody disturbed."""
    before = os.environ.get("ESNAC_OUTPUTS")
    os.environ["ESNAC_OUTPUTS"] = str(tmp_path_factory.mktemp("alone"))
    try:
        study(final="none").run()
        return trials()
    finally:
        if before is None:
            del os.environ["ESNAC_OUTPUTS"]
        else:
            os.environ["ESNAC_OUTPUTS"] = before


def test_from_a_teacher_to_a_solution() -> None:
    summary = study().run()
    assert summary is not None
    folder = study_dir(StudyConfig(**TINY))
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert {"study", "sampler", "dataset", "seed", "teacher", "solution", "evaluations", "failed", "seconds",
            "environment"} <= set(summary)  # fmt: skip
    table = trials()
    assert len(table) == summary["evaluations"] == 4
    assert (table["state"] == "complete").all()

    ledger = Ledger(folder / "ledger.sqlite", read_only=True)
    search_teacher = ledger.results("teacher")["search"]
    for row in table.itertuples():
        student = Architecture.from_json(row.architecture)
        assert (student.arch_id, student.num_params, student.macs) == (row.arch_id, row.params, row.macs)
        expected = PAPERS.value(
            Measurement(row.accuracy, row.params), Measurement(search_teacher["accuracy"], summary["teacher"]["params"])
        )
        assert row.f == pytest.approx(expected)
    assert table["kernel"].isna().tolist() == [True, True, False, False]  # the first step is random

    # the solution is one of the best two of the search, and its weights give the accuracy that is reported
    solution = summary["solution"]
    best = table.sort_values("f", ascending=False)["arch_id"].head(2)
    assert solution["arch_id"] in set(best)
    row = table[table["arch_id"] == solution["arch_id"]].iloc[0]
    weights = load_weights(folder / "students" / f"{solution['student']}-full.safetensors")
    network = build(Architecture.from_json(row["architecture"]), weights).eval()
    test = study().data.test
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in test.evaluation_batches(100))
    assert right / len(test) == pytest.approx(solution["accuracy"])
    reference = ledger.results("teacher")["reference"]["accuracy"]
    assert solution["f"] == pytest.approx(
        PAPERS.value(
            Measurement(solution["accuracy"], solution["params"]), Measurement(reference, summary["teacher"]["params"])
        )
    )
    # the narrowed teacher is of the solution's size
    assert summary["narrowed"]["params"] == pytest.approx(solution["params"], rel=0.2)
    phases = set(ledger.epochs()["phase"])
    assert phases == {"search-teacher", "reference-teacher", "search", "baseline", "final", "full"}
    assert not list(folder.glob("*-wal")) and not list((folder / "students").glob("checkpoint*/*"))


def test_a_finished_study_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = study().run()
    monkeypatch.setattr(
        "esnac_lib.training.training_run.TrainingRun.train_step",
        lambda *args: pytest.fail("something was trained again"),
    )
    again = study().run()
    assert again is not None and first is not None
    for key in ("solution", "narrowed", "evaluations", "failed"):
        assert again[key] == first[key]


@pytest.mark.parametrize(
    ("moment", "call"),
    [("record", 1), ("running", 1), ("running", 3), ("complete", 1), ("complete", 2), ("epoch", 1), ("epoch", 3)],
)  # the second `complete` leaves half a step told
def test_interrupted_anywhere_it_ends_with_the_same_trials(
    moment: str, call: int, alone: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = getattr(Ledger, moment)

    def interrupt(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, moment, interrupt)
        study(final="none").run()
        raise KeyboardInterrupt  # a moment that never came (a third step) is no failure
    study(final="none").run()
    pd.testing.assert_frame_equal(trials()[SAME], alone[SAME])


def test_a_step_that_was_told_in_part_is_told_to_the_sampler_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        real, calls = Ledger.complete, iter([False, True])

        def interrupt(self: Ledger, *args: Any) -> None:
            if next(calls):
                raise KeyboardInterrupt
            real(self, *args)

        patch.setattr(Ledger, "complete", interrupt)
        study(sampler="random", final="none").run()
    assert trials()["told_at"].notna().tolist() == [True, False]
    told: list[str] = []
    monkeypatch.setattr(RandomSampler, "tell", lambda self, rows: told.extend(row.architecture.arch_id for row in rows))
    study(sampler="random", final="none").run()
    assert told == trials()["arch_id"].tolist()


def test_killed_it_ends_with_the_same_trials(alone: pd.DataFrame, tmp_path: Path) -> None:
    program = (
        "from esnac_lib.config import StudyConfig; from esnac_lib.study import Study; import sys, json;"
        "Study(StudyConfig(**json.loads(sys.argv[1]))).run()"
    )
    command = [sys.executable, "-c", program, json.dumps(TINY | {"final": "none"})]
    ledger = tmp_path / "tiny" / "ledger.sqlite"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2400):
            if child.poll() is not None or (ledger.exists() and trials()["told_at"].notna().any()):
                break
            time.sleep(0.05)
        assert child.poll() is None, "the study ended before it could be killed"
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    told = trials()["told_at"].notna().sum()
    assert 1 <= told <= 4
    study(final="none").run()
    pd.testing.assert_frame_equal(trials()[SAME], alone[SAME])


def test_the_order_of_evaluations_does_not_matter(alone: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, the last first, and told in that order: as an evaluator may that has several workers."""
    real = evaluator_module.LocalEvaluator.evaluate

    def backwards(self: Any, tasks: Any, purpose: str, index: int) -> Iterator[Any]:
        for task in reversed(tasks):
            yield from real(self, [task], purpose, index)

    monkeypatch.setattr(evaluator_module.LocalEvaluator, "evaluate", backwards)
    study(final="none").run()
    pd.testing.assert_frame_equal(trials()[SAME], alone[SAME])


@pytest.mark.parametrize(
    "damage", ["json", "accuracy", "activation", "cut", "weights", "other weights", "one weight", "role"]
)
def test_a_damaged_teacher_is_told_in_one_line(damage: str, tmp_path: Path) -> None:
    (tmp_path / "teachers").unlink()  # not the one that others use
    study(final="none", steps=1, teacher_epochs=1).run()
    [folder] = (tmp_path / "teachers").iterdir()
    record, weights = folder / "teacher.json", folder / "weights.safetensors"
    if damage == "json":
        record.write_text(record.read_text()[:-9])
    elif damage in ("accuracy", "activation"):
        old, new = {"accuracy": ('"accuracy": 0.', '"accuracy": 0.9'), "activation": ("relu", "tanh")}[damage]
        assert old in record.read_text()
        record.write_text(record.read_text().replace(old, new, 1))
    elif damage == "role":  # whole, but of the other teacher
        study(final="none", steps=1, teacher_epochs=1).train_reference()
        [other] = (tmp_path / "teachers").glob("*-reference-*")
        for file in (record, weights):
            file.write_bytes((other / file.name).read_bytes())
    elif damage == "one weight":
        tensors = load_weights(weights)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_weights(weights, tensors)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif damage == "weights":
        weights.write_bytes(b"\x80\x04 no weights")
    else:
        save_weights(weights, {"conv1.weight": torch.zeros(1)})
    with pytest.raises(
        TrainingError,
        match=r"\Athe trained teacher in \S+ is damaged \([^\n]+\): delete that [^\n]+ all else is kept\Z",
    ):
        study(final="none", steps=2, teacher_epochs=1).run()


def test_steps_may_grow(alone: pd.DataFrame) -> None:
    study(final="none", steps=1).run()
    assert len(trials()) == 2
    study(final="none", steps=2).run()
    pd.testing.assert_frame_equal(trials()[SAME], alone[SAME])


def test_another_configuration_is_refused_and_changes_nothing() -> None:
    study(final="none", steps=1).run()
    path = study_dir(StudyConfig(**TINY)) / "ledger.sqlite"
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="seed: stored 0, given 1"):
        study(final="none", steps=1, seed=1)
    assert path.read_bytes() == before


def test_a_second_process_is_refused() -> None:
    mine = study(final="none")
    with Ledger.start(mine.ledger_path, mine.config.to_dict()), pytest.raises(LedgerError):
        study(final="none").run()


def test_a_diverging_student_is_told_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluator_module.inherit
    calls = 0

    def poisoned(weights: Any, architecture: Architecture) -> Any:
        nonlocal calls
        calls += 1
        found = real(weights, architecture)
        return {k: v * float("nan") for k, v in found.items()} if calls == 1 else found

    monkeypatch.setattr(evaluator_module, "inherit", poisoned)
    study(final="none").run()
    table = trials()
    assert table["state"].tolist() == ["failed", "complete", "complete", "complete"]
    assert table.loc[0, "f"] == 0 and "diverged" in table.loc[0, "error"]


def test_out_of_memory_is_tried_again_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluator_module.build
    built: list[str] = []

    def greedy(architecture: Architecture, weights: Any) -> Any:
        network = real(architecture, weights)
        if not built or architecture.arch_id == built[0]:
            built.append(architecture.arch_id)

            def forward(x: torch.Tensor) -> torch.Tensor:
                raise torch.OutOfMemoryError("out of memory, as if")

            network.forward = forward
        return network

    monkeypatch.setattr(evaluator_module, "build", greedy)
    study(final="none", steps=1).run()
    table = trials()
    assert len(built) == 3  # once, and twice again
    assert table["state"].tolist() == ["failed", "complete"]
    assert pd.isna(table.loc[0, "f"]) and "memory" in table.loc[0, "error"]


def test_it_stops_when_the_time_is_over_and_goes_on(alone: pd.DataFrame) -> None:
    assert study(final="none", max_minutes=1e-6).run() is None
    assert study(final="none").run() is not None
    pd.testing.assert_frame_equal(trials()[SAME], alone[SAME])


def test_the_search_never_sees_the_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudyData, "test", property(lambda self: pytest.fail("a search looked at the test images")))
    monkeypatch.setattr(StudyData, "everything", property(lambda self: pytest.fail("a search trained on all images")))
    study(final="none").run()


def test_the_published_protocol_takes_the_best_test_epoch() -> None:
    summary = study(final="paper", baseline=False, final_epochs=2).run()
    assert summary is not None and summary["narrowed"] is None
    ledger = Ledger(study_dir(StudyConfig(**TINY)) / "ledger.sqlite", read_only=True)
    full = ledger.results("full")
    assert len(full) == 2 and not ledger.results("final")
    reference = ledger.results("teacher")["reference"]
    teacher = Measurement(reference["accuracy"], reference["params"])
    values = [PAPERS.value(Measurement(r["best_epoch_accuracy"], r["params"]), teacher) for r in full.values()]
    assert summary["solution"]["f"] == pytest.approx(max(values))


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"esnac"}))
def test_one_loop_serves_every_sampler(sampler: str) -> None:
    transfer = sampler == "transfer"
    if transfer:
        study(study="source", sampler="random", final="none").run()
    study(sampler=sampler, source="source" if transfer else "", final="none").run()
    table = trials()
    assert (table["state"] == "complete").all() and table["arch_id"].is_unique and len(table) == 4


def test_only_the_weights_of_the_best_are_kept() -> None:
    study(final="none", top=1).run()
    table = trials()
    kept = [path.stem for path in (study_dir(StudyConfig(**TINY)) / "students").glob("trial*.safetensors")]
    assert kept == [f"trial{table['f'].idxmax():04d}"]


def test_of_one_finalist_nothing_is_chosen() -> None:
    summary = study(top=1, baseline=False).run()
    assert summary is not None
    results = Ledger(study_dir(StudyConfig(**TINY)) / "ledger.sqlite", read_only=True)
    assert not results.results("final")  # no training for the sake of a choice
    assert list(results.results("full")) == [summary["solution"]["student"]]
    record = report.read(study_dir(StudyConfig(**TINY)))
    assert record.solution is not None and record.finalists["trial"].tolist() == [record.solution.trial]
    assert record.finalists["evaluated_on"].tolist() == ["test"]


def test_a_study_that_only_removes_has_a_narrowed_teacher_too() -> None:
    summary = study(operators="remove", steps=1, top=1).run()
    assert summary is not None
    assert set(trials()["decisions"].map(lambda text: tuple(json.loads(text)["ratios"]))) == {(0.0, 0.0)}
    assert summary["narrowed"]["params"] <= summary["teacher"]["params"]


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="no CUDA device"):
        study(device="cuda")
