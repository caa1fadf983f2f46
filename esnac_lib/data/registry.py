"""The registry of named data sets: one row for each. To add one, write where it comes from, and add a row.

A row needs neither `load` nor `download`: then <data root>/<name>.npz must be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esnac_lib.config.registry import Registry
from esnac_lib.data import sources
from esnac_lib.data.sources import Arrays


@dataclass(frozen=True)
class DatasetEntry:
    """A row of the registry of data sets: all that is known of one. Arrays that differ from it are refused.

    Attributes:
        name: What `StudyConfig.dataset` calls it.
        label: What papers, tables and figures call it.
        image_shape: (H, W, C).
        num_classes: Number of classes.
        flip: Whether a mirrored image keeps its class.
        load: Returns the arrays that come with an installed package; None where it is not installed.
        package: That package, in words.
        download: Called with an empty folder for its archives; returns arrays, which are then stored in the data root.
    """

    name: str
    label: str
    image_shape: tuple[int, int, int]
    num_classes: int
    flip: bool
    load: Callable[[], Arrays | None] | None = None
    package: str = ""
    download: Callable[[Path], Arrays] | None = None


DATASETS: Registry[DatasetEntry] = Registry("dataset")
for _entry in (
    DatasetEntry("digits", "Digits", (8, 8, 1), 10, flip=False, load=sources.digits, package="scikit-learn"),
    DatasetEntry(
        "fashion_mnist",
        "Fashion-MNIST",
        (28, 28, 1),
        10,
        flip=True,
        load=sources.debian_fashion,
        package="Debian's package dataset-fashion-mnist",
        download=sources.torchvision("FashionMNIST"),
    ),
    DatasetEntry("cifar10", "CIFAR-10", (32, 32, 3), 10, flip=True, download=sources.torchvision("CIFAR10")),
    DatasetEntry("cifar100", "CIFAR-100", (32, 32, 3), 100, flip=True, download=sources.torchvision("CIFAR100")),
    DatasetEntry("svhn", "SVHN", (32, 32, 3), 10, flip=False, download=sources.svhn),
):
    DATASETS.register(_entry)
