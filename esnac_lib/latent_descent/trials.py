"""Train architectures from several initialisations and record their mean validation accuracy in the ledger (Eq. 4).

A result depends on the study's seed and on the architecture alone, not on the order, the group or the run in which it
is trained: all see the same batches, and weights and dropout are drawn for (architecture, initialisation).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import TrainingError
from esnac_lib.latent_descent.examples import Example
from esnac_lib.latent_descent.sequence import Item, Items, SequenceSpace
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.training.evaluator import Evaluation, LocalEvaluator, Task

PURPOSE = "architecture"  # of the random draws of these trainings (`esnac_lib.seeding`)


@dataclass(frozen=True)
class TrainedArchitecture(Example):
    """A trained architecture, from which the codec learns.

    Its accuracy is the mean over initialisations, where one that diverged counts as chance.
    """

    accuracy: float
    trial: int
    source: str  # "teacher", "random", "around" or "descent"
    arch_id: str
    macs: int
    f: float  # relative to the teacher after the same short training


@dataclass(frozen=True, eq=False)
class Trials:
    """The trials of one study: each architecture is trained from `initialisations` (m of §5) random ones."""

    ledger: Ledger
    evaluator: LocalEvaluator
    space: SequenceSpace
    teacher: Architecture
    initialisations: int

    def trained(self) -> list[TrainedArchitecture]:
        """Return the trained architectures in the order of their trials, without those that a machine fault stopped."""
        trials = self.ledger.trials()
        finished = trials[trials["told_at"].notna() & trials["f"].notna()]
        return [self._trained(row) for row in finished.to_dict("records")]

    def _trained(self, row: Mapping[Any, Any]) -> TrainedArchitecture:
        note = json.loads(row["decisions"])
        items = tuple(Item(*numbers) for numbers in note["sequence"])
        accuracy = row["accuracy"] if row["state"] == "complete" else 1 / self.space.num_classes
        own = row["trial"], note["source"], row["arch_id"], row["macs"], row["f"]
        return TrainedArchitecture(items, row["params"], accuracy, *own)

    def arch_ids(self) -> set[str]:
        """Return the arch_ids of all trials, finished or not."""
        return set(self.ledger.trials()["arch_id"])

    def teacher_accuracy(self) -> float:
        """Return the teacher's accuracy after the same short training, or raise TrainingError if that failed."""
        trials = self.ledger.trials()
        own = trials.loc[(trials["arch_id"] == self.teacher.arch_id) & trials["accuracy"].notna(), "accuracy"]
        if own.empty:
            raise TrainingError("the teacher could not be trained like a student: see the first trial's error")
        return float(own.iloc[0])

    def record(self, sequences: Sequence[Items], notes: Sequence[Mapping[str, Any]], began: float) -> int:
        """Record sequences, proposed since `began` (time.perf_counter), as a new step's trials; return its number."""
        seconds, rows = (time.perf_counter() - began) / max(1, len(sequences)), []
        for items, note in zip(sequences, notes, strict=True):
            is_teacher = note["source"] == "teacher"
            architecture = self.teacher if is_teacher else replace(self.space, max_macs=0).to_architecture(items)
            text = json.dumps(dict(note) | {"sequence": [list(item) for item in items]})
            size, texts = (architecture.num_params, architecture.macs), (text, architecture.to_json())
            rows.append(ProposalRow(None, architecture.arch_id, *size, *texts, None, None, None, seconds))
        steps = self.ledger.trials()["step"]
        step = int(steps.max()) + 1 if len(steps) else 0
        self.ledger.record(step, rows)
        return step

    def finish_open(self) -> None:
        """Train the architectures that an earlier run recorded and did not finish."""
        trials = self.ledger.trials()
        for step in sorted(set(trials.loc[trials["state"].isin(("waiting", "running")), "step"])):
            self.evaluate(int(step))

    def evaluate(self, step: int) -> None:
        """Train the open trials of a step side by side, and record the results."""
        pending = self.ledger.pending(step)
        self.ledger.running(list(pending))
        tasks = {
            trial: [
                Task(f"{row.arch_id[:12]}-{number}", Architecture.from_json(row.architecture), number)
                for number in range(self.initialisations)
            ]
            for trial, row in pending.items()
        }
        trained = self.evaluator.evaluate([task for group in tasks.values() for task in group], PURPOSE, 0)
        by_key = {result.key: result for result in trained}
        for trial, row in pending.items():
            self._record_result(trial, row, [by_key[task.key] for task in tasks[trial]])
        for key in by_key:  # final training starts afresh
            (self.evaluator.students / f"{key}.safetensors").unlink(missing_ok=True)

    def _record_result(self, trial: int, row: ProposalRow, results: Sequence[Evaluation]) -> None:
        known = [result for result in results if not result.machine]
        errors = [result.error for result in results if result.error is not None]
        seconds = sum(result.seconds for result in results)
        chance = 1 / self.space.num_classes
        accuracies = [chance if result.accuracy is None else result.accuracy for result in known]
        self.ledger.result("initialisations", row.arch_id, {"accuracies": accuracies, "errors": errors})
        if not known:
            self.ledger.fail(trial, errors[0], seconds, f=None)
        elif all(result.accuracy is None for result in known):
            self.ledger.fail(trial, errors[0], seconds)
        else:
            accuracy = fmean(accuracies)
            reference = accuracy if row.arch_id == self.teacher.arch_id else self.teacher_accuracy()
            f = PAPERS.value(Measurement(accuracy, row.params), Measurement(reference, self.teacher.num_params))
            self.ledger.complete(trial, accuracy, f, max(result.best_epoch for result in known), seconds)
