"""One study as its ledger has it, frozen at the moment of reading.

    >>> record = read("digits")            # outputs/digits
    >>> record.solution.params, record.teacher.accuracy
    (15820, 0.986)

Tables and figures are made from such a record, never from the variables of a running study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

import pandas as pd

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.noise import is_near_chance, near_chance
from esnac_lib.data.registry import DATASETS
from esnac_lib.files import shown
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import OBJECTIVES, Measurement, Objective
from esnac_lib.report.statistics import Difference
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.space.decisions import Decisions

KINDS = ("teacher", "final", "full", "narrowed", "solution", "baseline", "shared", "pruned")  # of results in a ledger


@dataclass(frozen=True, eq=False)
class Measured:
    """A network of a study with what was measured of it."""

    params: int
    macs: int
    accuracy: float  # a fraction, on the test images (after final training) or the validation images (in the search)
    evaluated_on: Literal["test", "validation"]
    f: float  # against the teacher that was evaluated on the same images
    trial: int | None = None  # where the search found it
    architecture: Architecture | None = None
    arch_id: str | None = None
    out_of: int | None = None  # images that the accuracy is measured on; None where the ledger does not say
    chance: float | None = None  # of a teacher: the accuracy of always naming the commonest class

    @property
    def measurement(self) -> Measurement:
        """What an objective makes f from."""
        return Measurement(self.accuracy, self.params, self.macs)

    @property
    def guesses(self) -> str:
        """What must be said of a teacher that hardly beats guessing; empty for any other network."""
        if self.chance is None or self.out_of is None or not is_near_chance(self.accuracy, self.chance, self.out_of):
            return ""
        return near_chance("The teacher", self.accuracy, self.chance)

    def minus(self, other: Measured) -> Difference:
        """Return by how much this accuracy is above another's, on the same images."""
        return Difference.of(self.accuracy, other.accuracy, self.out_of)


@dataclass(frozen=True, eq=False)
class LedgerRecord:
    """What the ledger of one study says, a search or an Architecture Compression."""

    folder: Path
    config: Any
    trials: pd.DataFrame  # trials and epochs: as `Ledger` gives them
    epochs: pd.DataFrame
    results: dict[str, dict[str, dict[str, Any]]]  # by kind and name
    environment: dict[str, Any]  # device and versions, from environment.json; empty where there is none

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.study!r}: {self.status})"

    @property
    def status(self) -> str:
        """How far the study is, in words."""
        raise NotImplementedError

    @property
    def place(self) -> PurePath:
        """The study's folder as it is printed: from the working folder, or absolute."""
        return PurePath(shown(self.folder))

    @property
    def has_summary(self) -> bool:
        """Whether the study came to its end and wrote summary.json."""
        return (self.folder / "summary.json").exists()

    @property
    def test_images(self) -> int | None:
        """How many test images there are; None where neither the ledger nor the registry of data sets says it."""
        known = DATASETS.get(self.config.dataset)
        stored = self.results["teacher"].get("reference", {}).get("images")
        return stored or (known.test_images if known else None)

    @cached_property
    def observed(self) -> pd.DataFrame:
        """The trials that are finished, failed ones included."""
        return self.trials[self.trials["told_at"].notna()]

    @cached_property
    def complete(self) -> pd.DataFrame:
        """The trials that have an accuracy."""
        return self.trials[self.trials["state"] == "complete"]

    @cached_property
    def failed(self) -> pd.DataFrame:
        """The trials that diverged, or that a machine fault stopped."""
        return self.trials[self.trials["state"] == "failed"]


