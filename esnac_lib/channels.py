"""Which filters must be shrunk together, from the data flow, and how many of them a ratio leaves.

Every output channel of every convolution and linear layer is an atom. Following the data, sums tie atoms channel by
channel; depthwise convolutions, batch norms, activations and pools pass them on; concats stack, shuffles permute and a
flatten repeats them. Atoms tied to the network's input or output are frozen. What is tied and comes from the same
layers is a `Segment`: a run of channels that are kept or dropped as one. Segments that share a layer are a *family*: in
ShuffleNet a stage's width (200) is a family of two segments, the branch's channels (176) and the shortcut's (24).

Two things no ratio can shrink, so they are frozen too: maps that are summed after one of them was shuffled (of fewer
channels a shuffle makes another order), and families of which a part does not divide into the groups that read it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from math import floor, lcm, prod

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from esnac_lib.architecture import INPUT, Architecture, Slot
from esnac_lib.operators import is_depthwise, shuffled


@dataclass(frozen=True)
class Segment:
    """Channels that are kept or dropped together in all the layers that produce them.

    positions: for each producing layer (index) the positions of the segment's channels in its output, all in the same
    order. lower, upper: the share [lower, upper) of the family's width that the segment takes.
    """

    positions: dict[int, np.ndarray]
    family: int
    lower: int
    upper: int
    frozen: bool

    @property
    def width(self) -> int:
        """Channels before shrinking."""
        return self.upper - self.lower

    def first(self, count: int) -> dict[int, np.ndarray]:
        """For each producing layer, the positions of the segment's first `count` channels."""
        return {i: p[: count * (len(p) // self.width)] for i, p in self.positions.items()}


@dataclass(frozen=True)
class Flow:
    """The channels of every layer, as the tied sets that they belong to."""

    segments: tuple[Segment, ...]
    families: int
    out_atoms: tuple[np.ndarray, ...]  # of every layer: the tied set that each output channel belongs to
    in_atoms: tuple[np.ndarray, ...]  # of every layer's first slot, likewise
    segment_of: np.ndarray  # of a tied set
    multiples: tuple[int, ...]  # of every family: the groups, jointly, that its channels must divide into
    enclosing: dict[int, int]  # family -> the family of the block it lies within, if it lies within one

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Families that cannot be shrunk."""
        return frozenset(s.family for s in self.segments if s.frozen or s.width % self.multiples[s.family])

    def family_width(self, family: int) -> int:
        """The family's channels before shrinking."""
        return max(segment.upper for segment in self.segments if segment.family == family)


def trace_channels(architecture: Architecture) -> Flow:
    """Follow the channels of an architecture from its input to its output."""
    ties: list[tuple[np.ndarray, np.ndarray]] = []
    reordered: list[np.ndarray] = []  # the channels of sums in which a shuffle took part
    through_shuffle: list[bool] = []  # of every layer: whether its channels went through a shuffle
    out: list[np.ndarray] = []
    into: list[np.ndarray] = []
    inputs = np.arange(architecture.input_shape[0])
    total = len(inputs)
    starts: dict[int, int] = {}

    def read(part: Slot) -> np.ndarray:
        first, *rest = (inputs if i == INPUT else out[i] for i, _ in part)
        ties.extend((first, other) for other in rest)
        if rest and any(i != INPUT and through_shuffle[i] for i, _ in part):
            reordered.append(first)
        return first

    for index, layer in enumerate(architecture.layers):
        parts = [read(part) for part in layer.inputs]
        shapes = architecture.in_shapes[index]
        if is_depthwise(layer, shapes[0][0]):
            channels = np.repeat(parts[0], layer.channels // shapes[0][0])
        elif layer.has_filters:
            channels = np.arange(total, total + layer.channels)
            starts[index] = total
            total += layer.channels
        elif layer.kind == "flatten":
            channels = np.repeat(parts[0], prod(shapes[0][1:]))
        elif layer.kind == "channel_shuffle":
            channels = parts[0][shuffled(len(parts[0]), layer["groups"])]
        else:
            channels = np.concatenate(parts)
        out.append(channels)
        into.append(parts[0])
        passed = index not in starts and any(i != INPUT and through_shuffle[i] for i in layer.sources)
        through_shuffle.append(passed or layer.kind == "channel_shuffle")
    result = read(architecture.output)

    left = np.concatenate([a for a, _ in ties] or [np.arange(0)])
    right = np.concatenate([b for _, b in ties] or [np.arange(0)])
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(total, total))
    _, tied = connected_components(graph, directed=False)
    frozen = set(tied[np.concatenate([inputs, result, *reordered])])
    segments, families, segment_of = _segments(architecture, tied, starts, frozen)
    out_atoms = tuple(tied[channels] for channels in out)
    in_atoms = tuple(tied[channels] for channels in into)
    multiples = _multiples(architecture, segments, families, in_atoms, segment_of)
    enclosing = _enclosing(architecture, segments, out_atoms, segment_of)
    return Flow(segments, families, out_atoms, in_atoms, segment_of, multiples, enclosing)


def _segments(
    architecture: Architecture, tied: np.ndarray, starts: dict[int, int], frozen: set[int]
) -> tuple[tuple[Segment, ...], int, np.ndarray]:
    members: dict[int, list[int]] = defaultdict(list)  # tied set -> the layers that produce a channel of it
    for index, start in starts.items():
        for atom in tied[start : start + architecture.layers[index].channels]:
            members[int(atom)].append(index)
    sets: dict[tuple[tuple[int, ...], bool], list[int]] = defaultdict(list)
    for atom, producers in members.items():
        sets[tuple(producers), atom in frozen].append(atom)
    parent = {key: key for key in sets}

    def find(key: tuple[tuple[int, ...], bool]) -> tuple[tuple[int, ...], bool]:
        while parent[key] != key:
            key = parent[key]
        return key

    by_layer: dict[int, list[tuple[tuple[int, ...], bool]]] = defaultdict(list)
    for key in sets:
        for index in set(key[0]):
            by_layer[index].append(key)
    for keys in by_layer.values():
        for key in keys[1:]:
            parent[find(key)] = find(keys[0])
    families: dict[tuple[tuple[int, ...], bool], list[tuple[tuple[int, ...], bool]]] = defaultdict(list)
    for key in sets:
        families[find(key)].append(key)

    segments: list[Segment] = []
    segment_of = np.full(int(tied.max()) + 1, -1)
    for family, keys in enumerate(families.values()):
        whole = max({i for key in keys for i in key[0]}, key=lambda i: architecture.layers[i].channels)
        rank = {int(atom): p for p, atom in enumerate(_atoms(architecture, tied, starts, whole))}
        lower = 0
        for key in sorted(keys, key=lambda key: (min(rank.get(a, len(rank)) for a in sets[key]), key[0])):
            atoms = sets[key]
            segment_of[atoms] = len(segments)
            order = {atom: p for p, atom in enumerate(atoms)}
            positions = {}
            for index in sorted(set(key[0])):
                here = _atoms(architecture, tied, starts, index)
                found = [p for p, atom in enumerate(here) if int(atom) in order]
                positions[index] = np.array(sorted(found, key=lambda p: (order[int(here[p])], p)))
            segments.append(Segment(positions, family, lower, lower + len(atoms), key[1]))
            lower += len(atoms)
    return tuple(segments), len(families), segment_of


def _atoms(architecture: Architecture, tied: np.ndarray, starts: dict[int, int], index: int) -> np.ndarray:
    return tied[starts[index] : starts[index] + architecture.layers[index].channels]


def _enclosing(
    architecture: Architecture, segments: tuple[Segment, ...], out_atoms: tuple[np.ndarray, ...], segment_of: np.ndarray
) -> dict[int, int]:
    """For each family that only one arm of a later sum or concat can see: the family of that sum or concat.

    The middle channels of a bottleneck lie within its block; the stem of a network feeds both arms of a block, and so
    lies within none.
    """
    # for every layer the sums and concats that it meets first downstream, as (reader, slot, source)
    arms: dict[int, set[tuple[int, int, int]]] = defaultdict(set)
    for i in reversed(range(len(architecture.layers))):
        for j, position, _ in architecture.consumers[i]:
            part = architecture.output if j == -1 else architecture.layers[j].inputs[position]
            if len(part) > 1 or (j >= 0 and len(architecture.layers[j].inputs) > 1):
                arms[i].add((j, position, i))
            elif j >= 0:
                arms[i] |= arms[j]
    reached: dict[int, set[tuple[int, int, int]]] = defaultdict(set)
    for segment in segments:
        for index in segment.positions:
            reached[segment.family] |= arms[index]
    enclosing: dict[int, int] = {}
    for family, meets in reached.items():
        if len(meets) != 1:
            continue
        [(reader, position, source)] = meets
        # of a sum, also one that a concat reads, any term has its channels; a concat has its own
        summed = reader == -1 or len(architecture.layers[reader].inputs[position]) > 1
        end = source if summed else reader
        found = {segments[s].family if s >= 0 else None for s in segment_of[out_atoms[end]]}
        if len(found) == 1 and (block := found.pop()) not in (None, family):
            enclosing[family] = block
    return enclosing


def _multiples(
    architecture: Architecture,
    segments: tuple[Segment, ...],
    families: int,
    in_atoms: tuple[np.ndarray, ...],
    segment_of: np.ndarray,
) -> tuple[int, ...]:
    """For every family, the groups of all layers that produce or read its channels, jointly."""
    groups: list[set[int]] = [{1} for _ in range(families)]
    for index, layer in enumerate(architecture.layers):
        grouped = layer.kind == "conv" and not is_depthwise(layer, architecture.in_shapes[index][0][0])
        if grouped or layer.kind == "channel_shuffle":
            read = {segments[s].family for s in segment_of[in_atoms[index]] if s >= 0}
            for family in read | {segment.family for segment in segments if index in segment.positions}:
                groups[family].add(layer["groups"])
    return tuple(lcm(*found) for found in groups)


def kept_count(width: int, ratio: float, multiple: int) -> int:
    """How many of `width` filters a shrinkage ratio leaves (ESNAC §3.2, [code]).

    max(1, ⌊(1 − r)·F⌋); where channels must divide into groups, rounded up to a multiple of them, and then never more
    than there are.
    """
    exact = round((1 - ratio) * width, 9)  # so that 1 - 0.7 does not lose a filter to binary fractions
    if multiple == 1:
        return min(width, max(1, floor(exact)))
    return min(width, max(multiple, -int(-exact // multiple) * multiple))
