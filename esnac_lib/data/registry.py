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

    `load` returns the arrays that come with an installed package, which `package` names in words; None where it is not
    installed. `download` is called with an empty folder for its archives; its arrays are then stored in the data root.
    """

    name: str  # as in `StudyConfig.dataset`
    label: str  # as in papers, tables and figures
    image_shape: tuple[int, int, int]  # (H, W, C)
    num_classes: int
    flip: bool  # whether a mirrored image keeps its class
    test_images: int | None = None  # how many they are, for reports of ledgers that do not say it
    load: Callable[[], Arrays | None] | None = None
    package: str = ""
    download: Callable[[Path], Arrays] | None = None


DATASETS: Registry[DatasetEntry] = Registry("dataset")
_debian = (sources.debian_fashion, "Debian's package dataset-fashion-mnist")
for _entry in (
    DatasetEntry("digits", "Digits", (8, 8, 1), 10, False, 500, sources.digits, "scikit-learn"),
    DatasetEntry(
        "fashion_mnist", "Fashion-MNIST", (28, 28, 1), 10, True, 10_000, *_debian, sources.torchvision("FashionMNIST")
    ),
    DatasetEntry("cifar10", "CIFAR-10", (32, 32, 3), 10, True, 10_000, download=sources.torchvision("CIFAR10")),
    DatasetEntry("cifar100", "CIFAR-100", (32, 32, 3), 100, True, 10_000, download=sources.torchvision("CIFAR100")),
    DatasetEntry("svhn", "SVHN", (32, 32, 3), 10, False, 26_032, download=sources.torchvision("SVHN")),
):
    DATASETS.register(_entry)
