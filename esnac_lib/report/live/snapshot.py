"""What a ledger says about a study at one moment, and in words: how far it is, how long it takes, what it has found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from esnac_lib.ledger.file import sidecar
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import Measurement
from esnac_lib.report.records.study import StudyRecord, record_of, trial_of
from esnac_lib.training.progress import duration

State = Literal["running", "finishing", "stopping", "stopped", "finished"]

PHASES = {  # phase: (what it is, the parameter that has its number of epochs), in the order of a study
    "search-teacher": ("training the search teacher", "teacher_epochs"),
    "search": ("searching", "epochs"),
    "reference-teacher": ("training the reference teacher", "teacher_epochs"),
    "final": ("final training", "final_epochs"),
    "full": ("final training on all images", "final_epochs"),
    "baseline": ("search training of the narrowed teacher", "epochs"),
}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A study at one moment."""

    record: StudyRecord  # all that its ledger says
    writer: int | None  # the process that works on it, None where there is none
    stop_requested: bool
    latest: tuple[str, str, int] | None  # (phase, name, epoch) that was stored last
    finish_requested: bool = False
    seconds_left: float | None = None  # of the whole study, as the process that works on it estimates them

    @property
    def state(self) -> State:
        """Whether somebody works on it, and if not, whether it came to its end."""
        if self.writer is not None:
            return "stopping" if self.stop_requested else "finishing" if self.finish_requested else "running"
        return "finished" if _summarised(self.record) == len(self.record.observed) else "stopped"

    @property
    def phase(self) -> str | None:
        """What is in training, or was last. None before any training."""
        if (self.record.trials["state"] == "running").any():
            return "search"
        if self.state == "finished" and "full" in set(self.record.epochs["phase"]):
            return "full"
        return self.latest[0] if self.latest else None

    @property
    def doing(self) -> str:
        """The phase in words."""
        return PHASES.get(self.phase or "", (self.phase or "starting", ""))[0]

    @property
    def epochs_in_all(self) -> int | None:
        """Epochs of a training of this phase."""
        known = PHASES.get(self.phase or "")
        return int(getattr(self.record.config, known[1])) if known else None

    @cached_property
    def running(self) -> pd.DataFrame:
        """The epochs so far of the trainings that have not ended: phase, name, epoch, loss, accuracy, seconds."""
        epochs, trials = self._epochs_of_phase, self.record.trials
        if self.state == "finished":
            return epochs.iloc[:0]
        if self.phase == "search":
            return epochs[epochs["name"].map(trial_of).isin(trials.loc[trials["state"] == "running", "trial"])]
        last = epochs.groupby("name")["epoch"].transform("max")
        epochs, last = epochs[last < (self.epochs_in_all or 0)], last[last < (self.epochs_in_all or 0)]
        return epochs[last >= last.max() - 1]  # trained together: one that lags by more than an epoch has failed

    @cached_property
    def ended(self) -> pd.DataFrame:
        """The epochs of the trainings that ended last, like `running`: of a step of the search, or of a phase."""
        epochs, observed = self._epochs_of_phase, self.record.observed
        if self.phase != "search":
            return epochs
        latest = observed.loc[observed["step"] == observed["step"].max(), "trial"]
        return epochs[epochs["name"].map(trial_of).isin(latest)]

    @property
    def _epochs_of_phase(self) -> pd.DataFrame:
        return self.record.epochs[self.record.epochs["phase"] == self.phase]

    @property
    def status(self) -> str:
        """How far the study is, in a line."""
        observed = len(self.record.observed)
        planned = max(observed, self.record.config.num_evaluations)
        words = [self.state, f"{observed} of {planned} evaluated"]
        if failed := len(self.record.failed):
            words.append(f"{failed} failed")
        if self.state in ("finished", "stopped"):
            done = self.state == "finished" and (observed == planned or self.record.is_final)
            return ", ".join(words) + "; the same command goes on" * (not done)
        epoch = f" (epoch {self.running['epoch'].max() + 1} of {self.epochs_in_all})"
        words.append(self.doing + ("" if self.running.empty or not self.epochs_in_all else epoch))
        if self.seconds_left is not None:
            words.append(f"{duration(self.seconds_left)} left in all")
        return ", ".join(words)

    @property
    def found(self) -> str:
        """The solution, or the best student so far, in a line."""
        record, student = self.record, self.record.student
        if student is None or record.teacher is None:
            return "no student evaluated yet"
        which = "best so far" if record.solution is None else "solution" if record.is_final else "solution so far"
        return f"{which}: {self.describe(student.trial)}" if student.trial is not None else which

    def describe(self, trial: int) -> str:
        """One trial in a line."""
        [row] = self.record.trials[self.record.trials["trial"] == trial].to_dict("records")
        teacher, solution, objective = self.record.search_teacher, self.record.solution, self.record.objective
        own = objective.size(Measurement(row["accuracy"], row["params"], row["macs"]))
        size = f"{own:,.0f} {objective.label}"
        if teacher is not None:
            size += f", {objective.size(teacher.measurement) / own:.1f} times fewer"
        if row["state"] == "complete":
            text = f"trial {trial}, f {row['f']:.4f}, {row['accuracy']:.2%} validation accuracy, {size}"
        else:
            failed = row["state"] == "failed"
            text = f"trial {trial}, {size}, " + (f"failed: {row['error']}" if failed else str(row["state"]))
        if solution is not None and solution.trial == trial:
            text += f"; {solution.accuracy:.2%} test accuracy after final training"
        return text


class Reader:
    """Reads one ledger repeatedly. A look between two changes of the files costs next to nothing."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path, read_only=True)
        self._seen: Any = None

    def changed(self) -> bool:
        """Whether anything was written, or the writer came or went, since the last `read`."""
        return self._now() != self._seen

    def read(self) -> Snapshot:
        """Return the study as it is now. Raises LedgerError when the ledger is gone or damaged."""
        self._seen, ledger = self._now(), self.ledger
        record, stop, latest = record_of(ledger), ledger.stop_requested(), ledger.latest_epoch()
        return Snapshot(record, ledger.writer(), stop, latest, ledger.finish_requested(), ledger.left())

    def _now(self) -> list[Any]:
        path = self.ledger.path
        files = (path, sidecar(path, "-wal"), sidecar(path, ".lock"), path.with_name("summary.json"))
        return [self.ledger.writer(), *map(_stamp, files)]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _summarised(record: StudyRecord) -> int | None:
    """Return the evaluations in the study's summary; None without one. The study may have grown since."""
    try:
        return int(json.loads((record.folder / "summary.json").read_text())["evaluations"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
