"""What goes into a training and what comes out: trainees and a job in, an outcome each out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from esnac_lib.errors import TrainingError
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks, EpochResult
from esnac_lib.training.recipes import Recipe


class Images(Protocol):
    """What training needs of a data set; `esnac_lib.data.batches.DeviceData` is one."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, generator: torch.Generator, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled (images (B, C, H, W), labels (B,)), drawn from `generator` alone."""
        ...

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same in order, without augmentation."""
        ...


@dataclass(frozen=True)
class Trainee:
    """A network to be trained, in place. `key` names it in results, checkpoints and random draws."""

    key: str
    network: nn.Module


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """On what, how and with which random draws a group of trainees is trained.

    Args:
        train_data: the images to learn from. A last batch of one image is left out: batch norm cannot learn from it.
        evaluation_data: the images that the accuracy after each epoch is measured on, if any.
        seed, purpose, index: what all random draws depend on (`seeding`).
        teacher: whose logits are distilled; is moved to `device` and left in evaluation mode.
        checkpoint: a folder in which epochs are stored, and from which a training that was killed goes on.
        time_limit: seconds that each trainee may take; one that takes longer has met a fault of the machine.

    Raises:
        TrainingError: nothing to train on, or distillation without a teacher.
    """

    train_data: Images
    evaluation_data: Images | None
    recipe: Recipe
    _: KW_ONLY
    seed: int
    purpose: str
    index: int = 0
    device: str | torch.device = "cpu"
    teacher: nn.Module | None = None
    checkpoint: Path | None = None
    time_limit: float = math.inf
    callbacks: Callbacks = NO_CALLBACKS

    def __post_init__(self) -> None:
        if len(self.train_data) == 0 or (self.evaluation_data is not None and len(self.evaluation_data) == 0):
            raise TrainingError("a data set to train or to evaluate on is empty; give at least one image, or None")
        if (self.recipe.loss == "distillation") != (self.teacher is not None):
            needs = "needs a" if self.teacher is None else "takes no"
            raise TrainingError(f"loss = {self.recipe.loss!r} {needs} teacher")

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be continued. The device may change."""
        images = len(self.train_data), 0 if self.evaluation_data is None else len(self.evaluation_data)
        call = {"seed": self.seed, "purpose": self.purpose, "index": self.index, "images": list(images)}
        return {"recipe": asdict(self.recipe), **call}


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
