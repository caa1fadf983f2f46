"""Repair a decoded sequence so that it is a valid architecture.

A decoded sequence ends before its first t = 0. Its layers are then repaired from the first to the last:

1. Numbers that a type does not have become 0, o becomes the channels of the input where it cannot be chosen, widths
   become multiples of the step, k and s at least 1, p at least 0 (of pools at most half of k, or 0 where enforced).
2. A kernel larger than its padded map becomes as large as the map.
3. A linear layer that a convolution, a pool or a batch norm still follows is left out.
4. Where §3's assumptions are enforced, the second of two activations is left out, and a pool that reduces nothing.
5. What is too long is cut. The last linear layer becomes the classifier; if there is none at the end, it is added.

What then has no convolution, or too many MACs, is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from esnac_lib.architecture.layer_types import Shape
from esnac_lib.latent_descent.random_architectures import round_to_step
from esnac_lib.latent_descent.sequence import (
    ACTIVATIONS,
    CONV,
    LINEAR,
    ON_IMAGES,
    POOLS,
    Item,
    Items,
    SequenceSpace,
    canonical,
)


@dataclass(frozen=True)
class Repaired:
    """A valid sequence, and the count of each kind of repair ("entries" counts items whose numbers changed)."""

    items: Items
    repairs: dict[str, int]


def repair(space: SequenceSpace, decoded: Sequence[Item]) -> Repaired:
    """Return the valid sequence of a decoded one, or raise InvalidSequence if the rules above do not make it valid."""
    counts: Counter[str] = Counter()
    end = next((index for index, item in enumerate(decoded) if item.t < CONV), len(decoded))
    body = [item._replace(t=min(item.t, LINEAR)) for item in decoded[:end]]
    if len(body) > space.max_length:
        counts["cut"] += 1
        body = body[: space.max_length]
    if body and body[-1].t == LINEAR:
        body.pop()
    else:
        counts["classifier added"] += 1
    body = body[: space.max_length - 1]
    images = max((index for index, item in enumerate(body) if item.t in ON_IMAGES), default=-1)
    kept, shape = list[Item](), space.input_shape
    for index, item in enumerate(body):
        if item.t == LINEAR and index < images:
            counts["linear layer in between"] += 1
            continue
        repaired = _repaired_item(space, item, shape)
        before = kept[-1].t if kept else 0
        if space.enforced and item.t in ACTIVATIONS and before in ACTIVATIONS:
            counts["second activation"] += 1
            continue
        if space.enforced and item.t in POOLS and (shape[1] - repaired.k) // repaired.s + 1 >= shape[1]:
            counts["pool that reduces nothing"] += 1
            continue
        counts["entries"] += repaired != item
        kept.append(repaired)
        shape, _ = space.step(repaired, before, shape)
    items = (*kept, Item(LINEAR, 0, space.num_classes, 0, 0))
    space.check(items)
    return Repaired(items, {name: count for name, count in counts.items() if count})


def _repaired_item(space: SequenceSpace, item: Item, shape: Shape) -> Item:
    """Return the item with numbers that are valid on a map of this shape."""
    if item.t in (CONV, LINEAR):
        item = item._replace(o=round_to_step(item.o, space.width_step))
    if item.t == CONV:
        item = item._replace(k=max(1, item.k), s=max(1, item.s), p=max(0, item.p))
        item = item._replace(k=min(item.k, min(shape[1:]) + 2 * item.p))
    elif item.t in POOLS:
        k = max(1, item.k)
        padding = 0 if space.enforced else min(max(0, item.p), k // 2)
        k = min(k, min(shape[1:]) + 2 * padding)
        item = item._replace(k=k, s=max(1, item.s), p=min(padding, k // 2))
    return canonical(item, shape[0])
