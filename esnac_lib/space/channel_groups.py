"""Which channels one shrinkage ratio serves, and which layers therefore keep equal shapes at every ratio.

`grouping="dimension"` is the paper's: one ratio for all channels of one width, where coupled channels, and those within
one block, have the block's width (ESNAC §6.5). `grouping="dependency"` gives one to each family of
coupled channels. Both read the same `Flow`; they differ in which families share a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, floor, lcm
from typing import Any

import numpy as np

from esnac_lib.architecture.graph import INPUT, Architecture
from esnac_lib.errors import SpaceError
from esnac_lib.space.channel_dependencies import Flow, Segment, kept_count, trace_channels
from esnac_lib.space.operators.remove import is_removable

GROUPINGS = ("dimension", "dependency")
MAX_RATIO_IN_GROUPS = 0.9  # of the authors' code, where channels must divide into groups


@dataclass(frozen=True)
class ChannelGroup:
    """Segments that one shrinkage ratio serves; their kept channels are multiples of `multiple`."""

    name: str
    segments: tuple[Segment, ...]
    multiple: int

    @property
    def max_ratio(self) -> float:
        """The largest ratio that is drawn."""
        return 1.0 if self.multiple == 1 else MAX_RATIO_IN_GROUPS

    def counts(self, ratio: float) -> list[int]:
        """How many channels of each segment stay: a shortcut gets its stage's kept width less the branch's."""
        if not ratio:
            return [segment.width for segment in self.segments]
        counts = []
        for segment in self.segments:
            low, high = (kept_count(end, ratio, self.multiple) if end else 0 for end in (segment.lower, segment.upper))
            counts.append(min(segment.width, max(self.multiple, high - low)))
        return counts

    def keep(self, ratio: float) -> dict[int, np.ndarray]:
        """For each layer, the positions of the channels that stay: each segment's first, as in the authors' code."""
        kept: dict[int, list[np.ndarray]] = {}
        for segment, count in zip(self.segments, self.counts(ratio), strict=True):
            for index, positions in segment.first(count).items():
                kept.setdefault(index, []).append(positions)
        return {index: np.sort(np.concatenate(parts)) for index, parts in kept.items()}

    def ratios_between(self, low: float, high: float) -> list[float]:
        """Ratios, ascending, of which every one between `low` and `high` keeps the same channels as one of them."""
        steps = {low, high}
        for end in {end for segment in self.segments for end in (segment.lower, segment.upper)} - {0}:
            first, last = floor((1 - high) * end / self.multiple), ceil((1 - low) * end / self.multiple)
            steps |= {1 - k * self.multiple / end for k in range(first, last + 1)}
        return [(a + b) / 2 for a, b in pairwise(sorted(step for step in steps if low <= step <= high))]


@dataclass(frozen=True)
class _Content:
    """What the channels of a map are made of; equal contents have equal channels at every ratio."""

    shape: tuple[int, ...]
    runs: frozenset[tuple[Any, int]]  # (segment's group or "fixed", lower, upper …) and how often

    @property
    def group(self) -> int | None:
        """The one group that the map's channels belong to, if it is one."""
        found = {key[0] for key, _ in self.runs}
        return found.pop() if len(found) == 1 and all(isinstance(g, int) for g in found) else None

    def under(self, firsts: Sequence[int]) -> _Content:
        """Return the same with each group replaced by the first of those that share its ratio."""
        runs: Counter[Any] = Counter()
        for key, count in self.runs:
            runs[(firsts[key[0]], *key[1:]) if isinstance(key[0], int) else key] += count
        return _Content(self.shape, frozenset(runs.items()))

    @property
    def is_fixed(self) -> bool:
        """Whether no ratio changes the map."""
        return all(not isinstance(key[0], int) for key, _ in self.runs)