@dataclass(frozen=True, eq=False, repr=False)
class StudyRecord(LedgerRecord):
    """What the ledger of one search says."""

    config: StudyConfig

    @property
    def name(self) -> str:
        """The sampler's name in tables and legends."""
        return SAMPLERS[self.config.sampler].label

    @property
    def objective(self) -> Objective:
        """What f is."""
        return OBJECTIVES[self.config.objective]

    @property
    def status(self) -> str:
        """How far the study is, in words."""
        planned = max(len(self.observed), self.config.num_evaluations)  # `steps` may have become fewer
        text = f"{len(self.observed)} of {planned} architectures evaluated"
        text += f", {len(self.failed)} of them failed" if len(self.failed) else ""
        if self.is_final:
            return f"{text}; final training done"
        if self.solution is not None:
            return f"{text}; final training after {self.finished_after} of them, not final: the same command goes on"
        return f"{text}; no final {'training asked for' if self.config.final == 'none' else 'result yet'}"

    @cached_property
    def search_teacher(self) -> Measured | None:
        """The teacher that the students inherit from, with its validation accuracy."""
        return self._teacher("search", "validation")

    @cached_property
    def reference_teacher(self) -> Measured | None:
        """The teacher of the tables, with its test accuracy; None before the final training."""
        return self._teacher("reference", "test")

    @property
    def teacher(self) -> Measured | None:
        """The teacher to compare the student with: evaluated on the same images."""
        return self.search_teacher if self.solution is None else self.reference_teacher

    def _teacher(self, role: str, evaluated_on: Literal["test", "validation"]) -> Measured | None:
        found = self.results["teacher"].get(role)
        if found is None:
            return None
        architecture, known = Architecture.from_json(found["architecture"]), (found["params"], found["macs"])
        out_of = self.test_images if evaluated_on == "test" else self.config.validation
        chance = found.get("chance", 1 / architecture.output_shape[0])  # an older ledger does not say it
        own: dict[str, Any] = {"architecture": architecture, "out_of": out_of, "chance": chance}
        return Measured(*known, found["accuracy"], evaluated_on, 0.0, **own)

    @cached_property
    def solution(self) -> Measured | None:
        """The student of the final training, with its test accuracy; None before."""
        found = self.results["solution"].get("student")
        if found is None:
            return None
        trial = trial_of(found["student"])
        return self._final(found, trial, self.architecture(trial))

    @cached_property
    def narrowed(self) -> Measured | None:
        """The teacher with every width scaled by one factor to the solution's size, trained like it."""
        found, solution = self.results["baseline"].get("narrowed"), self.results["solution"].get("student")
        if found is None or (solution and found.get("of", solution["student"]) != solution["student"]):
            return None  # there is none, or only that of an earlier solution
        stored = self.results["narrowed"].get(found["student"])
        return self._final(found, None, Architecture.from_json(stored["architecture"]) if stored else None)

    def _final(self, found: dict[str, Any], trial: int | None, architecture: Architecture | None) -> Measured:
        """Return an entry of the summary. The paper's form of final training counts the best test epoch."""
        params, macs, accuracy = found["params"], found["macs"], found[self._counted]
        own = trial, architecture, found["arch_id"], self.test_images
        return Measured(params, macs, accuracy, "test", found["f"], *own)

    @property
    def narrowed_is_solution(self) -> bool:
        """Whether the solution is the narrowed teacher itself, so that there is nothing to compare it with."""
        solution, narrowed = self.solution, self.narrowed
        return solution is not None and narrowed is not None and solution.arch_id == narrowed.arch_id

    @property
    def finished_after(self) -> int | None:
        """Of how many evaluated architectures the solution is the best; None without one, or where it is not said."""
        return self.results["solution"].get("student", {}).get("evaluations")

    @property
    def is_final(self) -> bool:
        """Whether the solution is that of the whole search: nothing was left to evaluate, and nothing was since."""
        found = self.results["solution"].get("student")
        return found is not None and is_last(found, len(self.observed), self.config.num_evaluations)

    @property
    def _counted(self) -> str:
        return "best_epoch_accuracy" if self.config.final == "paper" else "accuracy"

    @cached_property
    def best(self) -> Measured | None:
        """The trial of highest search f (of equals the earlier), with its validation accuracy."""
        if self.complete.empty:
            return None
        row = self.complete.sort_values(["f", "trial"], ascending=[False, True]).iloc[0]
        accuracy, f, trial = float(row["accuracy"]), float(row["f"]), int(row["trial"])
        own = trial, Architecture.from_json(row["architecture"]), row["arch_id"], self.config.validation
        return Measured(int(row["params"]), int(row["macs"]), accuracy, "validation", f, *own)

    @property
    def student(self) -> Measured | None:
        """The study's student: its solution, or before that the best of the search."""
        return self.solution or self.best

    def decisions(self, trial: int) -> Decisions:
        """Return what was decided about the teacher for a trial."""
        return Decisions.from_json(self._of_trial(trial, "decisions"))

    def architecture(self, trial: int) -> Architecture:
        """Return the architecture of a trial."""
        return Architecture.from_json(self._of_trial(trial, "architecture"))

    def _of_trial(self, trial: int, column: str) -> str:
        return str(self.trials.loc[self.trials["trial"] == trial, column].iloc[0])

    @cached_property
    def finalists(self) -> pd.DataFrame:
        """trial, search_f, final_f, accuracy, evaluated_on: one line a student in final training, by trial.

        final_f: against the teacher that was evaluated on the same images; in the `paper` form of the best test epoch.
        A single student is trained on all images only, and evaluated there.
        """
        full = self.config.final == "paper" or not self.results["final"]
        teacher, kind = (self.reference_teacher, "full") if full else (self.search_teacher, "final")
        search_f = dict(zip(self.trials["trial"], self.trials["f"], strict=True))
        rows = []
        for key, result in sorted(self.results[kind].items()):
            if key.startswith("trial") and teacher is not None:
                trial, accuracy = trial_of(key), result[self._counted]
                student = Measurement(accuracy, result["params"], result["macs"])
                f = self.objective.value(student, teacher.measurement)
                rows.append((trial, search_f[trial], f, accuracy, teacher.evaluated_on))
        return pd.DataFrame(rows, columns=["trial", "search_f", "final_f", "accuracy", "evaluated_on"])


