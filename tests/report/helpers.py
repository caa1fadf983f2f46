"""Ledgers of studies that were never run, in every state that a study can be in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esnac_lib import report
from esnac_lib.config.study import StudyConfig
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace


class Books:
    """Writes the ledger of a study that was never run."""

    def __init__(self, folder: Path, space: SearchSpace, **parameters: Any) -> None:
        self.space = space
        self.config = StudyConfig.from_dict({"study": folder.name, "K": 2, "steps": 3, "top": 2} | parameters)
        self.folder = folder
        self.teacher = space.teacher
        self.ledger = Ledger.start(folder / "ledger.sqlite", self.config.to_dict())

    def read(self) -> report.StudyRecord:
        self.ledger.close()
        return report.read(self.folder)

    def add_teacher(self, role: str, accuracy: float) -> None:
        known = {"name": self.config.teacher, "params": self.teacher.num_params, "macs": self.teacher.macs}
        value = known | {"accuracy": accuracy, "architecture": self.teacher.to_json()}
        self.ledger.result("teacher", role, value)
        for epoch, share in enumerate((0.4, 0.8, 1.0), 1):
            self.ledger.epoch(f"{role}-teacher", f"{role}-teacher", epoch, 2 / epoch, share * accuracy, 1.5)

    def add_trials(self, observed: Mapping[int, float | str | None], step: int = 0, predicted: bool = False) -> None:
        """One step: for each trial its accuracy, "failed", "machine" (a fault: no f) or None (not finished yet)."""
        rows = []
        for trial in observed:
            decisions = self.space.sample(make_rng(3, "report-test", trial))
            a = self.space.apply(decisions)
            guess = (0.5 + 0.1 * trial, 0.04, 0.1) if predicted else (None, None, None)
            kernel = len(rows) if predicted else None
            texts = (decisions.to_json(), a.to_json())
            rows.append(ProposalRow(kernel, a.arch_id, a.num_params, a.macs, *texts, *guess, propose_seconds=0.25))
        assert self.ledger.record(step, rows) == list(observed)
        for (trial, outcome), row in zip(observed.items(), rows, strict=True):
            if outcome in ("failed", "machine"):
                reason = "the loss is nan" if outcome == "failed" else "out of memory"
                self.ledger.fail(trial, reason, 1.0, f=0.0 if outcome == "failed" else None)
            elif isinstance(outcome, float):
                f = PAPERS.value(Measurement(outcome, row.params), Measurement(0.95, self.teacher.num_params))
                self.ledger.complete(trial, outcome, f, 2, 2.0)
                for epoch in (1, 2):
                    self.ledger.epoch("search", f"trial{trial:04d}", epoch, 3 / epoch, outcome * epoch / 2, 1.0)

    def add_final(self, kind: str, key: str, accuracy: float, best: float, on_test: bool) -> None:
        network = {"key": key, "params": 32917, "macs": 700000, "arch_id": "abc"}
        result = network | {"accuracy": accuracy, "best_epoch_accuracy": best, "on_test": on_test, "seconds": 10.0}
        self.ledger.result(kind, key, result)
        for epoch in (1, 2):
            self.ledger.epoch(kind, key, epoch, 1 / epoch, accuracy * epoch / 2, 5.0)

    def add_entry(self, kind: str, name: str, key: str, accuracy: float, best: float, f: float) -> None:
        """Half of the teacher's 65,834 parameters: ratio 0.5, 2 times, C (2 - C) = 0.75."""
        network = {
            "student": key,
            "arch_id": f"arch-{key}",
            "params": 32917,
            "macs": 700000,
            "ratio": 0.5,
            "times": 2.0,
        }
        self.ledger.result(kind, name, network | {"accuracy": accuracy, "best_epoch_accuracy": best, "f": f})


def searched(folder: Path, space: SearchSpace, **parameters: Any) -> Books:
    """Six trials in three steps, of which one failed and one met a fault of the machine."""
    books = Books(folder, space, **parameters)
    books.add_teacher("search", 0.95)
    books.add_trials({0: 0.60, 1: 0.90})
    books.add_trials({2: 0.80, 3: "failed"}, step=1, predicted=books.config.sampler == "esnac")
    books.add_trials({4: "machine", 5: 0.70}, step=2, predicted=books.config.sampler == "esnac")
    return books


def finished(folder: Path, space: SearchSpace, accuracy: float = 0.90, same: bool = False, **parameters: Any) -> Books:
    """All of a study: teachers 95 % and 96 %, solution 90 % (best epoch 91 %), narrowed teacher 88 % (89 %).

    same: the solution is the narrowed teacher itself.
    """
    books = searched(folder, space, **parameters)
    books.add_teacher("reference", 0.96)
    paper = books.config.final == "paper"
    books.add_final("full" if paper else "final", "trial0001", 0.85, 0.87, paper)
    books.add_final("full" if paper else "final", "trial0002", 0.80, 0.82, paper)
    books.add_final("full", "trial0001", accuracy, 0.91, True)
    books.add_entry("solution", "student", "trial0001", accuracy, 0.91, 0.75 * (0.91 if paper else accuracy) / 0.96)
    if same:
        books.add_entry("baseline", "narrowed", "trial0001", accuracy, 0.91, 0.75 * accuracy / 0.96)
        return books
    key = "narrowed-abc"
    narrow = space.apply(space.narrow(32917))
    books.ledger.result("narrowed", key, {"key": key, "seconds": 4.0, "architecture": narrow.to_json()})
    books.ledger.epoch("baseline", key, 1, 1.0, 0.5, 4.0)
    books.add_final("full", key, 0.88, 0.89, True)
    books.add_entry("baseline", "narrowed", key, 0.88, 0.89, 0.75 * (0.89 if paper else 0.88) / 0.96)
    return books


def untrained(folder: Path, space: SearchSpace) -> Books:
    return Books(folder, space)


def before_the_first_trial(folder: Path, space: SearchSpace) -> Books:
    books = Books(folder, space)
    books.add_teacher("search", 0.95)
    return books


def running(folder: Path, space: SearchSpace) -> Books:
    books = before_the_first_trial(folder, space)
    books.add_trials({0: None, 1: None})
    books.ledger.running([0, 1])
    return books


def one_trial(folder: Path, space: SearchSpace) -> Books:
    books = before_the_first_trial(folder, space)
    books.add_trials({0: 0.9, 1: None})
    return books


def all_failed(folder: Path, space: SearchSpace) -> Books:
    books = before_the_first_trial(folder, space)
    books.add_trials({0: "failed", 1: "failed", 2: "machine"})
    return books


def only_faults_of_the_machine(folder: Path, space: SearchSpace) -> Books:
    books = before_the_first_trial(folder, space)
    books.add_trials({0: "machine"})
    return books


def search_only(folder: Path, space: SearchSpace) -> Books:
    return searched(folder, space, final="none")


def stopped_in_final_training(folder: Path, space: SearchSpace) -> Books:
    books = searched(folder, space)
    books.add_teacher("reference", 0.96)
    books.add_final("final", "trial0001", 0.85, 0.87, False)
    return books


def random_search(folder: Path, space: SearchSpace) -> Books:
    return finished(folder, space, sampler="random", baseline=False)


def as_in_the_paper(folder: Path, space: SearchSpace) -> Books:
    return finished(folder, space, final="paper")


STUDIES = [
    untrained, before_the_first_trial, running, one_trial, all_failed, only_faults_of_the_machine, search_only,
    stopped_in_final_training, random_search, as_in_the_paper, finished,
]  # fmt: skip
