"""One network in training: its optimiser, its own random stream, its failure, what it has reached so far.

Nothing here knows of the students beside it. The loop that leads a group through the epochs is in `trainer`.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.errors import TrainingError, one_line
from esnac_lib.seeding import derive_seed
from esnac_lib.training.callbacks import EpochResult
from esnac_lib.training.checkpoints import (
    Saved,
    cpu_copy,
    optimizer_tensors,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from esnac_lib.training.cuda_graphs import Batch, Lane, recorder, steps_of
from esnac_lib.training.faults import is_machine_fault
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.time_limit import at_most


class Images(Protocol):
    """What training needs of a data set; `esnac_lib.data.DeviceData` is one."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, generator: torch.Generator, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled (images (B, C, H, W), labels (B,)), drawn from `generator` alone."""
        ...

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in order, without augmentation."""
        ...


@dataclass(frozen=True)
class Trainee:
    """A network to be trained, in place. `key` names it in results, checkpoints and random draws."""

    key: str
    network: nn.Module


@dataclass(frozen=True)
class Outcome:
    """What became of a trainee.

    `retry` marks a fault of the machine, such as memory that ran out: such a trainee may be tried again with a fresh
    network. `best_epoch` is the first of the highest accuracy (the last epoch without accuracies; 0 before any). The
    weights are contiguous clones on the CPU, empty for one that failed; its curve ends before the epoch it failed in.
    """

    key: str
    state: Literal["complete", "failed"]
    error: str | None
    retry: bool
    curve: tuple[EpochResult, ...]
    best_epoch: int
    best_accuracy: float | None
    last_accuracy: float | None
    best_weights: dict[str, Tensor]
    last_weights: dict[str, Tensor]
    seconds: float


@dataclass
class Group:
    """What the trainees of one call share."""

    recipe: Recipe
    device: torch.device
    train_data: Images
    evaluation_data: Images | None
    seed: int
    purpose: str
    index: int
    time_limit: float = math.inf  # seconds that one trainee may take

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be continued. The device may change."""
        images = len(self.train_data), 0 if self.evaluation_data is None else len(self.evaluation_data)
        call = {"seed": self.seed, "purpose": self.purpose, "index": self.index, "images": list(images)}
        return {"recipe": asdict(self.recipe), **call}


