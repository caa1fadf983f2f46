"""Evaluating students on a Ray cluster: behind the protocol of `evaluator`, with the results of a single process.

Each student is a task with its share of a GPU, or a core of its own where there is none. Images and teacher are put
into Ray's object store once, and each node fetches them once. The epochs of a student arrive as they end. A worker
that dies or a node that leaves costs its students a new start elsewhere; a student that runs out of memory gets a
whole GPU. What Ray carries is plain data: arrays, numbers and JSON texts. On CPUs a student ends with the same bits as
in this process, if this process uses one thread too: Ray gives one to a task.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch

from esnac_lib.architecture.graph import Architecture
from esnac_lib.data.batches import DeviceData
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError, one_line
from esnac_lib.files import save_weights
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks, EpochResult, TrainingStopped
from esnac_lib.training.evaluator import Evaluation, LocalEvaluator, Task
from esnac_lib.training.faults import TimeLimitError
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import RETRIES
from esnac_lib.training.teacher import TrainedTeacher

POLL = 0.5  # seconds between two questions whether to stop


def check_ray() -> None:
    """Raise ConfigError unless Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("evaluator = 'ray': Ray is not installed; pip install 'esnac_lib[ray]', or give 'local'")


def check_portable(teacher: Architecture) -> None:
    """Raise ConfigError if other machines could not run this teacher or its students."""
    if opaque := [layer.name for layer in teacher.layers if layer.kind == "opaque"]:
        own = f"the teacher's layer {opaque[0]!r} is run by your own code (opaque)"
        raise ConfigError(f"evaluator = 'ray': {own}, which the workers of a cluster do not have; give 'local'")


@dataclass(frozen=True)
class Cluster:
    """Where a Ray cluster is, and what of it a study takes."""

    address: str = ""  # "auto": the cluster that this machine belongs to; empty: start one on this machine
    students_per_gpu: int = 4
    device: str = "auto"  # "cpu" leaves the cluster's GPUs alone


@dataclass
class _Run:
    """A student in training."""

    task: Task
    epochs: int = 0  # that it has reported
    faults: int = 0  # of the machine, that stopped it


