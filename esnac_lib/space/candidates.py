"""What a student is to the samplers, without building it: its graph, its name and its encoding.

A candidate is encoded, scored, and in most cases forgotten. `CandidateMaker` goes from decisions to `arch_id` and
encoding by the teacher's tables: a ratio changes numbers of channels, a removal and a skip change edges. `space.apply`
makes the whole architecture, checked and with all that weights are inherited by; the two agree, as tests verify.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from esnac_lib.architecture.canonical import Graph, canonical_id, canonical_order
from esnac_lib.architecture.channel_routing import is_depthwise
from esnac_lib.architecture.encoding import ATTRIBUTES, KINDS, MAX_EDGE, kind_and_attributes
from esnac_lib.architecture.graph import INPUT, Architecture, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape, Slot
from esnac_lib.space.channel_dependencies import trace_channels
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.base import CandidateChanges
from esnac_lib.space.search_space import SearchSpace

BUILT = frozenset({"select"})  # kinds of which a ratio changes other attributes than channels and groups

_GROUPS = len(KINDS) + ATTRIBUTES.index("groups")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A student as a graph, and its costs."""

    graph: Graph
    rows: np.ndarray  # (L, m + 6), the kind and the attributes of each layer, as `encode` has them
    input_shape: Shape
    output: Slot
    num_params: int
    count_macs: Callable[[], int]  # computes `macs`, which not every objective needs

    @classmethod
    def of(cls, architecture: Architecture) -> Candidate:
        """Return the candidate of an architecture that is built already."""
        shape, output, params = architecture.input_shape, architecture.output, architecture.num_params
        return cls(architecture.graph, _rows(architecture), shape, output, params, lambda: architecture.macs)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image, as `Architecture.macs`."""
        return self.count_macs()

    @cached_property
    def order(self) -> tuple[int, ...]:
        """As `Architecture.canonical_order`."""
        return canonical_order(self.graph)

    @cached_property
    def edges(self) -> np.ndarray:
        """(E, 2): the places, in that order, of a layer and of one that reads it."""
        place = {i: position for position, i in enumerate(self.order)}
        read = ((j, i) for j, parts in enumerate(self.graph.inputs) for part in parts for i, _ in part)
        return np.array(sorted({(place[i], place[j]) for j, i in read if i != INPUT}), np.int64).reshape(-1, 2)

    @cached_property
    def key(self) -> bytes:
        """The same for equal encodings, and so for equal architectures: cheaper than `arch_id`."""
        return self.rows[list(self.order)].tobytes() + self.edges.tobytes()

    @cached_property
    def arch_id(self) -> str:
        """As `Architecture.arch_id`."""
        return canonical_id(self.graph, self.order, self.input_shape, self.output)

    def encode(self, max_edge: int = MAX_EDGE) -> np.ndarray:
        """As `esnac_lib.architecture.encoding.encode` of the architecture."""
        first = self.rows.shape[1]
        result = np.zeros((len(self.rows), first + 2 * max_edge), np.float32)
        result[:, :first] = self.rows[list(self.order)]
        source, target = self.edges.T
        length = np.minimum(target - source, max_edge)
        result[target, first + length - 1] = 1
        result[source, first + max_edge + length - 1] = 1
        return result


class CandidateMaker:
    """Makes the candidates of a space; for kinds `BUILT`, and operators that `change_candidate` leaves, by building."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._built = any(layer.kind in BUILT for layer in space.teacher.layers)
        self._widths = _Widths(space)
        self._rows = _rows(space.teacher)
        self._natures = space.teacher.graph.labels
        self._only = [_only_source(layer.inputs) for layer in space.teacher.layers]

    def make(self, decisions: Decisions) -> Candidate:
        """Return the candidate of decisions in the one form that `sample`, `mutate`, `cross` and `normalise` give."""
        if self._built or (changes := self.space.candidate_changes(decisions)) is None:
            return Candidate.of(self.space.apply(decisions))
        inputs, output = self._edges(changes)
        left = [i for i in range(len(self._rows)) if i not in changes.removed]
        widths = self._widths.at(changes.ratios)
        rows = self._rows[left]
        rows[:, -2:] = widths[left] * self._widths.filters[left]
        natures = [self._natures[i] for i in left]
        for place, i in enumerate(left):
            if i in self._widths.own:
                (kind, _, attrs), (into, out) = natures[place], widths[i].tolist()
                if i in self._widths.depthwise:
                    rows[place, _GROUPS] = into
                    attrs = tuple((name, into if name == "groups" else value) for name, value in attrs)
                natures[place] = kind, out, attrs
        graph = Graph(natures, inputs, _consumers(inputs, output))
        params, count_macs = self._widths.total(0, left, widths), partial(self._widths.total, 1, left, widths)
        return Candidate(graph, rows, self.space.teacher.input_shape, output, params, count_macs)

    def _edges(self, changes: CandidateChanges) -> tuple[list[tuple[Slot, ...]], Slot]:
        """Return the slots that each layer of the student reads, and its output (compare `remove` and `add_skips`)."""
        removed, added = changes.removed, changes.added
        stands_for = [slot(INPUT)] * (len(self._only) + 1)  # INPUT is the last
        inputs: list[tuple[Slot, ...]] = []
        for index, only in enumerate(self._only):
            if only is not None:
                parts: tuple[Slot, ...] = (stands_for[only],)
            else:
                parts = tuple([_through(part, stands_for) for part in self.space.teacher.layers[index].inputs])
            if index in removed:
                stands_for[index] = parts[0]
                continue
            for i in added.get(index, ()):
                if stands_for[i][0][0] not in [source for source, _ in parts[0]]:
                    parts = (_sum([(parts[0], 1), (stands_for[i], 1)]),)
            stands_for[index] = ((len(inputs), 1),)
            inputs.append(parts)
        return inputs, _through(self.space.teacher.output, stands_for)


