"""Generate random architectures, by the rules of §9 or around a teacher; degenerate draws are rejected and counted.

- *random* (§9): length U(2, 50), every layer's type and numbers uniform, the last layer the classifier. Nearly all
  draws are degenerate, the more surely the longer, so that those left are mostly very short networks.
- *around* (DEVIATION: the paper has no such set): the teacher with its widths scaled, some layers left out, kernel
  sizes and pools exchanged. A teacher of 20 layers is far from all of §9's networks; it lies among these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from esnac_lib.errors import SpaceError
from esnac_lib.latent_descent.sequence import (
    AVG_POOL,
    BATCH_NORM,
    CONV,
    DROPOUT,
    LINEAR,
    MAX_POOL,
    POOLS,
    InvalidSequence,
    Item,
    Items,
    SequenceSpace,
    canonical,
)

Distribution = Literal["random", "around"]
Sample = Callable[[np.random.Generator], Items]

LENGTH, SMALL, WIDTH = (2, 50), (1, 10), (16, 4096)  # ranges of the length, of k, s and p, and of o (§9)
STARTS = (CONV, LINEAR, *POOLS)  # types that begin a block
MAX_DRAWS: Final = 1_000_000
"""Limit for one architecture. With 28×28 images and at most 12 million MACs, one draw in 60 is accepted (§9)."""


@dataclass(frozen=True)
class Draw:
    """An accepted sequence, and how many draws before it were rejected for which reason."""

    items: Items
    rejected: dict[str, int]


def draw(space: SequenceSpace, sample: Sample, rng: np.random.Generator, seen: Collection[str] = ()) -> Draw:
    """Return the first valid sequence whose arch_id is not `seen`, or raise SpaceError if `MAX_DRAWS` have none."""
    rejected: Counter[str] = Counter()
    for _ in range(MAX_DRAWS):
        items = sample(rng)
        try:
            space.check(items)
        except InvalidSequence as error:
            rejected[error.reason] += 1
            continue
        if space.to_architecture(items).arch_id not in seen:
            return Draw(items, dict(rejected))
        rejected["seen before"] += 1
    common = ", ".join(f"{reason} ({count:,})" for reason, count in rejected.most_common(3))
    raise SpaceError(f"no new architecture in {MAX_DRAWS:,} draws: {common}; raise max_macs or ask for fewer")


def random_sequence(space: SequenceSpace, rng: np.random.Generator) -> Items:
    """Draw one sequence by the rules of §9; it is often degenerate.

    Widths are rounded to the space's step, and a dropout's probability is p tenths, at most 0.9. Where assumption 3 is
    enforced a pool's padding is 0, since no pool would be left otherwise.
    """
    length = int(rng.integers(*LENGTH, endpoint=True))
    types = rng.integers(CONV, LINEAR, length - 1, endpoint=True)
    small = rng.integers(*SMALL, (length - 1, 3), endpoint=True)
    widths = rng.integers(*WIDTH, length - 1, endpoint=True)
    items = [
        Item(t, k, round_to_step(o, space.width_step), s, 0 if space.enforced and t in POOLS else p)
        for t, (k, s, p), o in zip(types.tolist(), small.tolist(), widths.tolist(), strict=True)
    ]
    return (*with_channels(items, space.input_shape[0]), Item(LINEAR, 0, space.num_classes, 0, 0))


def round_to_step(width: float, step: int) -> int:
    """Return the positive multiple of `step` nearest to `width`."""
    return step * max(1, round(width / step))


def sequence_around(space: SequenceSpace, teacher: Items, rng: np.random.Generator) -> Items:
    """Draw one sequence around a teacher's; it may be degenerate.

    All widths times 2^u, u ~ U(-3.5, 0), and each times 2^v, v ~ U(-0.7, 0.7), at most the teacher's; with one rate in
    {0, 0.1, 0.2, 0.3} a sequence, convolutions are removed with what follows them, and at half of it batch norms and
    activations alone; a quarter of the kernels become 1, 3 or 5 wide; some pools become the other kind or a stride.
    """
    scale = 2 ** rng.uniform(-3.5, 0)
    rate = rng.choice([0.0, 0.1, 0.2, 0.3])
    kept = (block for block in blocks_of(teacher[:-1]) if not (block[0].t == CONV and rng.random() < rate))
    blocks = _vary_pools([_vary_block(space, block, scale, rng) for block in kept], rng)
    items = [item for block in blocks for item in block if item.t in STARTS or rng.random() >= rate / 2]
    if rng.random() < 0.15:
        items.insert(0, Item(BATCH_NORM, 0, 0, 0, 0))
    if rng.random() < 0.2:
        k = int(rng.integers(2, 7, endpoint=True))
        items.append(Item(AVG_POOL, k, 0, k, 0))
    if rng.random() < 0.1:
        items.append(Item(DROPOUT, 0, 0, 0, int(rng.integers(1, 5, endpoint=True))))
    return with_channels([*items, teacher[-1]], space.input_shape[0])


def blocks_of(items: Sequence[Item]) -> list[list[Item]]:
    """Split into blocks: a convolution or linear layer with what follows it, or a pool alone."""
    blocks: list[list[Item]] = []
    for item in items:
        if item.t in STARTS or not blocks or blocks[-1][0].t in POOLS:
            blocks.append([item])
        else:
            blocks[-1].append(item)
    return blocks


def _vary_block(space: SequenceSpace, block: list[Item], scale: float, rng: np.random.Generator) -> list[Item]:
    if (first := block[0]).t not in (CONV, LINEAR):
        return block
    width = round_to_step(first.o * scale * 2 ** rng.uniform(-0.7, 0.7), space.width_step)
    first = first._replace(o=min(first.o, width))
    if first.t == CONV and rng.random() < 0.25:
        k = int(rng.choice([1, 3, 5]))
        first = first._replace(k=k, p=k // 2)
    return [first, *block[1:]]


def _vary_pools(blocks: list[list[Item]], rng: np.random.Generator) -> list[list[Item]]:
    """Turn a fifth of the pools into the other kind, and a fifth into the stride of the convolution before them."""
    kept: list[list[Item]] = []
    for block in blocks:
        pool, luck = block[0], rng.random()
        if pool.t in POOLS and luck < 0.2:
            block = [pool._replace(t=AVG_POOL if pool.t == MAX_POOL else MAX_POOL), *block[1:]]
        elif pool.t in POOLS and luck < 0.4 and kept and kept[-1][0].t == CONV:
            conv = kept[-1][0]
            kept[-1] = [conv._replace(s=conv.s * pool.s), *kept[-1][1:], *block[1:]]
            continue
        kept.append(block)
    return kept


def with_channels(items: Sequence[Item], channels: int) -> Items:
    """Return the items with the o that each has after those before it."""
    out: list[Item] = []
    for item in items:
        out.append(canonical(item, out[-1].o if out else channels))
    return tuple(out)
