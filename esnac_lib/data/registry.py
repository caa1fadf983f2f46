"""The list of named data sets. To add one, write where it comes from, and add a line here."""

from __future__ import annotations

from dataclasses import dataclass

from esnac_lib.config.registry import Registry


@dataclass(frozen=True)
class DatasetEntry:
    """A row of the registry of data sets: a file that differs from it is refused.

    Attributes:
        name: What `StudyConfig.dataset` calls it.
        image_shape: (H, W, C).
        num_classes: Number of classes.
        flip: Whether a mirrored image keeps its class.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    flip: bool


DATASETS: Registry[DatasetEntry] = Registry("dataset")
for entry in (
    DatasetEntry("digits", (8, 8, 1), 10, flip=False),
    DatasetEntry("fashion_mnist", (28, 28, 1), 10, flip=True),
    DatasetEntry("cifar10", (32, 32, 3), 10, flip=True),
    DatasetEntry("cifar100", (32, 32, 3), 100, flip=True),
    DatasetEntry("svhn", (32, 32, 3), 10, flip=False),
):
    DATASETS.register(entry)