class Student:
    """A trainee in training: its optimiser, its own random stream, what it has reached so far."""

    def __init__(self, trainee: Trainee, group: Group) -> None:
        self.key, self.network, self.group = trainee.key, trainee.network, group
        self.error: str | None = None
        self.retry = False
        self.curve: list[EpochResult] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}  # stays empty without accuracies: then the last epoch is the best
        self.seconds = 0.0
        self.spent = 0.0  # seconds in work of its own, this time
        self.lane = Lane(group.device)
        self.optimizer: torch.optim.Optimizer
        self.step: Callable[[Batch], None]
        # Of the epoch in progress; the tensors are scalars on the device and keep their place.
        self.random: _RandomStream
        self.images = 0
        self.loss: Tensor  # () float64, summed over the images
        self.correct: Tensor  # () int64
        self.finite: Tensor  # () bool

    def attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        """Does `work`; an exception makes this student a failed one and harms nobody else."""
        began = time.perf_counter()
        try:
            with at_most(self.group.time_limit - self.spent, f"the training of {self.key}"):
                work(*arguments)
        except Exception as error:
            self.error, self.retry = one_line(error), is_machine_fault(error)
        self.spent += time.perf_counter() - began
        if self.error is not None:
            self.release()  # here, where the exception no longer holds the tensors of the frames it came through

    def start(self, checkpoint: Path | None) -> None:
        """Moves the network to the device, and goes on from its checkpoint where there is a sound one."""
        recipe, device = self.group.recipe, self.group.device
        self.network.to(device).to(memory_format=torch.channels_last)
        record = recorder(device)
        self.optimizer = recipe.make_optimizer(self.network.parameters(), recorded=record is not None)
        self.step = steps_of(self._step, self.network, record, self.key)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        path = None if checkpoint is None else checkpoint / f"{self.key}.safetensors"
        if path is not None and path.exists():
            try:
                self._resume(read_checkpoint(path))
                return
            except Exception as error:  # whatever is wrong with a file: the student can be trained from the start
                if is_machine_fault(error):
                    raise
                text = f"checkpoint {path.name} is left aside and {self.key} trained from the start: {one_line(error)}"
                warnings.warn(text, stacklevel=4)
        if recipe.reset_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.reset_running_stats()

    def _resume(self, saved: Saved) -> None:
        progress = saved.progress
        if progress["identity"] != self.group.identity():
            raise ValueError("it belongs to another training")
        curve = [EpochResult(**row) for row in progress["curve"]]
        best_epoch, seconds, error = progress["best_epoch"], progress["seconds"], progress["error"]
        if error is None:
            restore(saved, self.network, self.optimizer)
        self.curve, self.best_epoch, self.seconds, self.error = curve, best_epoch, seconds, error
        if self.group.evaluation_data is not None:
            self.best = saved.best or saved.network

    def save(self, checkpoint: Path) -> None:
        """Stores the epoch. A fault of the machine stores nothing, so that a retry goes on from the last epoch."""
        if self.retry:
            return
        progress = {
            "identity": self.group.identity(),
            "curve": [asdict(row) for row in self.curve],
            "best_epoch": self.best_epoch,
            "error": self.error,
            "seconds": self.seconds,
        }
        saved = Saved(progress, {}, {}, {})
        if self.error is None:
            best = self.best if self.best_epoch < len(self.curve) else {}
            saved = Saved(progress, self.network.state_dict(), optimizer_tensors(self.optimizer), best)
        write_checkpoint(checkpoint / f"{self.key}.safetensors", saved)

    def begin_epoch(self, epoch: int) -> None:
        """Sets the sums to zero and draws the epoch's seed of its random stream."""
        group = self.group
        self.network.train()
        purpose = f"{group.purpose}/dropout/{self.key}"
        self.random = _RandomStream(group.device, derive_seed(group.seed, purpose, group.index, epoch - 1))
        self.images = 0
        self.loss.zero_()
        self.correct.zero_()
        self.finite.fill_(True)

    def learn(self, batch: Batch, lr: float) -> None:
        """One step, towards the teacher's logits where the batch has them, else towards its labels."""
        with self.lane, self.random:
            for settings in self.optimizer.param_groups:
                if isinstance(settings["lr"], Tensor):
                    settings["lr"].fill_(lr)
                else:
                    settings["lr"] = lr
            self.step(batch)
        self.images += len(batch.y)

    def _step(self, batch: Batch) -> None:
        """What may be recorded: it reads tensors only, and leaves nothing behind but in tensors."""
        recipe, target = self.group.recipe, batch.target
        self.optimizer.zero_grad(set_to_none=True)
        logits = logits_of(self.network, batch.x)  # (B, classes)
        if target is None:
            loss = F.cross_entropy(logits, batch.y, label_smoothing=recipe.label_smoothing)
        elif logits.shape == target.shape:
            loss = F.mse_loss(logits, target)
        else:
            raise TrainingError(f"logits {tuple(logits.shape)} do not have the teacher's form {tuple(target.shape)}")
        loss.backward()
        if recipe.clip_norm < math.inf:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm, foreach=True)
        self.optimizer.step()
        self.loss += loss.detach().double() * len(batch.y)

    def judge(self, batch: Batch) -> None:
        """Counts what it gets right, without looking at the numbers: that would wait for the device."""
        with torch.inference_mode():
            logits = logits_of(self.network, batch.x)
            self.correct += (logits.argmax(1) == batch.y).sum()
            self.finite &= logits.isfinite().all()

    def end_learning(self, epoch: int) -> None:
        """The one look at the loss of an epoch: a loss that is not finite once leaves a sum that is not."""
        self.network.eval()
        loss = self.loss.item() / self.images
        if not math.isfinite(loss):
            self.error = f"diverged: loss is {loss} in epoch {epoch}"

    def end_judging(self, epoch: int) -> None:
        """The last step of an epoch shows in no loss of that epoch: the logits tell, or else the weights."""
        if self.group.evaluation_data is not None:
            if not self.finite.item():
                self.error = f"diverged: logits are not finite in epoch {epoch}"
        elif not all(t.isfinite().all().item() for t in self.network.state_dict().values()):
            self.error = f"diverged: weights are not finite in epoch {epoch}"

    def end_epoch(self, epoch: int, seconds: float, fault: str | None) -> None:
        """Books the epoch, or the time spent on it where it failed."""
        self.seconds += seconds
        if fault is not None and self.error is None:
            self.error, self.retry = fault, True
            self.release()
        if self.error is not None:
            return
        data = self.group.evaluation_data
        accuracy = None if data is None else self.correct.item() / len(data)
        highest = max((row.accuracy for row in self.curve if row.accuracy is not None), default=-1.0)
        self.curve.append(EpochResult(epoch, self.loss.item() / self.images, accuracy, seconds))
        if accuracy is None:
            self.best_epoch = epoch
        elif accuracy > highest:
            self.best_epoch, self.best = epoch, cpu_copy(self.network.state_dict())

    def release(self) -> None:
        """Gives the memory of a failed student back: what the optimiser keeps, gradients, weights on the device."""
        for name in ("optimizer", "step"):
            vars(self).pop(name, None)
        self.best = {}
        with contextlib.suppress(RuntimeError):  # of a device that answers no more
            self.lane.join()  # what it was still to do there must not meet memory that others have by then
            self.network.zero_grad(set_to_none=True)
            self.network.to("cpu")
            if self.group.device.type == "cuda":
                torch.cuda.empty_cache()

    def outcome(self) -> Outcome:
        """What became of it, with the weights where it is complete."""
        failed = self.error is not None
        last = {} if failed else cpu_copy(self.network.state_dict())
        return Outcome(
            key=self.key,
            state="failed" if failed else "complete",
            error=self.error,
            retry=self.retry,
            curve=tuple(self.curve),
            best_epoch=self.best_epoch,
            best_accuracy=self.curve[self.best_epoch - 1].accuracy if self.curve else None,
            last_accuracy=self.curve[-1].accuracy if self.curve else None,
            best_weights=self.best or cpu_copy(last),
            last_weights=last,
            seconds=self.seconds,
        )


class _RandomStream:
    """The device's default generator, lent to one student: dropout draws from there and takes no other."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._state = torch.Generator(device).manual_seed(seed).get_state()
        self._shared = torch.default_generator
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            self._shared = torch.cuda.default_generators[number]

    def __enter__(self) -> None:
        self._outer = self._shared.get_state()
        self._shared.set_state(self._state)

    def __exit__(self, *_: object) -> None:
        self._state = self._shared.get_state()
        self._shared.set_state(self._outer)


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """float32 (B, classes), computed in bfloat16 on CUDA. The network gets a copy, which it may overwrite."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
        return network(x.clone()).float()
