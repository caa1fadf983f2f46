"""Layer configurations: an architecture as a sequence of fixed feature vectors (ESNAC §6.2).

Each layer becomes a vector of m + 2n + 6: one-hot kind (m); kernel size, stride, padding, groups, input channels and
output channels (6); incoming edges (n) and outgoing edges (n), where n = `max_edge` is the longest edge that is
distinguished from longer ones.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.layer_types import LAYER_TYPES

# Kinds that came later have the column of the kind that they are most like, so that saved kernels still fit.
_LIKE = {"broadcast": "scale", "rms_norm": "layer_norm"}
KINDS = tuple(kind for kind in LAYER_TYPES if kind not in _LIKE)
ATTRIBUTES = ("kernel size", "stride", "padding", "groups", "input channels", "output channels")
MAX_EDGE = 128


def encoding_size(max_edge: int = MAX_EDGE) -> int:
    """Return the width m + 2n + 6 of an encoding."""
    return len(KINDS) + len(ATTRIBUTES) + 2 * max_edge


def encode(architecture: Architecture, max_edge: int = MAX_EDGE) -> np.ndarray:
    """Return the architecture as (L, m + 2n + 6) float32, its layers in canonical order: one encoding an `arch_id`.

    Attributes are unscaled and 0 where a layer has none; a batch norm has no channels (both as in the authors' code).
    A window or stride that is not square counts as the square of equal area √(h·w), its padding as the mean of both
    sides. An edge from the i-th to the j-th layer sets element j - i (counted from 1) of j's incoming and i's outgoing
    indicators; how often a layer is summed is not encoded, nor is the network's input an edge.
    """
    order = architecture.canonical_order
    place = {layer: position for position, layer in enumerate(order)}
    result = np.zeros((len(order), encoding_size(max_edge)), np.float32)
    first = len(KINDS) + len(ATTRIBUTES)
    for position, index in enumerate(order):
        layer = architecture.layers[index]
        result[position, : first - 2] = kind_and_attributes(layer.kind, layer.attrs)
        if layer.has_filters:
            result[position, first - 2 : first] = architecture.in_shapes[index][0][0], layer.channels
    for source, target in architecture.edges():
        # DEVIATION: the paper wants n as long as the longest edge, which is 128 for its teachers. In networks of
        # hundreds of layers that width would cost more than it is worth, so that longer edges share the last element.
        length = min(place[target] - place[source], max_edge)
        result[place[target], first + length - 1] = 1
        result[place[source], first + max_edge + length - 1] = 1
    return result


@lru_cache(maxsize=4096)
def kind_and_attributes(kind: str, attrs: tuple[tuple[str, Any], ...]) -> tuple[float, ...]:
    """Return the one-hot kind, kernel size, stride, padding, groups."""
    known = dict(attrs)
    kernel, stride, padding = (known.get(name, (0, 0)) for name in ("kernel_size", "stride", "padding"))
    numbers = (sqrt(kernel[0] * kernel[1]), sqrt(stride[0] * stride[1]), (padding[0] + padding[1]) / 2)
    kind = _LIKE.get(kind, kind)
    return (*(float(kind == other) for other in KINDS), *numbers, float(known.get("groups", 0)))
