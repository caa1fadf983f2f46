"""The list of teachers. To add one, write its network, and add a line here.

`teacher("resnet18", 10)` gives an ordinary `nn.Module`; `trace` makes an architecture of it or of your own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any

from esnac_lib.config.registry import Registry, nearest
from esnac_lib.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TeacherEntry:
    """A row of the registry of teachers.

    Attributes:
        name: What `StudyConfig.teacher` calls it.
        build: Called with num_classes, in_channels and image_size, in this order; may load PyTorch.
        smallest: The smallest image that it takes, pixels a side.
    """

    name: str
    build: Callable[[int, int, int], nn.Module]
    smallest: int


def _network(module: str, name: str, *given: Any, **options: Any) -> Callable[[int, int, int], nn.Module]:
    """What builds a network of this package. A text that starts with "." names a constant of its module."""

    def build(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        found = import_module(f"esnac_lib.teachers.{module}")  # with PyTorch, which checking a config does not load
        named = [getattr(found, value[1:]) if isinstance(value, str) else value for value in given]
        chosen = {key: getattr(found, value[1:]) if isinstance(value, str) else value for key, value in options.items()}
        return getattr(found, name)(*named, num_classes, in_channels, image_size, **chosen)

    return build


TEACHERS: Registry[TeacherEntry] = Registry("teacher")
for entry in (
    TeacherEntry("vgg19", _network("conv", "PlainNet", ".VGG19"), 32),
    TeacherEntry("resnet18", _network("resnet", "ResNet", ".RESNET18"), 8),
    TeacherEntry("resnet34", _network("resnet", "ResNet", ".RESNET34"), 8),
    TeacherEntry("shufflenet", _network("shufflenet", "ShuffleNet", 1.0, 2, inserted_groups=2), 8),
    TeacherEntry("conv7", _network("conv", "PlainNet", ".CONV7"), 4),
    TeacherEntry("conv7_half", _network("conv", "PlainNet", ".CONV7_HALF"), 4),
    TeacherEntry("conv10", _network("conv", "PlainNet", ".CONV10"), 32),
    TeacherEntry("cnn4", _network("conv", "PlainNet", ".CNN4", bias=False, average=True), 4),
    TeacherEntry("resnet20_s2", _network("resnet", "ResNet", ".RESNET20", widths=".NARROW", stem_stride=2), 8),
    *(
        TeacherEntry(f"shufflenet_{width}x_g{groups}", _network("shufflenet", "ShuffleNet", width, groups), 8)
        for width in (0.5, 1.0, 1.5)
        for groups in (1, 2, 3, 4, 8)
    ),
):
    TEACHERS.register(entry)


def teacher(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 32, *, seed: int | None = None
) -> nn.Module:
    """A freshly initialised teacher on the CPU, in training mode.

    Args:
        name: a name of `TEACHERS`.
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
    import torch

    from esnac_lib.architecture.initialisation import initialise, seeded

    entry = TEACHERS.get(name)
    if entry is None:
        near = nearest(str(name), TEACHERS)
        raise ArchitectureError(
            f"teacher {name!r} is unknown; the nearest is {near!r}, and all are {', '.join(TEACHERS)}"
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
