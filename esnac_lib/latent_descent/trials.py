"""The trained architectures of a study: what is in its ledger, and how more come in.

Every architecture is trained shortly from several initialisations, by the ordinary evaluator, and the mean of the
validation accuracies stands for E_θ[a | A, D] (Eq. 4). What an architecture gets depends on the study's seed and on
itself alone: all see the same batches, and weights and dropout are drawn for (architecture, initialisation). So it
does not matter in which order and in which company it is trained, or in which run of the study.
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
from esnac_lib.latent_descent.sequence import Item, Items, SequenceSpace
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.training.evaluator import Evaluation, LocalEvaluator, Task

PURPOSE = "architecture"
"""What the random draws of these trainings are for."""


@dataclass(frozen=True)
class Labelled:
    """A trained architecture: what the codec learns from.

    source: "teacher", "random", "around" or "descent". accuracy: the mean over initialisations, a fraction; one that
    diverged counts as chance. f: against the teacher after the same short training.
    """

    trial: int
    source: str
    items: Items
    arch_id: str
    params: int
    macs: int
    accuracy: float
    f: float


class Trials:
    """The trials of one study.

    evaluator: trains students from initialisations of their own. chance: the accuracy of a guess, 1 / classes.
    """

    def __init__(
        self,
        ledger: Ledger,
        evaluator: LocalEvaluator,
        space: SequenceSpace,
        teacher: Architecture,
        initialisations: int,
    ) -> None:
        self.ledger, self.evaluator, self.space, self.teacher = ledger, evaluator, space, teacher
        self.initialisations = initialisations
        self.chance = 1 / space.num_classes

    # -- what is there -----------------------------------------------------------------------------------------------

    def labelled(self) -> list[Labelled]:
        """All trained architectures in the order of their trials; those that a fault of the machine stopped are left
        out."""
        return labelled(self.ledger, self.chance)

    def arch_ids(self) -> set[str]:
        """Of all trials, finished or not."""
        return set(self.ledger.trials()["arch_id"])

    def teacher_accuracy(self) -> float:
        """Of the teacher after the same short training. Raises TrainingError where that failed."""
        trials = self.ledger.trials()
        told = trials.loc[(trials["arch_id"] == self.teacher.arch_id) & trials["accuracy"].notna(), "accuracy"]
        if told.empty:
            raise TrainingError("the teacher could not be trained like a student: see the first trial's error")
        return float(told.iloc[0])

    # -- more of them ------------------------------------------------------------------------------------------------

    def record(self, sequences: Sequence[Items], notes: Sequence[Mapping[str, Any]], began: float) -> int:
        """Add sequences as the waiting trials of a new step, each with a note (its "source" among it).

        began: when proposing them began (time.perf_counter). Returns the step.
        """
        seconds = (time.perf_counter() - began) / max(1, len(sequences))
        rows = []
        for items, note in zip(sequences, notes, strict=True):
            is_teacher = note["source"] == "teacher"
            architecture = self.teacher if is_teacher else replace(self.space, max_macs=0).to_architecture(items)
            text = json.dumps(dict(note) | {"sequence": [list(item) for item in items]})
            shape = architecture.num_params, architecture.macs
            rows.append(
                ProposalRow(None, architecture.arch_id, *shape, text, architecture.to_json(), None, None, None, seconds)
            )
        steps = self.ledger.trials()["step"]
        step = int(steps.max()) + 1 if len(steps) else 0
        self.ledger.record(step, rows)
        return step

    def finish_open(self) -> None:
        """Train what an earlier run recorded and did not finish."""
        trials = self.ledger.trials()
        for step in sorted(set(trials.loc[trials["state"].isin(("waiting", "running")), "step"])):
            self.evaluate(int(step))

    def evaluate(self, step: int) -> None:
        """Train the open trials of a step side by side, and tell the ledger."""
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
            self._tell(trial, row, [by_key[task.key] for task in tasks[trial]])
        for key in by_key:  # final training starts afresh
            (self.evaluator.students / f"{key}.safetensors").unlink(missing_ok=True)

    def _tell(self, trial: int, row: ProposalRow, results: Sequence[Evaluation]) -> None:
        known = [result for result in results if not result.machine]
        errors = [result.error for result in results if result.error is not None]
        seconds = sum(result.seconds for result in results)
        accuracies = [self.chance if result.accuracy is None else result.accuracy for result in known]
        self.ledger.result("initialisations", row.arch_id, {"accuracies": accuracies, "errors": errors})
        if not known:
            self.ledger.fail(trial, errors[0], seconds, f=None)
        elif all(result.accuracy is None for result in known):
            self.ledger.fail(trial, errors[0], seconds)
        else:
            accuracy = fmean(accuracies)
            reference = accuracy if row.arch_id == self.teacher.arch_id else self.teacher_accuracy()
            student, teacher = Measurement(accuracy, row.params), Measurement(reference, self.teacher.num_params)
            f = PAPERS.value(student, teacher)
            self.ledger.complete(trial, accuracy, f, max(result.best_epoch for result in known), seconds)


def labelled(ledger: Ledger, chance: float) -> list[Labelled]:
    """The trained architectures that a ledger holds."""
    trials = ledger.trials()
    found = []
    for row in trials[trials["told_at"].notna() & trials["f"].notna()].to_dict("records"):
        note = json.loads(row["decisions"])
        accuracy = row["accuracy"] if row["state"] == "complete" else chance
        found.append(
            Labelled(
                row["trial"],
                note["source"],
                tuple(Item(*numbers) for numbers in note["sequence"]),
                row["arch_id"],
                row["params"],
                row["macs"],
                accuracy,
                row["f"],
            )
        )
    return found
