"""Data, networks, faults and recipes that the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esnac_lib.training.job import Outcome, Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.trainer import train

CROSS_ENTROPY = Recipe(epochs=2, lr=0.05, batch_size=64)
DISTILLATION = Recipe(epochs=3, lr=1e-3, batch_size=64, optimizer="adam", loss="distillation", augment=True)


class Few:
    """Images in memory, shuffled by the generator; counts the batches that were made."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.made = images, labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, generator: torch.Generator, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.randperm(len(self), generator=generator).split(batch_size):
            self.made += 1
            yield self.images[part] * (0.9 if augment else 1.0), self.labels[part]

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)


def cnn(seed: int, width: int = 6, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


class Faulty(nn.Module):
    """A network that misbehaves from its call number `at` on, counted over training batches or evaluation batches."""

    def __init__(self, fault: str, at: int = 3, training: bool = True, seed: int = 9) -> None:
        super().__init__()
        self.inner, self.fault, self.at, self.when, self.calls = cnn(seed), fault, at, training, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "overwrite":
            x.neg_()
        y = self.inner(x)
        self.calls += self.training == self.when
        if self.training != self.when or self.calls < self.at:
            return y
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        if self.fault == "raise":
            raise RuntimeError("mat1 and mat2\n  do not fit")
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "shape":
            return y[:, :3]
        return y if self.fault == "overwrite" else y * float(self.fault)


def same(mine: Outcome, other: Outcome) -> bool:
    """The same to the bit, times apart."""
    curves = [[replace(row, seconds=0.0) for row in outcome.curve] for outcome in (mine, other)]
    plain = [(o.key, o.state, o.error, o.retry, o.best_epoch, o.best_accuracy, o.last_accuracy) for o in (mine, other)]
    weights = [
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in ((mine.best_weights, other.best_weights), (mine.last_weights, other.last_weights))
    ]
    return curves[0] == curves[1] and plain[0] == plain[1] and all(weights)


def group_of(*faults: nn.Module) -> list[Trainee]:
    """Three sound students, one with dropout, and faulty ones between the first and the others."""
    sound = [Trainee("a", cnn(1)), Trainee("b", cnn(2, width=4, dropout=0.3)), Trainee("c", cnn(3, width=5))]
    return [sound[0], *(Trainee(f"bad{number}", fault) for number, fault in enumerate(faults)), *sound[1:]]


def distil(
    trainees: list[Trainee], few: tuple[Few, Few], recipe: Recipe = DISTILLATION, **others: Any
) -> dict[str, Outcome]:
    return train(
        trainees, TrainingJob(*few, recipe, seed=3, purpose="search", index=2, teacher=cnn(0, width=8), **others)
    )
