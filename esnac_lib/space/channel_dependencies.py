"""Coupled channels: which filters must be shrunk together, from the data flow, and how many of them a ratio leaves.

Every output channel of every convolution and linear layer is an atom. Following the data, sums couple atoms channel by
channel, and so do products (a gate of squeeze-and-excitation); depthwise convolutions, norms, activations and pools
pass them on; concats stack, shuffles permute, selections pick and a flatten repeats them. Atoms coupled to the
network's input or output are frozen, and so are those that an opaque layer reads or puts out. Coupled sets that come
from the same layers and are picked by the same selections are a `Segment`: a run of channels that are kept or dropped
as one. Segments that share a layer are a *family* (a dependency group, as Fang et al., 2023, call it): in ShuffleNet a
stage's width (200) is a family of two segments, the branch's channels (176) and the shortcut's (24).

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

from esnac_lib.architecture.channel_routing import is_depthwise, selected, shuffled
from esnac_lib.architecture.graph import INPUT, Architecture
from esnac_lib.architecture.layer_types import Slot

_Cuts = tuple[tuple[int, int], ...]  # selections, each with how often it picks an atom
_Key = tuple[tuple[int, ...], bool, _Cuts]  # what a segment's atoms share: producers, frozen, selections


@dataclass(frozen=True)
class Segment:
    """Channels that are kept or dropped together in all the layers that produce them."""

    positions: dict[int, np.ndarray]  # by producing layer, those of the channels in its output, all in the same order
    family: int
    lower: int  # the segment takes [lower, upper) of the family's width
    upper: int
    frozen: bool

    @property
    def width(self) -> int:
        """Its channels before shrinking."""
        return self.upper - self.lower

    def first(self, count: int) -> dict[int, np.ndarray]:
        """For each producing layer, the positions of the segment's first `count` channels."""
        return {i: p[: count * (len(p) // self.width)] for i, p in self.positions.items()}


@dataclass(frozen=True)
class Flow:
    """The channels of every layer, as the coupled sets that they belong to."""

    segments: tuple[Segment, ...]
    out_atoms: tuple[np.ndarray, ...]  # of every layer: the coupled set that each output channel belongs to
    in_atoms: tuple[np.ndarray, ...]  # of every layer's first slot, likewise
    segment_of: np.ndarray  # of a coupled set
    multiples: tuple[int, ...]  # of every family: the groups, jointly, that its channels must divide into
    reasons: dict[int, str]  # coupled set -> why nothing may shrink it
    enclosing: dict[int, int]  # family -> the family of the block it lies within, if it lies within one

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Families that cannot be shrunk."""
        return frozenset(s.family for s in self.segments if s.frozen or s.width % self.multiples[s.family])

    def why_fixed(self, index: int) -> str | None:
        """Why the output channels of a layer cannot be shrunk, in words; None if they can."""
        sets = np.unique(self.out_atoms[index])
        if own := [self.reasons[coupled] for coupled in sets.tolist() if coupled in self.reasons]:
            return own[0]
        families = np.array([*(segment.family for segment in self.segments), -1])[self.segment_of]  # of coupled sets
        for family in {int(found) for found in families[sets] if found >= 0} & self.fixed:
            frozen = [self.reasons[t] for t in np.flatnonzero(families == family).tolist() if t in self.reasons]
            return frozen[0] if frozen else f"a part of it does not divide into {self.multiples[family]} groups"
        return None

    def family_width(self, family: int) -> int:
        """Return the family's channels before shrinking."""
        return max(segment.upper for segment in self.segments if segment.family == family)


def trace_channels(architecture: Architecture) -> Flow:
    """Follow the channels of an architecture from its input to its output."""
    atoms = _Atoms(architecture)
    for index in range(len(architecture.layers)):
        atoms.follow(index)
    atoms.freeze(atoms.read(architecture.output), "it is the network's output")
    coupled, reasons = atoms.coupled_sets()
    out_atoms, in_atoms = (tuple(coupled[channels] for channels in way) for way in (atoms.out, atoms.into))
    made = {index: out_atoms[index] for index in atoms.makers}
    sets = _alike_sets(made, reasons, _cuts(architecture, out_atoms))
    segment_of = np.full(int(coupled.max()) + 1, -1)
    segments = _segments(made, sets, segment_of)
    multiples = _multiples(architecture, segments, in_atoms, segment_of)
    enclosing = _enclosing(architecture, segments, out_atoms, segment_of)
    return Flow(segments, out_atoms, in_atoms, segment_of, multiples, reasons, enclosing)


class _Atoms:
    """Which atom every channel of every layer is, and which atoms are coupled."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.total = 0
        self.inputs = self._new(architecture.input_shape[0])
        self._frozen = [(self.inputs, "it is summed with the network's input")]
        self.makers: list[int] = []  # layers that have atoms of their own
        self.out: list[np.ndarray] = []  # of each layer followed so far, the atoms that it puts out
        self.into: list[np.ndarray] = []  # and those of its first slot
        self._couplings: list[tuple[np.ndarray, np.ndarray]] = []
        self._shuffled: list[bool] = []  # of every layer: whether its channels went through a shuffle

    def _new(self, count: int) -> np.ndarray:
        self.total += count
        return np.arange(self.total - count, self.total)

    def freeze(self, atoms: np.ndarray, reason: str) -> None:
        """Nothing may shrink these."""
        self._frozen.append((atoms, reason))

    def read(self, part: Slot) -> np.ndarray:
        """Return the atoms of a slot, whose terms are coupled."""
        return self._couple([(self.inputs if i == INPUT else self.out[i], i) for i, _ in part])

    def _couple(self, terms: list[tuple[np.ndarray, int]]) -> np.ndarray:
        (first, _), *rest = terms
        self._couplings.extend((first, other) for other, _ in rest)
        if rest and any(i != INPUT and self._shuffled[i] for _, i in terms):
            self.freeze(first, "it is summed after a channel shuffle")
        return first

    def follow(self, index: int) -> None:
        """Take in the next layer."""
        layer = self.architecture.layers[index]
        parts = [self.read(part) for part in layer.inputs]
        self.out.append(self._put_out(index, parts))
        self.into.append(parts[0])
        own = index in self.makers or layer.kind == "opaque"
        passed = not own and any(i != INPUT and self._shuffled[i] for i in layer.sources)
        self._shuffled.append(passed or layer.kind == "channel_shuffle")

    def _put_out(self, index: int, parts: list[np.ndarray]) -> np.ndarray:
        layer, shape = self.architecture.layers[index], self.architecture.in_shapes[index][0]
        first = parts[0]
        if layer.kind == "opaque":
            made = self._new(self.architecture.shapes[index][0])
            for atoms in (*parts, made):
                self.freeze(atoms, f"opaque layer {layer.name!r} ({layer.reason or layer['what']})")
            return made
        if is_depthwise(layer, shape[0]):
            return np.repeat(first, layer.channels // shape[0])
        if layer.has_filters:
            self.makers.append(index)
            return self._new(layer.channels)
        if layer.kind == "flatten":
            return np.repeat(first, prod(shape[1:]))
        if layer.kind == "channel_shuffle":
            return first[shuffled(len(first), layer["groups"])]
        if layer.kind == "select":
            return first[selected(layer)]
        if layer.kind in ("multiply", "add"):
            widest = max(map(len, parts))  # one channel alone serves all of the other side
            wide = zip(parts, layer.inputs, strict=True)
            return self._couple([(atoms, part[0][0]) for atoms, part in wide if len(atoms) == widest])
        return np.concatenate(parts)

    def coupled_sets(self) -> tuple[np.ndarray, dict[int, str]]:
        """Of every atom the set of coupled ones that it is in, and of the sets that are frozen the reason."""
        left, right = (np.concatenate([np.arange(0), *(pair[end] for pair in self._couplings)]) for end in (0, 1))
        _, coupled = _components(left, right, self.total)
        reasons: dict[int, str] = {}
        for atoms, reason in self._frozen:
            for found in np.unique(coupled[atoms]).tolist():
                reasons.setdefault(found, reason)
        return coupled, reasons


def _components(left: np.ndarray, right: np.ndarray, count: int) -> tuple[int, np.ndarray]:
    """How many parts the graph of `count` nodes with these edges has, and the part of each node."""
    edges = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    return connected_components(edges, directed=False)


def _cuts(architecture: Architecture, out_atoms: tuple[np.ndarray, ...]) -> dict[int, _Cuts]:
    """For each coupled set the selections that pick it; where they differ, neither part may lose all its channels."""
    picked: dict[int, _Cuts] = defaultdict(tuple)
    for index, layer in enumerate(architecture.layers):
        if layer.kind == "select":
            for atom, times in zip(*np.unique(out_atoms[index], return_counts=True), strict=True):
                picked[int(atom)] += ((index, int(times)),)
    return picked


def _alike_sets(made: dict[int, np.ndarray], reasons: dict[int, str], cuts: dict[int, _Cuts]) -> dict[_Key, list[int]]:
    """Return the coupled sets by what those of a segment share; `made`: of each of their layers the sets it outputs."""
    producers: dict[int, list[int]] = defaultdict(list)
    for index, atoms in made.items():
        for atom in atoms.tolist():
            producers[atom].append(index)
    sets: dict[_Key, list[int]] = defaultdict(list)
    for atom, layers in producers.items():
        sets[tuple(layers), atom in reasons, cuts.get(atom, ())].append(atom)
    return sets


def _segments(made: dict[int, np.ndarray], sets: dict[_Key, list[int]], segment_of: np.ndarray) -> tuple[Segment, ...]:
    """Return the segments; `segment_of` gets that of each coupled set."""
    segments: list[Segment] = []
    for family, keys in enumerate(_families(list(sets))):
        widest = max({i for key in keys for i in key[0]}, key=lambda i: len(made[i]))
        rank = {atom: p for p, atom in enumerate(made[widest].tolist())}
        lower = 0
        for key in sorted(keys, key=lambda key: (min(rank.get(a, len(rank)) for a in sets[key]), key)):
            atoms = sets[key]
            segment_of[atoms] = len(segments)
            order = {atom: p for p, atom in enumerate(atoms)}
            positions = {}
            for index in sorted(set(key[0])):
                found = [(order[atom], p) for p, atom in enumerate(made[index].tolist()) if atom in order]
                positions[index] = np.array([p for _, p in sorted(found)])
            segments.append(Segment(positions, family, lower, lower + len(atoms), key[1]))
            lower += len(atoms)
    return tuple(segments)


def _families(keys: list[_Key]) -> list[list[_Key]]:
    """Return the segments that share a layer, directly or through others, by their keys."""
    first: dict[int, int] = {}  # of each layer, its first segment
    pairs = [(first.setdefault(index, place), place) for place, key in enumerate(keys) for index in set(key[0])]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    count, family = _components(left, right, len(keys))
    return [[keys[place] for place in np.flatnonzero(family == number)] for number in range(count)]


def _enclosing(
    architecture: Architecture, segments: tuple[Segment, ...], out_atoms: tuple[np.ndarray, ...], segment_of: np.ndarray
) -> dict[int, int]:
    """For each family that only one arm of a later sum or concat can see: the family of that sum or concat.

    A bottleneck's middle channels lie within its block; a network's stem feeds both arms of a block: within none.
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
    architecture: Architecture, segments: tuple[Segment, ...], in_atoms: tuple[np.ndarray, ...], segment_of: np.ndarray
) -> tuple[int, ...]:
    """For every family, the groups of all layers that produce or read its channels, jointly."""
    multiples = [1] * (1 + max((segment.family for segment in segments), default=-1))
    for index, layer in enumerate(architecture.layers):
        grouped = layer.kind == "conv" and not is_depthwise(layer, architecture.in_shapes[index][0][0])
        if grouped or layer.kind in ("channel_shuffle", "group_norm"):
            read = {segments[s].family for s in segment_of[in_atoms[index]] if s >= 0}
            for family in read | {segment.family for segment in segments if index in segment.positions}:
                multiples[family] = lcm(multiples[family], layer["groups"])
    return tuple(multiples)


def kept_count(width: int, ratio: float, multiple: int) -> int:
    """Return how many of `width` filters a shrinkage ratio leaves (ESNAC §3.2, as the authors' code rounds it).

    It is max(1, ⌊(1 − r)·F⌋); where channels must divide into groups, rounded up to a multiple of them, and then never
    more than there are.
    """
    exact = round((1 - ratio) * width, 9)  # so that 1 - 0.7 does not lose a filter to binary fractions
    return min(width, max(multiple, floor(exact) if multiple == 1 else -int(-exact // multiple) * multiple))
