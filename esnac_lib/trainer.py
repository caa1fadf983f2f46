"""One training loop for teachers, for the students of a search step and for final training.

The K students of a step (ESNAC Algorithm 1) are trained side by side: each batch is made once, and the teacher's
logits for it are computed once. What a student sees and becomes still depends on nobody beside it: the batches of an
epoch come from (seed, purpose, index, epoch), its dropout from (seed, purpose, key, index, epoch), and it works on a
copy of the batch. So a student trained alone ends with the same bits on a CPU, and one that fails leaves no trace.

Channels-last memory is used on the CPU too. Three convolutions with batch norm and ReLU on 28×28, batch 128, one
core, seconds a step: 0.035 against 0.043 (8 filters), 0.25 against 0.29 (32 filters).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from esnac_lib.checkpoints import clear_checkpoint
from esnac_lib.errors import TrainingError
from esnac_lib.randomness import make_generator
from esnac_lib.recipes import Recipe
from esnac_lib.student import Group, Images, Outcome, Student, Trainee, is_machine_fault, logits_of, one_line
from esnac_lib.watch import NOBODY, TrainingStopped, Watch

__all__ = [
    "Outcome",
    "Recipe",
    "Trainee",
    "clear_checkpoint",
    "evaluate",
    "train",
]

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STOP_EVERY = 0.5  # seconds between two questions whether to stop within an epoch


def train(
    trainees: Sequence[Trainee],
    train_data: Images,
    evaluation_data: Images | None,
    recipe: Recipe,
    *,
    seed: int,
    purpose: str,
    index: int = 0,
    device: str | torch.device = "cpu",
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    watch: Watch = NOBODY,
) -> dict[str, Outcome]:
    """Trains a group, on the same batches, and tells what became of each by its key.

    A trainee that diverges or raises leaves the group as failed, and the others go on. With `checkpoint` (a folder)
    every epoch is stored, and the same call continues a training that was killed, to the same bits on a CPU. Give
    the trainees with the weights they started from, then too. `clear_checkpoint` deletes the files.

    Args:
        train_data: the images to learn from. A last batch of one image is left out: batch norm cannot learn from it.
        evaluation_data: the images that the accuracy after each epoch is measured on.
        teacher: whose logits are distilled; is moved to `device` and left in evaluation mode.
        watch: hears of epochs and batches, and may ask to stop.

    Raises:
        TrainingError: nothing to train on, keys that are no file names or not unique, distillation without a teacher.
        TrainingStopped: `watch` asked to stop.
    """
    keys = [trainee.key for trainee in trainees]
    if bad := [key for key in keys if not _KEY.fullmatch(key) or keys.count(key) > 1]:
        raise TrainingError(f"key {bad[0]!r} must be unique, and made of letters, digits, '.', '_' and '-'")
    if len(train_data) == 0 or (evaluation_data is not None and len(evaluation_data) == 0):
        raise TrainingError("a data set to train or to evaluate on is empty; give at least one image, or None")
    if (recipe.loss == "distillation") != (teacher is not None):
        raise TrainingError(f"loss = {recipe.loss!r} {'needs a' if teacher is None else 'takes no'} teacher")
    group = Group(recipe, torch.device(device), train_data, evaluation_data, teacher, seed, purpose, index)
    if teacher is not None:
        teacher.to(group.device).to(memory_format=torch.channels_last).eval()
    students = [Student(trainee, group) for trainee in trainees]
    for student in students:
        student.attempt(student.start, checkpoint)
    stop = _Stop(watch)
    for epoch in range(1, recipe.epochs + 1):
        active = [student for student in students if student.error is None and len(student.curve) == epoch - 1]
        if not active:
            continue
        stop.ask(at_once=True)
        began = time.perf_counter()
        fault: str | None = None
        try:
            _learn_epoch(active, group, epoch, stop, watch)
            _judge_epoch(active, group, epoch)
        except Exception as error:  # in what the students share: a batch, the teacher's logits
            if not is_machine_fault(error):
                raise
            fault = one_line(error)
        seconds = (time.perf_counter() - began) / len(active)
        for student in active:
            student.end_epoch(epoch, seconds, fault)
            if student.error is None:
                watch.on_epoch(student.key, student.curve[-1])
            if checkpoint is not None:
                student.save(checkpoint)
    return {student.key: student.outcome() for student in students}


def evaluate(network: nn.Module, data: Images, *, batch_size: int = 256, device: str | torch.device = "cpu") -> float:
    """The part of `data` that `network` gets right, in [0, 1]. The network is moved to `device`; its mode is kept.

    Raises:
        TrainingError: `data` is empty.
    """
    if len(data) == 0:
        raise TrainingError("the data set to evaluate on is empty; give at least one image")
    place = torch.device(device)
    network.to(place).to(memory_format=torch.channels_last)
    mode = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=place)
    try:
        with torch.inference_mode():
            for x, y in _placed(data.evaluation_batches(batch_size), place):
                correct += (logits_of(network, x).argmax(1) == y).sum()
    finally:
        network.train(mode)
    return int(correct) / len(data)


def _learn_epoch(active: list[Student], group: Group, epoch: int, stop: _Stop, watch: Watch) -> None:
    recipe = group.recipe
    for student in active:
        student.attempt(student.begin_epoch, epoch)
    generator = make_generator(group.seed, group.purpose, group.index, epoch - 1)
    per_epoch = math.ceil(len(group.train_data) / recipe.batch_size)
    before, total = (epoch - 1) * per_epoch, recipe.epochs * per_epoch
    batches = group.train_data.batches(recipe.batch_size, generator, recipe.augment)
    for done, (x, y) in enumerate(_placed(batches, group.device), start=before + 1):
        alive = [student for student in active if student.error is None]
        if not alive:
            return
        if len(x) > 1 or 1 in (per_epoch, recipe.batch_size):
            target = None
            if group.teacher is not None:
                with torch.no_grad():  # inference tensors could not be kept for the backward pass
                    target = logits_of(group.teacher, x)  # (B, classes)
            lr = recipe.lr_at((done - 0.5) / total)
            for student in alive:
                student.attempt(student.learn, x, y, target, lr)
        watch.on_batch(done, total)
        stop.ask()


def _judge_epoch(active: list[Student], group: Group, epoch: int) -> None:
    def each(work: Callable[[Student], None]) -> None:
        for student in active:
            if student.error is None:
                student.attempt(work, student)

    each(lambda student: student.end_learning(epoch))
    if group.evaluation_data is not None:
        batch_size = 1024 if group.device.type == "cuda" else 256
        for x, y in _placed(group.evaluation_data.evaluation_batches(batch_size), group.device):
            for student in active:
                if student.error is None:
                    student.attempt(student.judge, x, y)
    each(lambda student: student.end_judging(epoch))


class _Stop:
    """Asks whether to stop, within an epoch at most twice a second: the answer may have to come from a file."""

    def __init__(self, watch: Watch) -> None:
        self._question, self._asked = watch.should_stop, -math.inf

    def ask(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not (at_once or now - self._asked >= _STOP_EVERY):
            return
        self._asked = now
        if self._question():
            raise TrainingStopped("the training was asked to stop; its checkpoints stay")


def _placed(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in batches:
        x = x.to(device, non_blocking=True, memory_format=torch.channels_last)  # (B, C, H, W)
        yield x, y.to(device, non_blocking=True)
