"""The registry of teachers: one row for each network. To add one, write its class in a file here, and add a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any

from esnac_lib.config.registry import Registry, nearest
from esnac_lib.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[[int, int, int], "nn.Module"]
"""Maps num_classes, in_channels and image_size to the network, (B, C, S, S) to logits. It may load PyTorch."""


@dataclass(frozen=True)
class TeacherEntry:
    """A row of the registry of teachers."""

    name: str  # as in `StudyConfig.teacher`
    label: str  # as in papers, tables and figures
    smallest: int  # image that it takes, in pixels a side
    build: Builder


def _network(path: str, *configuration: Any, **options: Any) -> Builder:
    """Return the builder of a network "module:Class" of this package with its configuration.

    The module is imported when the network is built, so that checking a config does not load PyTorch.
    """
    module, name = path.split(":")

    def build(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        network = getattr(import_module(f"esnac_lib.teachers.{module}"), name)
        return network(*configuration, num_classes, in_channels, image_size, **options)

    return build


# Plans of `conv.PlainNet`: the filters of each convolution, and "M" for a 2 × 2 max-pool.
VGG19 = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M")
CONV7 = (32, 32, "M", 64, 64, "M", 128, 128, 256)
CONV7_HALF = (16, 16, "M", 32, 32, "M", 64, 64, 128)
# The paper gives CONV-10's widths and five pools but not where they stand: here after every second block, as in CONV-7.
CONV10 = (64, 256, "M", 256, 256, "M", 256, 256, "M", 256, 1024, "M", 1024, 1024, "M")
CNN4 = (32, 32, "M", 64, 64, "M")

_plain = partial(_network, "conv:PlainNet")
_resnet = partial(_network, "resnet:ResNet")  # its blocks in each stage
_shuffle = partial(_network, "shufflenet:ShuffleNet")  # its width and groups

TEACHERS: Registry[TeacherEntry] = Registry("teacher")
for _entry in (
    TeacherEntry("vgg19", "VGG-19", 32, _plain(VGG19)),
    TeacherEntry("resnet18", "ResNet-18", 8, _resnet((2, 2, 2, 2))),
    TeacherEntry("resnet34", "ResNet-34", 8, _resnet((3, 4, 6, 3))),
    TeacherEntry("shufflenet", "ShuffleNet", 8, _shuffle(1.0, 2, inserted_groups=2)),
    TeacherEntry("conv7", "CONV-7", 4, _plain(CONV7)),
    TeacherEntry("conv7_half", "CONV-7, half width", 4, _plain(CONV7_HALF)),
    TeacherEntry("conv10", "CONV-10", 32, _plain(CONV10)),
    TeacherEntry("cnn4", "CNN-4", 4, _plain(CNN4, bias=False, average=True)),
    TeacherEntry("resnet20_s2", "ResNet-20, stride 2", 8, _resnet((3, 3, 3), widths=(16, 32, 64), stem_stride=2)),
    *(
        TeacherEntry(f"shufflenet_{width}x_g{g}", f"ShuffleNet {width}× (g = {g})", 8, _shuffle(width, g))
        for width in (0.5, 1.0, 1.5)
        for g in (1, 2, 3, 4, 8)
    ),
):
    TEACHERS.register(_entry)


def teacher(
    name: str, num_classes: int, in_channels: int = 3, image_size: int = 32, *, seed: int | None = None
) -> nn.Module:
    """Return a freshly initialised teacher of `TEACHERS` on the CPU, in training mode.

    It maps (B, in_channels, image_size, image_size) to logits (B, num_classes). With a seed the weights depend on it
    alone and the global random state stays as it was; without one they are drawn from the global state.

    Raises:
        ArchitectureError: The name is unknown, a number is not a positive integer, or the image is too small.
    """
    import torch  # here, so that the registry can be read without it

    from esnac_lib.architecture.initialisation import initialise, seeded

    if name not in TEACHERS:
        near = nearest(str(name), TEACHERS)
        raise ArchitectureError(f"unknown teacher {name!r}: the nearest is {near!r}, and all are {', '.join(TEACHERS)}")
    entry = TEACHERS[name]
    sizes = _checked_sizes(entry, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    if seed is None:
        with torch.device("cpu"):
            return initialise(entry.build(*sizes))
    return seeded(lambda: entry.build(*sizes), seed)


def _checked_sizes(entry: TeacherEntry, **sizes: Any) -> tuple[int, ...]:
    """Return the sizes as plain integers. Raises ArchitectureError for those that the teacher cannot have."""
    for what, value in sizes.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ArchitectureError(f"{what} = {value!r} of teacher {entry.name!r} must be a positive integer")
    if (size := sizes["image_size"]) < entry.smallest:
        raise ArchitectureError(
            f"teacher {entry.name!r} takes images of at least {entry.smallest} x {entry.smallest} pixels, "
            f"not {size} x {size}: enlarge the images or choose another teacher"
        )
    return tuple(map(int, sizes.values()))
