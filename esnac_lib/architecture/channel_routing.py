"""Which channels come out of a layer when only some go in."""

from __future__ import annotations

from math import prod

import numpy as np

from esnac_lib.architecture.graph import Layer
from esnac_lib.architecture.layer_types import LAYER_TYPES
from esnac_lib.errors import ArchitectureError


def follows_channels(layer: Layer) -> bool:
    """Return whether the layer's tensors have an element for each channel that it reads."""
    if layer.kind == "broadcast":
        return bool(layer["channels"])
    return LAYER_TYPES[layer.kind].follows and not (layer.kind == "prelu" and layer["shared"])


def is_depthwise(layer: Layer, in_channels: int) -> bool:
    """Return whether every filter of the layer reads one channel of its own."""
    return layer.kind == "conv" and in_channels > 1 and layer["groups"] == in_channels


def expand(channels: np.ndarray, times: int) -> np.ndarray:
    """Return the positions of the blocks of `times` elements that stand for the given channels."""
    return (channels[:, None] * times + np.arange(times)).ravel()


def route_channels(layer: Layer, shapes: tuple[tuple[int, ...], ...], kept: list[np.ndarray]) -> np.ndarray:
    """Return the former output positions that remain, in order, when a layer without filters keeps some input channels.

    Layer and shapes of its slots are those before shrinking; `kept` has the channels of each slot that stay. Raises
    ArchitectureError if a selection would be empty, or the slots of a sum or product keep different channels.
    """
    if layer.kind == "concat":
        offsets = np.cumsum([0] + [shape[0] for shape in shapes[:-1]])
        return np.concatenate([channels + offset for channels, offset in zip(kept, offsets, strict=True)])
    if layer.kind == "flatten":
        return expand(kept[0], prod(shapes[0][1:]))
    if layer.kind == "channel_shuffle":
        groups = layer["groups"]
        former, now = shuffled(shapes[0][0], groups), shuffled(len(kept[0]), groups)
        return np.argsort(former)[kept[0][now]]  # where each channel used to land
    if layer.kind == "select":
        flow = np.flatnonzero(np.isin(selected(layer), kept[0]))
        if not len(flow):
            raise ArchitectureError(f"layer {layer.name!r} would select none of the channels that are left")
        return flow
    if not all(np.array_equal(channels, kept[0]) for channels in kept):
        raise ArchitectureError(f"{layer.name!r} would join maps of which different channels were kept")
    return kept[0]


def selected(layer: Layer) -> np.ndarray:
    """Return the input channel at each output position of a `select` layer."""
    return np.concatenate([np.arange(start, stop) for start, stop in layer["runs"]])


def shuffled(channels: int, groups: int) -> np.ndarray:
    """Return the input channel that a channel shuffle puts at each output position (ShuffleNet §3.1)."""
    if channels % groups:
        raise ArchitectureError(f"{channels} channels cannot be shuffled in {groups} groups")
    return np.arange(channels).reshape(groups, channels // groups).T.ravel()
