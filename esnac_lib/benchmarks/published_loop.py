"""Search training as the published program does it, written anew to be measured against ours; nothing else uses it.

As in the authors' code: images as PIL objects through torchvision's transforms in the workers of one DataLoader, crop
and flip an image at a time; the batch and the teacher's logits are shared by the students, which are then trained in
turn, in float32 (TF32 allowed on CUDA), each with Adam.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from esnac_lib.data.batches import crop_padding
from esnac_lib.seeding import derive_seed, make_generator
from esnac_lib.training.recipes import Recipe

WORKERS = 4


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images and labels; each image goes through PIL and torchvision's transforms when it is asked for."""

    def __init__(self, plain: Mapping[str, Any]) -> None:  # as `StudyData.plain` gives it
        self.images: np.ndarray = plain["images"]  # (N, H, W, C) uint8
        self.labels: np.ndarray = plain["labels"]
        size = self.images.shape[1]
        random = [transforms.RandomCrop(size, padding=crop_padding(size))] if plain["augment"] else []
        random += [transforms.RandomHorizontalFlip()] if plain["augment"] and plain["flip"] else []
        last = [transforms.ToTensor(), transforms.Normalize(plain["mean"], plain["std"])]
        self.transform = transforms.Compose([*random, *last])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image (C, H, W) and its label."""
        image = self.images[index]
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        return self.transform(picture), int(self.labels[index])


def train_published(
    students: Sequence[nn.Module],
    teacher: nn.Module,
    plain: Mapping[str, Any],
    recipe: Recipe,
    *,
    seed: int,
    workers: int = WORKERS,
    device: str = "cpu",
) -> list[float]:
    """Train the students on the teacher's logits, in place, without evaluation; return the seconds of each epoch.

    plain: `StudyData.plain`. recipe: `Recipe.search`; its epochs, learning rate, batch size and weight decay are read.
    """
    loader = _loader(PilImages(plain), recipe.batch_size, workers, device, make_generator(seed, "published-loop"))
    teacher.to(device).eval()
    for student in students:
        student.to(device).train()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    optimizers = [
        torch.optim.Adam(student.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay) for student in students
    ]
    criterion = nn.MSELoss()
    seconds: list[float] = []
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        torch.manual_seed(derive_seed(seed, "published-loop-images"))
        for _ in range(recipe.epochs):
            began = time.perf_counter()
            for images, _labels in loader:
                images = images.to(device)
                with torch.no_grad():
                    target = teacher(images)
                for student, optimizer in zip(students, optimizers, strict=True):
                    optimizer.zero_grad()
                    criterion(student(images), target).backward()
                    optimizer.step()
            wait_for(device)
            seconds.append(time.perf_counter() - began)
    return seconds


def _loader(
    images: PilImages, batch_size: int, workers: int, device: str, generator: torch.Generator
) -> DataLoader[tuple[Tensor, int]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as published
        context = "fork" if workers else None  # as on the authors' system: no worker imports anew
        pin = device.startswith("cuda")
        return DataLoader(images, batch_size, shuffle=True, num_workers=workers, multiprocessing_context=context,
                          pin_memory=pin, generator=generator)  # fmt: skip


def wait_for(device: str) -> None:
    """Wait until all that was asked of a device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