class RayEvaluator:
    """Trains students in the workers of a Ray cluster, and writes the weights of their best epochs to `students`.

    A Ray that this process is connected to already is used, and left as it is; one that was started here ends with
    `close`. Raises ConfigError, one line, if no cluster answers.
    """

    def __init__(
        self,
        teacher: TrainedTeacher,
        data: StudyData,
        recipe: Recipe,
        seed: int,
        students: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        cluster: Cluster = Cluster(),
        *,
        time_limit: float = math.inf,
    ) -> None:
        check_ray()
        import ray

        self.students, self.callbacks, self.epochs = students, callbacks, recipe.epochs
        self._ray, self._owner = ray, not ray.is_initialized()
        if self._owner:
            _connect(ray, cluster.address)
        self._gpus = ray.cluster_resources().get("GPU", 0) > 0 and cluster.device != "cpu"
        # Ray counts in ten-thousandths: the shares of a GPU must not add up to more than it.
        self._share = 10_000 // cluster.students_per_gpu / 10_000 if self._gpus else 0
        self._train: Any = ray.remote(num_returns="streaming", max_retries=0)(_train_student)
        weights = {name: tensor.cpu().numpy() for name, tensor in teacher.weights.items()}
        shared: dict[str, Any] = {"teacher": teacher.architecture.to_json(), "weights": weights}
        shared |= {part: data.plain(part) for part in ("search", "validation")}
        shared |= {"recipe": asdict(recipe), "seed": seed}
        self._shared = ray.put(shared | {"device": "cuda" if self._gpus else "cpu", "time_limit": time_limit})

    def evaluate(self, tasks: Sequence[Task], purpose: str, index: int) -> Generator[Evaluation, None, None]:
        """Train the students of one step on whatever workers are free; the first to end is yielded first."""
        runs = {self._start(task, purpose, index): _Run(task) for task in tasks}
        asked = -POLL
        try:
            while runs:
                if time.monotonic() - asked >= POLL:
                    asked = time.monotonic()
                    if self.callbacks.should_stop():
                        raise TrainingStopped("the training was asked to stop")
                for stream in self._ray.wait(list(runs), timeout=POLL)[0]:
                    run = runs[stream]
                    result = self._receive(stream, run)
                    left = sum(self.epochs - run.epochs for run in runs.values())
                    self.callbacks.on_batch(self.epochs * len(tasks) - left, self.epochs * len(tasks))
                    if result is None:
                        continue
                    del runs[stream]
                    if result.machine and run.faults < RETRIES:
                        runs[self._start(run.task, purpose, index, alone=True)] = _Run(run.task, 0, run.faults + 1)
                    else:
                        yield result
        finally:
            for stream in runs:
                self._ray.cancel(stream, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was started here stops, with all its processes."""
        if self._owner:
            self._ray.shutdown()

    def _start(self, task: Task, purpose: str, index: int, alone: bool = False) -> Any:
        """Start a student; return the stream of its messages. One that failed before gets a GPU `alone`."""
        train = self._train.options(num_cpus=1, num_gpus=1 if alone and self._gpus else self._share)
        return train.remote(self._shared, task.key, task.architecture.to_json(), purpose, index)

    def _receive(self, stream: Any, run: _Run) -> Evaluation | None:
        """Receive a student's next message: pass an epoch on, return its end."""
        try:
            message = self._ray.get(next(stream))
        except self._ray.exceptions.RayTaskError:  # a mistake in this library, no fault of a machine
            raise
        except self._ray.exceptions.RayError as error:
            return Evaluation(run.task.key, None, 0, f"its worker was lost: {one_line(error)}", True, 0.0)
        if "epoch" in message:
            run.epochs += 1
            self.callbacks.on_epoch(run.task.key, EpochResult(**message["epoch"]))
            return None
        run.epochs = self.epochs
        if message["weights"]:
            save_weights(self.students / f"{run.task.key}.safetensors", _tensors(message["weights"]))
        return Evaluation(**message["evaluation"])


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    plain = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if not address:
            ray.init(include_dashboard=False, **plain)
        else:
            package = str(Path(__file__).resolve().parents[1])  # so that all nodes run this version
            ray.init(address=address, runtime_env={"py_modules": [package]}, **plain)
    except Exception as error:  # Ray has many kinds for this
        ray.shutdown()
        where = "no Ray cluster answers" if address else "Ray could not be started on this machine"
        advice = "start one with `ray start --head`, or leave the address empty" if address else "try again"
        raise ConfigError(f"ray_address = {address!r}: {where} ({one_line(error)}); {advice}") from None


@dataclass(frozen=True)
class _WorkerData:
    search: DeviceData
    validation: DeviceData
    device: str


def _train_student(
    shared: Mapping[str, Any], key: str, architecture: str, purpose: str, index: int
) -> Iterator[dict[str, Any]]:
    """In a worker: yield the epochs of one student as they end, then what became of it, with its weights."""
    messages: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()

    def work() -> None:
        try:
            evaluator = _evaluator(shared, Callbacks(lambda key, result: messages.put({"epoch": asdict(result)})))
            task = Task(key, Architecture.from_json(architecture))
            [(evaluation, weights)] = evaluator.trained([task], purpose, index)
            arrays = {name: tensor.numpy() for name, tensor in weights.items()}
            messages.put({"evaluation": asdict(evaluation), "weights": arrays})
        except BaseException as error:
            messages.put(error)

    Thread(target=work, daemon=True).start()
    ends = time.monotonic() + (limit := shared["time_limit"])
    while True:
        try:
            message = messages.get(timeout=None if limit == math.inf else max(0.0, ends - time.monotonic()))
        except Empty:
            late = TimeLimitError(f"the training of {key} took longer than it may")
            yield {"evaluation": asdict(Evaluation(key, None, 0, one_line(late), True, limit)), "weights": {}}
            os._exit(1)  # the thread hangs, and no signal reaches it
        if isinstance(message, BaseException):
            raise message
        yield message
        if "evaluation" in message:
            return


def _evaluator(shared: Mapping[str, Any], callbacks: Callbacks) -> LocalEvaluator:
    device = shared["device"]
    search, validation = (DeviceData(**shared[part], device=device) for part in ("search", "validation"))
    architecture = Architecture.from_json(shared["teacher"])
    teacher = TrainedTeacher("search", architecture, _tensors(shared["weights"]), float("nan"), ())
    recipe = Recipe(**shared["recipe"])
    return LocalEvaluator(teacher, _WorkerData(search, validation, device), recipe, shared["seed"], Path(), callbacks)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return copies: what Ray hands over is shared and must not be written to."""
    return {name: torch.tensor(array) for name, array in arrays.items()}
