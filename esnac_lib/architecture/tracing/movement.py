"""Where the elements of a rearranged tensor come from: views, permutations, slices and chunks are applied to an index.

A tensor that only holds numbers of a map (C, H, W), or of features (F,), is described by an *index*: the same
operations, done to a tensor that numbers the elements. `classify` says which layers would make it, and how it lies:

    >>> index = numbered((4, 9, 9), batch=2)
    >>> classify(index.view(2, 2, 2, 9, 9).transpose(1, 2).reshape(2, 4, 9, 9), (4, 9, 9))
    Reading(steps=(('select', {'runs': ((0, 1), (2, 3), (1, 2), (3, 4))}),), shape=(4, 9, 9), layout='chw')

Layouts: "chw" is a map as (B, C, H, W); "hwc", "nc" and "cn" present the same map as (B, H, W, C), (B, H·W, C) and
(B, C, H·W); "f" are features (B, F).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esnac_lib.architecture.layer_types import Shape

Steps = tuple[tuple[str, dict[str, Any]], ...]

# The dimensions of each layout that hold the channels, and height and width.
CHANNELS = {"chw": 1, "hwc": 3, "nc": 2, "cn": 1, "f": 1}
SPACE = {"chw": (2, 3), "hwc": (1, 2), "nc": (1,), "cn": (2,), "f": ()}
_BY_RANK = {2: ("f",), 3: ("nc", "cn"), 4: ("chw", "hwc")}


class Reading(NamedTuple):
    """How to read a moved tensor: the layers (kind, attributes) that turn its source into a map, and that map's layout.

    The tensor may be the map repeated along a dimension in which the map has length one (`expand`).
    """

    steps: Steps
    shape: Shape
    layout: str


def numbered(shape: Shape, batch: int) -> Tensor:
    """Return an index (batch, *shape): every element holds its number."""
    return torch.arange(batch * prod(shape)).view(batch, *shape)


def present(x: Tensor, layout: str) -> Tensor:
    """Return a map (B, C, H, W), or features (B, F), in a layout."""
    if layout == "hwc":
        return x.permute(0, 2, 3, 1)
    if layout == "nc":
        return x.flatten(2).transpose(1, 2)
    return x.flatten(2) if layout == "cn" else x


def restore(x: Tensor, layout: str, size: tuple[int, ...]) -> Tensor:
    """Return the inverse of `present`, for a map of this height and width."""
    if layout == "hwc":
        return x.permute(0, 3, 1, 2)
    if layout == "nc":
        x = x.transpose(1, 2)
    return x.unflatten(2, size) if layout in ("nc", "cn") else x


def presented(shape: Shape, layout: str) -> Shape:
    """Return the shape, without the batch, in which a map (C, H, W) or features (F,) appear."""
    return tuple(present(torch.empty(1, *shape, device="meta"), layout).shape[1:])


def is_one_to_one(index: Tensor, source: Shape) -> bool:
    """Return whether a moved tensor holds every element of its source once, image by image."""
    if not _batch_untouched(index, source) or index[0].numel() != prod(source):
        return False
    return bool((index[0].flatten().bincount(minlength=prod(source)) == 1).all())


def classify(index: Tensor, source: Shape) -> Reading | None:
    """Return how to read a tensor (B, ...) of elements of a map (C, H, W) or features (F,); None if no way is known.

    What is known: any channels in any order, none twice; with regular rows and columns; all that presented in some
    layout, flattened, or (features) as maps of one pixel; and expanded.
    """
    if not _batch_untouched(index, source):
        return None
    index = _unexpanded(index)
    for layout in _BY_RANK.get(index.ndim, ()):
        for size in _sizes(index, layout, source):
            image = index.unflatten(1, (-1, *size)) if layout == "f" else restore(index, layout, size)
            if (found := _picked(image[0], source)) is not None:
                return _reading(*found, layout, source)
    return None


def _reading(steps: Steps, shape: Shape, layout: str, source: Shape) -> Reading:
    """Add the change between map and features, where there is one."""
    if (layout == "f") != (len(source) == 1):
        steps = (*steps, ("flatten" if layout == "f" else "unflatten", {}))
    return Reading(steps, (prod(shape),) if layout == "f" else shape, layout)


def _batch_untouched(index: Tensor, source: Shape) -> bool:
    """Return whether every image of the tensor holds elements of its own image alone, each at the same places."""
    images = torch.arange(len(index)).view(-1, *[1] * (index.ndim - 1)) * prod(source)
    first = index[:1]
    return bool(index.numel() and (index == first + images).all() and first.min() >= 0 and first.max() < prod(source))


def _unexpanded(index: Tensor) -> Tensor:
    """Return the index without repetition: a dimension along which nothing changes is cut to length one."""
    for dim in range(1, index.ndim):
        start = index.narrow(dim, 0, 1)
        if index.shape[dim] > 1 and bool((index == start).all()):
            index = start
    return index


def _sizes(index: Tensor, layout: str, source: Shape) -> list[tuple[int, int]]:
    """Return the heights and widths that a tensor of this layout can have."""
    if layout in ("chw", "hwc"):
        height, width = (index.shape[dim] for dim in SPACE[layout])
        return [(height, width)]
    found = dict.fromkeys([(source[1], source[2]), (1, 1)] if len(source) == 3 else [(1, 1)])
    length = index.shape[1 if layout == "f" else SPACE[layout][0]]
    return [size for size in found if (length % prod(size) == 0 if layout == "f" else length == prod(size))]


def _picked(image: Tensor, source: Shape) -> tuple[Steps, Shape] | None:
    """Return the layers that pick (C', H', W') from the source, if channels, rows and columns are independent."""
    channels, height, width = source if len(source) == 3 else (source[0], 1, 1)
    area = height * width
    picks = image[:, 0, 0] // area
    top, left = divmod(int(image[0, 0, 0]) % area, width)
    down = int(image[0, 1, 0] - image[0, 0, 0]) // width if image.shape[1] > 1 else 1
    right = int(image[0, 0, 1] - image[0, 0, 0]) if image.shape[2] > 1 else 1
    if down < 1 or right < 1 or len(picks.unique()) < len(picks):
        return None
    rows, columns = top + down * torch.arange(image.shape[1]), left + right * torch.arange(image.shape[2])
    expected = picks[:, None, None] * area + rows[:, None] * width + columns
    if rows[-1] >= height or columns[-1] >= width or not torch.equal(image, expected):
        return None
    steps: list[tuple[str, dict[str, Any]]] = []
    if picks.tolist() != list(range(channels)):
        steps.append(("select", {"runs": _runs(picks.tolist())}))
    vertical, horizontal = _cut(rows, down, height), _cut(columns, right, width)
    if any((*vertical, *horizontal)):
        steps.append(("pad", {"sizes": (*horizontal, *vertical)}))
    if down > 1 or right > 1:
        steps.append(("max_pool", {"kernel_size": 1, "stride": (down, right)}))
    return tuple(steps), tuple(image.shape)


def _cut(picks: Tensor, stride: int, length: int) -> tuple[int, int]:
    """Return the border, negative where it cuts, that leaves these rows once the stride has passed."""
    first, last = int(picks[0]), int(picks[-1])
    return (0, 0) if first == 0 and last + stride >= length else (-first, last + 1 - length)


def _runs(picks: list[int]) -> tuple[tuple[int, int], ...]:
    """Return positions as runs (start, stop)."""
    cuts = [0, *(place for place, (a, b) in enumerate(pairwise(picks), 1) if b != a + 1), len(picks)]
    return tuple((picks[start], picks[stop - 1] + 1) for start, stop in pairwise(cuts))
