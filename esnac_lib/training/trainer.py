"""One training loop for teachers, for the students of a search step and for final training.

The K students of a step (ESNAC Algorithm 1) are trained together: each batch is made once, and the teacher's logits
for it are computed once. What a trainee sees and becomes still depends on no other trainee: the batches of an epoch
come from (seed, purpose, index, epoch), its dropout from (seed, purpose, key, index, epoch), and it works on a copy of
the batch. So a student trained alone ends with the same bits on a CPU, and one that fails leaves no trace.

On CUDA the images lie on the device as bytes, forward passes are in bfloat16, steps are replayed and trainees share the
device (`cuda_graphs`), and within an epoch nothing waits for a result: losses and hits add up on the device.

Channels-last memory is used on the CPU too. Three convolutions with batch norm and ReLU on 28×28, batch 128, one
core, seconds a step: 0.035 against 0.043 (8 filters), 0.25 against 0.29 (32 filters).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from esnac_lib.errors import TrainingError, one_line
from esnac_lib.seeding import make_generator
from esnac_lib.training.callbacks import TrainingStopped
from esnac_lib.training.checkpoints import CheckpointSchedule
from esnac_lib.training.cuda_graphs import Batch, BatchBuffer, Stream, capture_on, captured
from esnac_lib.training.device import compute_logits, device_settings
from esnac_lib.training.faults import is_machine_fault
from esnac_lib.training.job import Images, Outcome, Trainee, TrainingJob
from esnac_lib.training.training_run import TrainingRun

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STOP_EVERY = 0.5  # seconds between two questions whether to stop within an epoch


def train(trainees: Sequence[Trainee], job: TrainingJob) -> dict[str, Outcome]:
    """Train a group on the same batches, and return what became of each by its key.

    A trainee that diverges or raises leaves the group as failed, and the others go on. With a checkpoint folder the
    same call continues a training that was killed, to the same bits on a CPU; give the trainees with the weights they
    started from, then too. `clear_checkpoint` deletes the files. Raises TrainingError for keys that are no file names
    or not unique, and TrainingStopped where a callback asks to stop.
    """
    keys = [trainee.key for trainee in trainees]
    if bad := [key for key in keys if not _KEY.fullmatch(key) or keys.count(key) > 1]:
        raise TrainingError(f"key {bad[0]!r} must be unique, and made of letters, digits, '.', '_' and '-'")
    with device_settings(torch.device(job.device)):
        group, schedule = _Group(job), CheckpointSchedule()
        runs = [TrainingRun(trainee, job) for trainee in trainees]
        for run in runs:
            run.attempt(run.start)
            for result in run.curve:
                job.callbacks.on_epoch(run.key, result)
        for epoch in range(1, job.recipe.epochs + 1):
            active = [run for run in runs if run.error is None and len(run.curve) == epoch - 1]
            if active:
                seconds, fault = group.train_epoch(active, epoch)
                due = job.checkpoint is not None and schedule.due()
                for run in active:
                    run.end_epoch(epoch, seconds, fault)
                    if run.error is None:
                        job.callbacks.on_epoch(run.key, run.curve[-1])
                    if due:
                        with schedule:
                            run.save()
        return {run.key: run.outcome() for run in runs}


def evaluate(network: nn.Module, data: Images, *, batch_size: int = 256, device: str | torch.device = "cpu") -> float:
    """Return the accuracy of `network` on `data`, in [0, 1]. The network is moved to `device`; its mode is kept."""
    if len(data) == 0:
        raise TrainingError("the data set to evaluate on is empty; give at least one image")
    buffer = BatchBuffer(torch.device(device))
    network.to(buffer.device).to(memory_format=torch.channels_last)
    mode = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=buffer.device)
    try:
        with torch.inference_mode():
            for batch in (buffer.load(x, y) for x, y in data.evaluation_batches(batch_size)):
                correct += (compute_logits(network, batch.x).argmax(1) == batch.y).sum()
    finally:
        network.train(mode)
    return int(correct) / len(data)


class _Group:
    """What trainees share: the batches, the teacher's logits for them (distillation targets), the callbacks."""

    def __init__(self, job: TrainingJob) -> None:
        device, teacher = torch.device(job.device), job.teacher
        capture = capture_on(device)
        self._job, self._asked = job, -math.inf
        self._training_buffer, self._evaluation_buffer = BatchBuffer(device, capture is not None), BatchBuffer(device)
        self._teacher_stream = Stream(device)
        self._set_targets: Callable[[Batch], None] | None = None
        if teacher is not None:
            teacher.to(device).to(memory_format=torch.channels_last).eval()
            self._set_targets = captured(partial(_set_distillation_targets, teacher), teacher, capture, "the teacher")

    def train_epoch(self, active: list[TrainingRun], epoch: int) -> tuple[float, str | None]:
        """Train and evaluate for one epoch; return the seconds of each, and the machine's fault in what is shared."""
        self._check_stop(at_once=True)
        began, fault = time.perf_counter(), None
        try:
            self._train(active, epoch)
            self._evaluate(active, epoch)
        except Exception as error:
            if not is_machine_fault(error):
                raise
            fault = one_line(error)
        return (time.perf_counter() - began) / len(active), fault

    def _train(self, active: list[TrainingRun], epoch: int) -> None:
        job, recipe = self._job, self._job.recipe
        for run in active:
            run.attempt(run.begin_epoch, epoch)
        generator = make_generator(job.seed, job.purpose, job.index, epoch - 1)
        per_epoch = math.ceil(len(job.train_data) / recipe.batch_size)
        before, total = (epoch - 1) * per_epoch, recipe.epochs * per_epoch
        batches = job.train_data.batches(recipe.batch_size, generator, recipe.augment)
        for done, (x, y) in enumerate(batches, start=before + 1):
            alive = [run for run in active if run.error is None]
            if not alive:
                return
            if len(x) > 1 or 1 in (per_epoch, recipe.batch_size):
                self._step(alive, self._training_buffer.load(x, y), recipe.lr_at((done - 0.5) / total))
            job.callbacks.on_batch(done, total)
            self._check_stop()

    def _step(self, alive: list[TrainingRun], batch: Batch, lr: float) -> None:
        if self._set_targets is not None:
            self._teacher_stream.begin()
            with self._teacher_stream:
                self._set_targets(batch)
            self._teacher_stream.finish()
        for run in alive:
            run.stream.begin()
        for run in alive:
            run.attempt(run.train_step, batch, lr)
        for run in alive:
            run.stream.finish()

    def _evaluate(self, active: list[TrainingRun], epoch: int) -> None:
        def each(work: Callable[[TrainingRun], None]) -> None:
            for run in active:
                if run.error is None:
                    run.attempt(work, run)

        data = self._job.evaluation_data
        each(lambda run: run.end_training(epoch))
        if data is not None:
            for x, y in data.evaluation_batches(1024 if self._evaluation_buffer.device.type == "cuda" else 256):
                batch = self._evaluation_buffer.load(x, y)
                each(partial(TrainingRun.evaluate_batch, batch=batch))
        each(lambda run: run.check_finite(epoch))

    def _check_stop(self, at_once: bool = False) -> None:
        """Within an epoch at most twice a second: the answer may have to come from a file."""
        now = time.monotonic()
        if at_once or now - self._asked >= _STOP_EVERY:
            self._asked = now
            if self._job.callbacks.should_stop():
                raise TrainingStopped("the training was asked to stop; its checkpoints stay")


def _set_distillation_targets(teacher: nn.Module, batch: Batch) -> None:
    """Set the teacher's logits for a batch, in place of those for the one before."""
    with torch.no_grad():  # inference tensors could not be kept for the backward pass
        logits = compute_logits(teacher, batch.x)  # (B, classes)
    batch.target = logits if batch.target is None else batch.target.copy_(logits)
