"""Evaluating students: architectures in, validation accuracies out. Here: in this process.

An evaluator trains the students of a step as the search does (SPEC §1): from the search teacher's weights, distilled,
side by side. It knows nothing of the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esnac_lib.architecture import Architecture
from esnac_lib.errors import EsnacError, TrainingError
from esnac_lib.network import Network, build, inherit
from esnac_lib.randomness import derive_seed
from esnac_lib.study_data import StudyData
from esnac_lib.teachers import fresh_network
from esnac_lib.trained_teacher import TrainedTeacher
from esnac_lib.trainer import Outcome, Recipe, Trainee, clear_checkpoint, train
from esnac_lib.watch import NOBODY, Watch
from esnac_lib.weights import save_weights

RETRIES = 2  # of a student that met a fault of the machine


@dataclass(frozen=True)
class Task:
    """A student to evaluate; `key` names it in files and curves.

    initialisation: None for a student that starts from the teacher's weights; a number for one that starts from
    weights drawn afresh for this number.
    """

    key: str
    architecture: Architecture
    initialisation: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What became of a student.

    accuracy: validation accuracy of its best epoch, a fraction; None if it failed. machine: it failed by a fault of
    the machine (out of memory), also when tried again, and says nothing about the architecture. seconds: its share of
    the group's time.
    """

    key: str
    accuracy: float | None
    best_epoch: int
    error: str | None
    machine: bool
    seconds: float


class LocalEvaluator:
    """Trains students in this process, and writes the weights of their best epochs to `students`.

    teacher: whom students inherit from and, if the recipe says so, whose logits they learn; None where every task has
    an initialisation of its own.
    """

    def __init__(
        self,
        teacher: TrainedTeacher | None,
        data: StudyData,
        recipe: Recipe,
        seed: int,
        students: Path,
        watch: Watch = NOBODY,
    ) -> None:
        self.teacher = teacher
        self.data = data
        self.recipe = recipe
        self.seed = seed
        self.students = students
        self.watch = watch
        self._teacher_network = teacher.network() if teacher and recipe.loss == "distillation" else None

    def evaluate(self, tasks: Sequence[Task], purpose: str, index: int) -> list[Evaluation]:
        """Train the students of one step side by side; one that a fault of the machine stopped is tried again alone.

        purpose, index: name the step, and with the seed every random draw in it.
        """
        results: dict[str, Evaluation] = {}
        networks: dict[str, Network] = {}
        for task in tasks:
            try:
                networks[task.key] = self._student(task)
            except (EsnacError, RuntimeError) as error:
                results[task.key] = Evaluation(task.key, None, 0, f"cannot be built: {_one_line(error)}", False, 0.0)
        outcomes = self._train(networks, purpose, index) if networks else {}
        for task in tasks:
            if task.key in networks:
                outcome, network = outcomes[task.key], networks[task.key]
                for _ in range(RETRIES):
                    if not outcome.retry:
                        break
                    clear_checkpoint(self.students / "checkpoint")
                    network = self._student(task)
                    outcome = self._train({task.key: network}, purpose, index)[task.key]
                results[task.key] = self._record(outcome, network)
        clear_checkpoint(self.students / "checkpoint")
        return [results[task.key] for task in tasks]

    def _student(self, task: Task) -> Network:
        architecture = task.architecture
        if task.initialisation is not None:
            return fresh_network(architecture, derive_seed(self.seed, "initialisation", task.initialisation))
        if self.teacher is None:
            raise TrainingError(f"{task.key} cannot inherit: there is no teacher; give it an initialisation")
        return build(architecture, inherit(self.teacher.weights, architecture))

    def _train(self, networks: dict[str, Network], purpose: str, index: int) -> dict[str, Outcome]:
        return train(
            [Trainee(key, network) for key, network in networks.items()],
            self.data.search,
            self.data.validation,
            self.recipe,
            seed=self.seed,
            purpose=purpose,
            index=index,
            device=self.data.device,
            teacher=self._teacher_network,
            checkpoint=self.students / "checkpoint",
            watch=self.watch,
        )

    def _record(self, outcome: Outcome, network: Network) -> Evaluation:
        if outcome.state == "complete":
            network.cpu().load_state_dict(outcome.best_weights)
            save_weights(self.students / f"{outcome.key}.safetensors", network.weights())
        return Evaluation(
            outcome.key, outcome.best_accuracy, outcome.best_epoch, outcome.error, outcome.retry, outcome.seconds
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
