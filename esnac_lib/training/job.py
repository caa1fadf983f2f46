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

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the same in order, without augmentation."""


@dataclass(frozen=True)
class Trainee:
    """A network to be trained, in place. `key` names it in results, checkpoints and random draws."""

    key: str
    network: nn.Module


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """On what, how and with which random draws a group of trainees is trained.

    Raises TrainingError where there is nothing to train on, or distillation without a teacher.
    """

    train_data: Images  # a last batch of one image is left out: batch norm cannot learn from it
    evaluation_data: Images | None  # what the accuracy after each epoch is measured on, if any
    recipe: Recipe
    _: KW_ONLY
    seed: int  # all random draws depend on it, purpose and index (`seeding`)
    purpose: str
    index: int = 0
    device: str | torch.device = "cpu"
    teacher: nn.Module | None = None  # whose logits are distilled; moved to `device`, left in evaluation mode
    checkpoint: Path | None = None  # a folder in which epochs are stored, and a killed training goes on from
    time_limit: float = math.inf  # seconds of each trainee; one that takes longer has met a fault of the machine
    callbacks: Callbacks = NO_CALLBACKS

    def __post_init__(self) -> None:
        if not all(len(data) for data in (self.train_data, self.evaluation_data) if data is not None):
            raise TrainingError("a data set to train or to evaluate on is empty; give at least one image, or None")
        if (self.recipe.loss == "distillation") != (self.teacher is not None):
            needs = "needs a" if self.teacher is None else "takes no"
            raise TrainingError(f"loss = {self.recipe.loss!r} {needs} teacher")

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be continued. The device may change."""
        images = [len(self.train_data), len(self.evaluation_data or ())]
        call = {"seed": self.seed, "purpose": self.purpose, "index": self.index, "images": images}
        return {"recipe": asdict(self.recipe), **call}


@dataclass(frozen=True)
class Outcome:
    """What became of a trainee."""

    key: str
    state: Literal["complete", "failed"]
    error: str | None
    retry: bool  # a fault of the machine, such as memory that ran out: it may be tried again with a fresh network
    curve: tuple[EpochResult, ...]  # ends before the epoch that it failed in
    best_epoch: int  # the first of the highest accuracy (the last epoch without accuracies; 0 before any)
    best_accuracy: float | None
    last_accuracy: float | None
    best_weights: dict[str, Tensor]  # contiguous clones on the CPU, like the last; empty for one that failed
    last_weights: dict[str, Tensor]
    seconds: float
