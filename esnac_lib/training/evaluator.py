"""Evaluating students: architectures in, validation accuracies out. Here: in this process.

An evaluator trains the students of a step together, from the search teacher's weights and by distillation (ESNAC §3.3,
Algorithm 1). It knows nothing of the search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.initialisation import fresh_network
from esnac_lib.architecture.network import Network, Weights, build, inherit
from esnac_lib.errors import EsnacError, TrainingError, one_line
from esnac_lib.files import save_weights
from esnac_lib.seeding import derive_seed
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks
from esnac_lib.training.checkpoints import clear_checkpoint
from esnac_lib.training.job import Images, Outcome, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import train_with_retries
from esnac_lib.training.teacher import TrainedTeacher
from esnac_lib.training.trainer import train


@dataclass(frozen=True)
class Task:
    """A student to evaluate; `key` names it in files and curves."""

    key: str
    architecture: Architecture
    initialisation: int | None = None  # None: it starts from the teacher's weights; else from weights drawn for this


@dataclass(frozen=True)
class Evaluation:
    """What became of a student."""

    key: str
    accuracy: float | None  # validation accuracy of its best epoch, a fraction; None if it failed
    best_epoch: int
    error: str | None
    machine: bool  # a fault of the machine, also when tried again: it says nothing about the architecture
    seconds: float  # its share of the group's time


class Evaluator(Protocol):
    """What a study asks of an evaluator. `contextlib.closing` closes one."""

    def evaluate(self, tasks: Sequence[Task], purpose: str, index: int) -> Generator[Evaluation, None, None]:
        """Yield what became of each task, in the order in which they end, once the weights of its student are stored.

        A student becomes the same wherever and in whatever group it is trained: every draw comes from the study's
        seed, `purpose` and `index`.
        """

    def close(self) -> None:
        """Release what was held between two calls."""


class SearchData(Protocol):
    """What students of a search learn from and are evaluated on; `StudyData` is one."""

    @property
    def device(self) -> str:
        """The device to train on."""

    @property
    def search(self) -> Images:
        """The images that students learn from."""

    @property
    def validation(self) -> Images:
        """The images that students are evaluated on."""


class LocalEvaluator:
    """Trains students in this process, and writes the weights of their best epochs to `students`.

    They inherit from the teacher and, if the recipe says so, learn its logits; it is None where every task has an
    initialisation of its own. `time_limit` is the seconds that one student may take, each time it is tried.
    """

    def __init__(
        self,
        teacher: TrainedTeacher | None,
        data: SearchData,
        recipe: Recipe,
        seed: int,
        students: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        *,
        time_limit: float = math.inf,
    ) -> None:
        self.teacher, self.data, self.recipe, self.seed = teacher, data, recipe, seed
        self.students, self.callbacks, self.time_limit = students, callbacks, time_limit
        self._teacher_network = teacher.network() if teacher and recipe.loss == "distillation" else None

    def evaluate(self, tasks: Sequence[Task], purpose: str, index: int) -> Generator[Evaluation, None, None]:
        """Train the students of one step together, in smaller groups where memory runs out."""
        checkpoint = self.students / "checkpoint"
        for evaluation, weights in self.trained(tasks, purpose, index, checkpoint):
            if weights:
                save_weights(self.students / f"{evaluation.key}.safetensors", weights)
            yield evaluation
        clear_checkpoint(checkpoint)

    def trained(
        self, tasks: Sequence[Task], purpose: str, index: int, checkpoint: Path | None = None
    ) -> Iterator[tuple[Evaluation, Weights]]:
        """Yield what became of each task, with the weights of its best epoch (none if it failed); write no weights."""
        networks: dict[str, Callable[[], Network]] = {}
        for task in tasks:
            try:
                networks[task.key] = _NetworkFactory(partial(self._network, task))
            except (EsnacError, RuntimeError) as error:
                yield Evaluation(task.key, None, 0, f"cannot be built: {one_line(error)}", False, 0.0), {}
        if not networks:
            return
        draws: dict[str, Any] = {"seed": self.seed, "purpose": purpose, "index": index}
        place: dict[str, Any] = {"device": self.data.device, "checkpoint": checkpoint, "time_limit": self.time_limit}
        others: dict[str, Any] = {"teacher": self._teacher_network, "callbacks": self.callbacks}
        job = TrainingJob(self.data.search, self.data.validation, self.recipe, **draws, **place, **others)
        for outcome, network in train_with_retries(networks, partial(train, job=job)):
            yield _evaluation(outcome), _best_weights(outcome, network)

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def _network(self, task: Task) -> Network:
        architecture = task.architecture
        if task.initialisation is not None:
            return fresh_network(architecture, derive_seed(self.seed, "initialisation", task.initialisation))
        if self.teacher is None:
            raise TrainingError(f"{task.key} cannot inherit: there is no teacher; give it an initialisation")
        return build(architecture, inherit(self.teacher.weights, architecture))


class _NetworkFactory:
    """Makes the same network at each call; the first one at once, so that what cannot be built fails here."""

    def __init__(self, make: Callable[[], Network]) -> None:
        self._make = make
        self._first: Network | None = make()

    def __call__(self) -> Network:
        network, self._first = self._first, None
        return network or self._make()


def _evaluation(end: Outcome) -> Evaluation:
    return Evaluation(end.key, end.best_accuracy, end.best_epoch, end.error, end.retry, end.seconds)


def _best_weights(outcome: Outcome, network: Network) -> Weights:
    if outcome.state == "failed":
        return {}
    network.cpu().load_state_dict(outcome.best_weights)
    return network.weights()
