"""How a network is trained: the optimiser, the learning rate over time, the loss. Data, no loop.

Three recipes serve a study: `Recipe.search` (knowledge distillation, ESNAC §3.3), `Recipe.final` and `Recipe.teacher`
(cross entropy). The learning rate is a pure function of the progress through a training, so that a resumed training
needs to remember nothing about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from esnac_lib.errors import TrainingError

if TYPE_CHECKING:
    from esnac_lib.config.study import StudyConfig

Schedule = Literal["constant", "step", "one_cycle", "step_60", "step_53_80"]
STEPS = {"step": (1 / 3, 2 / 3), "step_60": (30 / 50,), "step_53_80": (80 / 150, 120 / 150)}
"""Where in a training the learning rate falls to a tenth. The last two are Architecture Compression's (§5.2.1)."""
_CHOICES = {"optimizer": ("adam", "sgd"), "schedule": get_args(Schedule), "loss": ("distillation", "cross_entropy")}
WARM_UP = 0.25  # the part of a one-cycle training in which the learning rate rises
CLIP_NORM = 2.0  # the largest gradient norm in a one-cycle training


@dataclass(frozen=True)
class Recipe:
    """The settings of one training. A value that is not allowed raises TrainingError."""

    epochs: int
    lr: float
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "sgd"
    weight_decay: float = 5e-4  # added to the gradient (L2), for Adam too, as in the authors' code
    momentum: float = 0.9
    schedule: Schedule = "constant"
    # "distillation": the mean squared error between the logits of student and teacher, over images and classes (§3.3)
    loss: Literal["distillation", "cross_entropy"] = "cross_entropy"
    augment: bool = False
    reset_batch_norm: bool = False  # start with fresh batch-norm statistics, as search training does
    clip_norm: float = math.inf  # a longer gradient of all weights together is scaled down to this norm
    label_smoothing: float = 0.0  # share of the labels' weight that all classes get alike, in cross entropy alone

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise TrainingError(f"{name} = {value!r} is unknown; choose one of {', '.join(choices)}")
        right = {
            "epochs": (type(self.epochs) is int and self.epochs >= 1, "a whole number of at least 1"),
            "batch_size": (type(self.batch_size) is int and self.batch_size >= 1, "a whole number of at least 1"),
            "lr": (0 < self.lr < math.inf, "a finite number above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number of at least 0"),
            "clip_norm": (self.clip_norm > 0, "above 0; infinity clips nothing"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
        }
        for name, (fine, allowed) in right.items():
            if not fine:
                raise TrainingError(f"{name} = {getattr(self, name)!r} must be {allowed}")

    @classmethod
    def search(cls, config: StudyConfig) -> Recipe:
        """Search training as in the authors' code: Adam at 1e-3, distillation, fresh batch-norm statistics."""
        size, augment = config.batch_size, config.augment
        return cls(config.epochs, 1e-3, size, "adam", loss="distillation", augment=augment, reset_batch_norm=True)

    @classmethod
    def final(cls, config: StudyConfig) -> Recipe:
        """Return the one of final training (ESNAC §6.1): cross entropy, from the best search epoch."""
        return cls._on_labels(config, config.final_epochs, config.final_lr, config.label_smoothing)

    @classmethod
    def teacher(cls, config: StudyConfig, role: Literal["search", "reference"]) -> Recipe:
        """Return the training of a teacher from scratch.

        Students learn the search teacher's logits, which smoothed labels would empty of what they say about the other
        classes (Müller, Kornblith and Hinton, 2019): its labels stay sharp.
        """
        smoothing = config.label_smoothing if role == "reference" else 0.0
        return cls._on_labels(config, config.teacher_epochs, config.teacher_lr, smoothing)

    @classmethod
    def _on_labels(cls, config: StudyConfig, epochs: int, lr: float, label_smoothing: float) -> Recipe:
        """One-cycle trainings are clipped, of teachers and students alike; the published step schedule is not.

        A student that lost its batch norms can be thrown out of a good minimum by the high middle of a one-cycle
        training: one on digits ended at 30 % test accuracy so, and at 98 % with clipping.
        """
        clip_norm = CLIP_NORM if config.schedule == "one_cycle" else math.inf
        recipe = cls(epochs, lr, config.batch_size, schedule=config.schedule, augment=config.augment)
        return replace(recipe, clip_norm=clip_norm, label_smoothing=label_smoothing)

    @property
    def nesterov(self) -> bool:
        """Whether SGD looks ahead: in a one-cycle training with momentum."""
        return self.schedule == "one_cycle" and self.momentum > 0

    def lr_at(self, progress: float) -> float:
        """Return the learning rate where `progress` in [0, 1] of all batches is done.

        step schedules: a tenth from the first of their `STEPS` on, a hundredth from the second on. one_cycle: up in a
        straight line from 0 to `lr` over the first quarter, then down in a straight line to 0.
        """
        if not 0 <= progress <= 1:
            raise TrainingError(f"progress = {progress!r} must be between 0 and 1")
        if self.schedule == "constant":
            return self.lr
        if self.schedule in STEPS:
            # The boundaries are compared with the fractions themselves, so that no rounding moves them.
            return self.lr * (1.0, 0.1, 0.01)[sum(progress >= boundary for boundary in STEPS[self.schedule])]
        return self.lr * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))

    def make_optimizer(self, parameters: Iterable[torch.nn.Parameter], captured: bool = False) -> torch.optim.Optimizer:
        """Return the optimiser over `parameters`, fused.

        Fused is some five times as fast as the plain form on one CPU core too (20 convolutions of 16 filters: Adam
        0.23 against 1.09 ms a step, SGD 0.08 against 0.45 ms). For steps that are `captured` the learning rate is a
        tensor on the parameters' device.
        """
        parameters = list(parameters)
        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if captured and parameters:
            shared["lr"] = torch.tensor(self.lr, dtype=torch.float32, device=parameters[0].device)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, capturable=captured, **shared)
        return torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.nesterov, **shared)