class _Widths:
    """The input and output channels of all layers that hold parameters, by the ratios."""

    def __init__(self, space: SearchSpace) -> None:
        teacher, flow = space.teacher, trace_channels(space.teacher)
        self._groups = space.groups
        segments = [segment for group in space.groups for segment in group.segments]
        column = {(segment.family, segment.lower): c for c, segment in enumerate(segments)}
        self.own = {i for i, layer in enumerate(teacher.layers) if layer.has_filters}
        self.filters = np.array([[int(layer.has_filters)] for layer in teacher.layers])  # (L, 1)
        self.depthwise = {i for i in self.own if is_depthwise(teacher.layers[i], teacher.in_shapes[i][0][0])}
        self._teacher = teacher
        self._costly = [{i for i, n in enumerate(costs) if n} for costs in (teacher.layer_params, teacher.layer_macs)]
        self._costs: dict[tuple[int, int, int], tuple[int, int]] = {}  # by layer and channels
        self._tables = np.zeros((len(teacher.layers), 2, len(segments) + 1), np.int64)  # the last: those that all stay
        for way, atoms in enumerate((flow.in_atoms, flow.out_atoms)):
            for i in self.own.union(self._costly[0]):
                for s, count in zip(*np.unique(flow.segment_of[atoms[i]], return_counts=True), strict=True):
                    segment = flow.segments[s]
                    place = column.get((segment.family, segment.lower), -1) if s >= 0 else -1
                    self._tables[i, way, place] += count if place < 0 else count // segment.width

    def at(self, ratios: tuple[float, ...]) -> np.ndarray:
        """Input and output channels of each layer, (L, 2); 0 where it has no filters of its own."""
        counts = [n for group, ratio in zip(self._groups, ratios, strict=True) for n in group.counts(ratio)]
        return self._tables @ [*counts, 1]

    def total(self, which: int, left: Sequence[int], widths: np.ndarray) -> int:
        """Trainable parameters (0) or multiply-accumulates (1) of the layers that are left, at these widths."""
        pairs, costly = zip(left, widths[left].tolist(), strict=True), self._costly[which]
        return sum(self._cost(i, *pair)[which] for i, pair in pairs if i in costly)

    def _cost(self, index: int, into: int, out: int) -> tuple[int, int]:
        """Parameters and multiply-accumulates of a layer by its input and output channels."""
        if (known := self._costs.get((index, into, out))) is not None:
            return known
        layer, layer_shape = self._teacher.layers[index], self._teacher.in_shapes[index][0]
        rules, shape = LAYER_TYPES[layer.kind], (into, *layer_shape[1:])
        attrs = dict(layer.attrs) | ({"groups": into} if index in self.depthwise else {})
        macs = rules.macs(out, attrs, shape, (out, *self._teacher.shapes[index][1:]))
        self._costs[index, into, out] = rules.params(out, attrs, shape), macs
        return self._costs[index, into, out]


def _rows(architecture: Architecture) -> np.ndarray:
    """Return what `encode` says of each layer by itself, (L, m + 6)."""
    rows = []
    for layer, shapes in zip(architecture.layers, architecture.in_shapes, strict=True):
        channels = (shapes[0][0], layer.channels) if layer.has_filters else (0, 0)
        rows.append((*kind_and_attributes(layer.kind, layer.attrs), *channels))
    return np.array(rows, np.float32).reshape(-1, len(KINDS) + len(ATTRIBUTES))


def _only_source(inputs: tuple[Slot, ...]) -> int | None:
    """Return the one layer that a layer reads once, as most do; None for the others."""
    return inputs[0][0][0] if len(inputs) == len(inputs[0]) == 1 and inputs[0][0][1] == 1 else None


def _through(part: Slot, stands_for: Sequence[Slot]) -> Slot:
    """Return a slot of the teacher where some of its sources are gone."""
    if len(part) == 1 and part[0][1] == 1:
        return stands_for[part[0][0]]
    return _sum([(stands_for[i], count) for i, count in part])


def _sum(terms: list[tuple[Slot, int]]) -> Slot:
    """As `esnac_lib.architecture.graph.sum_slots`, in half the time."""
    total: dict[int, int] = {}
    for part, times in terms:
        for source, count in part:
            total[source] = total.get(source, 0) + count * times
    return tuple(sorted(total.items()))


def _consumers(inputs: list[tuple[Slot, ...]], output: Slot) -> list[list[tuple[int, int, int]]]:
    """As `Architecture.consumers`."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(len(inputs) + 1)]  # INPUT is the last
    for j, parts in enumerate(inputs):
        for position, part in enumerate(parts):
            for i, count in part:
                found[i].append((j, position, count))
    for i, count in output:
        found[i].append((-1, 0, count))
    return found[:-1]
