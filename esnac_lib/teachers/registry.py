"""The registry of teachers: one row each.

`teacher("resnet18", 10)` gives an ordinary `nn.Module`; `trace` makes an architecture of it or of your own module.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Final

import torch
from torch import nn

from esnac_lib.architecture.initialisation import initialise, seeded
from esnac_lib.errors import ArchitectureError
from esnac_lib.teachers.conv import CNN4, CONV7, CONV7_HALF, CONV10, VGG19, PlainNet
from esnac_lib.teachers.resnet import NARROW, RESNET18, RESNET20, RESNET34, ResNet
from esnac_lib.teachers.shufflenet import ShuffleNet


@dataclass(frozen=True)
class TeacherEntry:
    """A row of the registry: what builds the network, and the smallest image (pixels a side) that it takes.

    `build` is called with num_classes, in_channels and image_size, in this order.
    """

    build: Callable[[int, int, int], nn.Module]
    smallest: int


REGISTRY: Final[dict[str, TeacherEntry]] = {
    "vgg19": TeacherEntry(partial(PlainNet, VGG19), 32),
    "resnet18": TeacherEntry(partial(ResNet, RESNET18), 8),
    "resnet34": TeacherEntry(partial(ResNet, RESNET34), 8),
    "shufflenet": TeacherEntry(partial(ShuffleNet, 1.0, 2, inserted_groups=2), 8),
    **{
        f"shufflenet_{width}x_g{groups}": TeacherEntry(partial(ShuffleNet, width, groups), 8)
        for width in (0.5, 1.0, 1.5)
        for groups in (1, 2, 3, 4, 8)
    },
    "conv7": TeacherEntry(partial(PlainNet, CONV7), 4),
    "conv7_half": TeacherEntry(partial(PlainNet, CONV7_HALF), 4),
    "conv10": TeacherEntry(partial(PlainNet, CONV10), 32),
    "cnn4": TeacherEntry(partial(PlainNet, CNN4, bias=False, average=True), 4),
    "resnet20_s2": TeacherEntry(partial(ResNet, RESNET20, widths=NARROW, stem_stride=2), 8),
}


def teacher(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 32, *, seed: int | None = None
) -> nn.Module:
    """A freshly initialised teacher on the CPU, in training mode.

    Args:
        name: a name of `REGISTRY`.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.
        seed: with a seed the weights depend on it alone and the global random state stays as it was; without one they
            are drawn from the global state.

    Returns:
        A module that maps (B, in_channels, image_size, image_size) to logits (B, num_classes).

    Raises:
        ArchitectureError: the name is unknown, a number is not a positive integer, or the image is too small.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        near = difflib.get_close_matches(str(name), REGISTRY, n=1, cutoff=0.0)[0]
        raise ArchitectureError(
            f"teacher {name!r} is unknown; the nearest is {near!r}, and all are {', '.join(REGISTRY)}"
        )
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ArchitectureError(f"{what} = {value!r} of teacher {name!r} must be a positive integer")
    if image_size < entry.smallest:
        raise ArchitectureError(
            f"teacher {name!r} takes images of at least {entry.smallest} x {entry.smallest} pixels, "
            f"not {image_size} x {image_size}; enlarge the images or take another teacher"
        )
    sizes = int(num_classes), int(in_channels), int(image_size)
    if seed is None:
        with torch.device("cpu"):
            return initialise(entry.build(*sizes))
    return seeded(lambda: entry.build(*sizes), seed)
