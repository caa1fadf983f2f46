"""The parts of a data set that a study uses, each moved to its device when it is first used.

Only the final evaluation may ask for `test`: no decision of a search or of a training sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from esnac_lib.config.study import StudyConfig
from esnac_lib.data.batches import DeviceData, normalisation
from esnac_lib.data.datasets import Dataset
from esnac_lib.data.stratification import stratified
from esnac_lib.errors import ConfigError, DataError
from esnac_lib.seeding import make_rng


def pick_device(name: str) -> str:
    """Return the device that "auto" stands for, CUDA where there is one, else the CPU; any other name stays.

    Raises:
        ConfigError: CUDA is asked for on a machine without it.
    """
    available = torch.cuda.is_available()
    if name.startswith("cuda") and not available:
        raise ConfigError(f"device = {name!r}: this machine has no CUDA device; give 'cpu' or 'auto'")
    return name if name != "auto" else "cuda" if available else "cpu"


class StudyData:
    """Search, training, validation and test images of one study.

    They are normalised by the training split's statistics, or by those that the config gives.

    Raises:
        DataError: image_channels or normalise do not fit the images.
    """

    def __init__(self, dataset: Dataset, config: StudyConfig, device: str) -> None:
        self.dataset = dataset = dataset.with_channels(config.image_channels)
        self.device, self.augment = device, config.augment
        self.splits = split(dataset, config.validation, config.seed, config.search_images)
        self.normalisation = config.own_normalisation or normalisation(dataset.train_images[self.splits.train])
        if len(self.normalisation[0]) != dataset.in_channels:
            raise DataError(
                f"normalise = {config.normalise!r} is for {len(self.normalisation[0])} channels, the images have "
                f"{dataset.in_channels}"
            )

    def __repr__(self) -> str:
        train, search, held = (len(part) for part in (self.splits.train, self.splits.search, self.splits.validation))
        parts = f"{train:,} to train on, {search:,} of them in the search, {held:,} to validate"
        return f"StudyData({self.dataset!r}: {parts}, on {self.device})"

    @property
    def meaning(self) -> dict[str, Any]:
        """How a student reads raw images and what its outputs are called, as arguments of the exports."""
        return {"classes": self.dataset.classes, "normalisation": self.normalisation}

    @cached_property
    def search(self) -> DeviceData:
        """What students are trained on during the search: the training split or a fixed subset of it."""
        return self.training if len(self.splits.search) == len(self.splits.train) else self.part(self.splits.search)

    @cached_property
    def training(self) -> DeviceData:
        """All images but the validation split's."""
        return self.part(self.splits.train)

    @cached_property
    def validation(self) -> DeviceData:
        """The images that the search's accuracies are measured on."""
        return self.part(self.splits.validation)

    @cached_property
    def everything(self) -> DeviceData:
        """Training and validation images together, for reference teachers and the last training of a solution."""
        return self.part(np.arange(len(self.dataset.train_labels)))

    @cached_property
    def test(self) -> DeviceData:
        """The test images. For final results only."""
        return DeviceData(**self._plain(self.dataset.test_images, self.dataset.test_labels), device=self.device)

    def plain(self, part: Literal["search", "validation"] | np.ndarray) -> dict[str, Any]:
        """Return a part as plain data, the arguments that `DeviceData` needs to make it on another machine."""
        positions = getattr(self.splits, part) if isinstance(part, str) else part
        return self._plain(self.dataset.train_images[positions], self.dataset.train_labels[positions])

    def part(self, positions: np.ndarray) -> DeviceData:
        """Return the images at these positions of all that may be trained on."""
        return DeviceData(**self.plain(positions), device=self.device)

    def _plain(self, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        mean, std = self.normalisation
        settings = {"flip": self.dataset.flip, "augment": self.augment, "channels_last": True}
        return {"images": images, "labels": labels, "mean": mean, "std": std, **settings}


@dataclass(frozen=True, eq=False)
class Splits:
    """Positions in the training images, each sorted, int64. `train` and `validation` are disjoint and together all."""

    train: np.ndarray
    validation: np.ndarray
    search: np.ndarray  # what search training uses: `train`, or a fixed stratified subset of it


def split(dataset: Dataset, validation: int, seed: int, search_images: int = 0) -> Splits:
    """Divide the training images into training and validation (ESNAC §4.1 keeps 5,000 of 50,000), both stratified.

    `search_images` of the training split are picked for search training; 0 takes all. The same (data, numbers, seed)
    give the same split in every process.

    Raises:
        DataError: The numbers leave nothing to validate on, or a class without a training image, or do not fit.
    """
    labels = dataset.train_labels
    most = len(labels) - len(np.unique(labels))
    if not 1 <= validation <= most:
        raise DataError(
            f"validation = {validation}: {dataset.name} has {len(labels)} training images; allowed are 1 to {most}, "
            "so that every class keeps one for training"
        )
    # DEVIATION: the paper samples the validation images; stratified, small and uneven sets keep every class in both.
    held = stratified(labels, validation, make_rng(seed, "validation-split"), leave=1)
    train = np.setdiff1d(np.arange(len(labels)), held)
    if not 0 <= search_images <= len(train):
        raise DataError(f"search_images = {search_images}: allowed are 0 (all) to {len(train)}, the training split")
    few = stratified(labels[train], search_images, make_rng(seed, "search-subset")) if search_images else slice(None)
    return Splits(train, held, train[few])