def read(study: str | Path) -> StudyRecord:
    """Read a study by its name, its folder, or its ledger's path. Raises LedgerError where there is no ledger."""
    return record_of(Ledger(ledger_path(study), read_only=True))


def ledger_path(study: str | Path) -> Path:
    """Return the path of the ledger of a study, given by its name, its folder, or its ledger's path."""
    path = Path(study)
    if isinstance(study, str) and path.suffix != ".sqlite" and (path.name == study or (outputs_root() / path).is_dir()):
        path = outputs_root() / path
    return path if path.suffix == ".sqlite" else path / "ledger.sqlite"


def record_of(ledger: Ledger) -> StudyRecord:
    """Return what an open ledger says at this moment."""
    # results first: in a running study, what they refer to was recorded before them
    results = {kind: ledger.results(kind) for kind in KINDS}
    config, folder = StudyConfig.from_stored(ledger.config), ledger.path.resolve().parent
    return StudyRecord(folder, config, ledger.trials(), ledger.epochs(), results, read_environment(folder))


def is_last(solution: Mapping[str, Any], observed: int, planned: int) -> bool:
    """Return whether a stored solution is that of the whole search; one that does not say of how many it is, is."""
    count = solution.get("evaluations")
    return count is None or (count == observed and (count >= planned or solution["ended"] == "exhausted"))


def trial_of(key: str) -> int:
    """Return the trial's number from the name of its student in files and curves.

    >>> trial_of("trial0012")
    12
    """
    return int(key.removeprefix("trial"))


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what a study's environment.json says; nothing where there is none."""
    try:
        return dict(json.loads((folder / "environment.json").read_text()))
    except (OSError, ValueError):
        return {}