class Grouping:
    """The channel groups of an architecture, in the order of the ratios of `Decisions`."""

    def __init__(self, architecture: Architecture, kind: str) -> None:
        if kind not in GROUPINGS:
            raise SpaceError(f"grouping = {kind!r}: allowed are {' and '.join(GROUPINGS)}")
        self.architecture, self.kind = architecture, kind
        self.flow: Flow = trace_channels(architecture)
        self.groups = self._groups()

    def __repr__(self) -> str:
        return f"Grouping({self.kind!r}: {', '.join(group.name for group in self.groups)})"

    def _groups(self) -> tuple[ChannelGroup, ...]:
        members: dict[int, list[Segment]] = {}
        for segment in self.flow.segments:
            if segment.family not in self.flow.fixed:
                block = self._block(segment.family)
                key = self.flow.family_width(block) if self.kind == "dimension" else segment.family
                members.setdefault(key, []).append(segment)
        groups = []
        for segments in members.values():
            families = {segment.family for segment in segments}
            width = max(self.flow.family_width(self._block(family)) for family in families)
            multiple = lcm(*(self.flow.multiples[family] for family in families))
            first = self.architecture.layers[min(index for segment in segments for index in segment.positions)].name
            groups.append(ChannelGroup(f"{width} ({first})", tuple(segments), multiple))
        return tuple(groups)

    def _block(self, family: int) -> int:
        """Return the family whose width counts for this one: that of the block it lies within, or itself."""
        block = self.flow.enclosing.get(family, family)
        return family if self.kind == "dependency" or block in self.flow.fixed else block

    @cached_property
    def into(self) -> tuple[_Content, ...]:
        """What the (first) input of each layer is made of."""
        return tuple(map(self._content, self.flow.in_atoms, [shapes[0] for shapes in self.architecture.in_shapes]))

    @cached_property
    def out(self) -> tuple[_Content, ...]:
        """What the output of each layer is made of."""
        return tuple(map(self._content, self.flow.out_atoms, self.architecture.shapes))

    @cached_property
    def shrinkable(self) -> tuple[int, ...]:
        """Convolutions and linear layers of which a ratio drops filters."""
        own = {i for group in self.groups for segment in group.segments for i in segment.positions}
        return tuple(sorted(i for i in own if self.architecture.layers[i].kind != "zeros"))

    @cached_property
    def lighter(self) -> tuple[int, ...]:
        """Layers that lose parameters to a ratio: it drops their filters, or channels that they read."""
        flow = self.flow
        owners = [
            np.unique(flow.segment_of[np.concatenate(pair)]) for pair in zip(flow.in_atoms, flow.out_atoms, strict=True)
        ]
        shrinks = [any(s >= 0 and flow.segments[s].family in self._group_of for s in found) for found in owners]
        return tuple(i for i, params in enumerate(self.architecture.layer_params) if params and shrinks[i])

    @cached_property
    def _group_of(self) -> dict[int, int]:
        return {segment.family: g for g, group in enumerate(self.groups) for segment in group.segments}

    def _content(self, atoms: np.ndarray, shape: tuple[int, ...]) -> _Content:
        runs: Counter[Any] = Counter()
        owners = self.flow.segment_of[atoms]
        for s, count in zip(*np.unique(owners, return_counts=True), strict=True):
            segment = self.flow.segments[s] if s >= 0 else None
            if segment is not None and segment.family in self._group_of:
                key = self._group_of[segment.family], segment.lower, segment.upper
                runs[key] += int(count) // segment.width
            elif self.kind == "dimension":
                runs["fixed", 0, 0] += int(count)
            else:  # joining channels that are not coupled couples them, so they are kept apart
                runs["fixed", *np.unique(atoms[owners == s]).tolist()] += int(count)
        return _Content(shape, frozenset(runs.items()))

    @cached_property
    def removable(self) -> tuple[int, ...]:
        """Layers whose input shape equals their output shape at every ratio, or at equal ratios of `couplings`."""
        passing = [i for i in range(len(self.architecture.layers)) if is_removable(self.architecture, i)]
        return tuple(i for i in passing if self.into[i] == self.out[i] or self._is_alike(i))

    def _is_alike(self, index: int) -> bool:
        """Whether input and output of a layer have equal shapes once their groups have one ratio, or none."""
        before, after = self.into[index], self.out[index]
        if before.is_fixed and after.is_fixed:
            return True
        if self.kind == "dimension" or before.group is None or after.group is None:
            return False
        one, other = ({(key[1:], count) for key, count in content.runs} for content in (before, after))
        return one == other and self.groups[before.group].multiple == self.groups[after.group].multiple

    @cached_property
    def couplings(self) -> dict[int, tuple[int, int]]:
        """Removable layers between two groups, with these: without the layer, both need the same ratio."""
        between = {index: (self.into[index].group, self.out[index].group) for index in self.removable}
        return {
            i: (min(a, b), max(a, b)) for i, (a, b) in between.items() if a is not None and b is not None and a != b
        }

    def joins(self, source: int, reader: int, firsts: Sequence[int]) -> bool:
        """Whether a skip connection fits where each group has its ratio in common with the first one named for it."""
        layers = self.architecture.layers
        if not 0 <= source < reader < len(layers) or len(layers[reader].inputs) != 1:
            return False
        made, read = self.out[source], self.into[reader]
        fixed = made.is_fixed and read.is_fixed
        return made.shape == read.shape if fixed else made.under(firsts) == read.under(firsts)

    @cached_property
    def connectable(self) -> tuple[tuple[int, int], ...]:
        """Pairs i < j where the output of i has the channels and size of the input of j at every ratio (ESNAC §6.5).

        Pairs that are edges already are among them (the paper counts them) and change nothing. Never into a layer of
        several inputs, nor into one that only reads a size.
        """
        readers: dict[_Content, list[int]] = {}
        for j, layer in enumerate(self.architecture.layers):
            if len(layer.inputs) == 1 and layer.kind != "zeros":
                readers.setdefault(self.into[j], []).append(j)
        return tuple((i, j) for i, made in enumerate(self.out) for j in readers.get(made, ()) if j > i)

    @cached_property
    def known_skips(self) -> frozenset[tuple[int, int]]:
        """Pairs that can be joined, also where the network's input stands in for a removed first layer."""
        before = {INPUT}  # layers in whose place the input stands when they, and what leads to them, are removed
        for i in self.removable:
            before |= {i} if self.architecture.layers[i].sources & before else set()
        return frozenset(self.connectable) | {(INPUT, j) for i, j in self.connectable if i in before}

    def firsts(self, removed: Iterable[int]) -> list[int]:
        """Return for each group the first of those that share its ratio once these layers are removed."""
        firsts = list(range(len(self.groups)))
        for low, high in sorted({self.couplings[i] for i in removed if i in self.couplings}):
            a, b = sorted((firsts[low], firsts[high]))
            firsts = [a if g == b else g for g in firsts]
        return firsts
