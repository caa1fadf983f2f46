"""What decoded networks are like (§5.3, §10): redundant layers, and batch norms in front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from esnac_lib.architecture_compression.sequence import ACTIVATIONS, BATCH_NORM, CONV, DROPOUT, LINEAR, POOLS, Item

PATTERNS: Final = (
    "batch norm before the first convolution",
    "activations in a row",
    "batch norms in a row",
    "pools with kernel and stride 1",
    "dropouts of probability 0",
    "convolutions with a stride",
)


def patterns_of(items: Sequence[Item]) -> dict[str, int]:
    """How often each of `PATTERNS` occurs in a sequence (the first: 0 or 1).

    >>> relu, norm, conv = Item(4, 0, 1, 0, 0), Item(3, 0, 1, 0, 0), Item(1, 3, 8, 2, 1)
    >>> list(patterns_of([norm, norm, conv, relu, relu, Item(8, 0, 10, 0, 0)]).values())
    [1, 1, 1, 0, 0, 1]
    """
    types = [item.t for item in items]
    first = types.index(CONV) if CONV in types else len(types)
    pairs = list(pairwise(types))
    counts = (
        int(BATCH_NORM in types[:first]),
        sum(a in ACTIVATIONS and b in ACTIVATIONS for a, b in pairs),
        sum(a == b == BATCH_NORM for a, b in pairs),
        sum(item.t in POOLS and item.k == item.s == 1 for item in items),
        sum(item.t == DROPOUT and item.p == 0 for item in items),
        sum(item.t == CONV and item.s > 1 for item in items),
    )
    return dict(zip(PATTERNS, counts, strict=True))


def parameter_free(items: Sequence[Item]) -> float:
    """The share of layers that have no parameters."""
    return sum(item.t not in (CONV, LINEAR, BATCH_NORM) for item in items) / len(items)
