"""Add skip connections (ESNAC §3.2): sums of layers whose shapes are equal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from esnac_lib.architecture.graph import INPUT, Architecture, slot, sum_slots
from esnac_lib.errors import ArchitectureError, SpaceError
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.base import CandidateChanges, SubsetOperator, places

if TYPE_CHECKING:
    from esnac_lib.space.search_space import SearchSpace

Pair = tuple[int, int]


class Skip(SubsetOperator):
    """Joins layers by added edges. Its part: pairs (i, j), where j reads also i (i = -1: the network's input)."""

    name, column, label = "skip", "skips", "connections added"
    order = 2
    core: ClassVar[bool] = True
    # the paper's are those of the authors' code
    rates: ClassVar = {"paper": (0.003, 0.005, 0.01, 0.03, 0.05), "mild": (0.0, 0.001, 0.003, 0.01)}

    def choices(self, space: SearchSpace) -> Sequence[Pair]:
        """Return the pairs that can be joined."""
        return space.connectable

    def normalise(self, space: SearchSpace, part: frozenset[Pair], before: Mapping[str, Any]) -> frozenset[Pair]:
        """Drop skips into removed layers and existing edges; one out of a removed layer starts at its inputs."""
        if not part:
            return part
        removed, grouping = before["remove"], space.grouping
        if strange := part - grouping.known_skips:
            firsts = grouping.firsts(removed)
            if wrong := {pair for pair in strange if not grouping.joins(*pair, firsts)}:
                raise SpaceError(f"a skip {min(wrong)} does not join equal shapes of this teacher")
        skips = {(source, j) for i, j in part if j not in removed for source in sources(space.teacher, i, removed)}
        return frozenset(skips - _edges(space.teacher, removed, {j for _, j in skips}))

    def apply(self, space: SearchSpace, architecture: Architecture, part: frozenset[Pair]) -> Architecture:
        """Add the edges."""
        place = {INPUT: INPUT} | places(space.teacher, architecture)
        return add_skips(architecture, [(place[i], place[j]) for i, j in part])

    def read(self, space: SearchSpace, student: Architecture, here: Mapping[int, int]) -> frozenset[Pair]:
        """Return the edges that the student has and the teacher without the removed layers does not."""
        removed = frozenset(range(len(space.teacher.layers))) - frozenset(here)
        back = {INPUT: INPUT} | {place: i for i, place in here.items()}
        found = {(back[source], j) for j, place in here.items() for source in student.layers[place].sources}
        return frozenset(found - _edges(space.teacher, removed, here))

    def change_candidate(self, part: frozenset[Pair], changes: CandidateChanges) -> bool:
        """Say which edges are added."""
        for i, j in part:
            changes.added.setdefault(j, []).append(i)
        return True

    def mutate(self, space: SearchSpace, part: frozenset[Pair], rng: np.random.Generator) -> frozenset[Pair]:
        """Drop a skip or add one, equally often where there is one."""
        if part and rng.random() < 0.5:
            skips = sorted(part)
            return part - {skips[rng.integers(len(skips))]}
        return part | {space.connectable[rng.integers(len(space.connectable))]}

    def to_hyperparameters(self, space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
        """Return yes for the pairs joined.

        For a skip out of the network's input stands the pair, with a removed first layer, that it came from. (A skip
        that came from no such pair is lost.)
        """
        skips = {(i, j) if i != INPUT else _stand_in(space, decisions, j) for i, j in decisions.skips}
        return super().to_hyperparameters(space, replace(decisions, skips=frozenset(skips)))

    def describe(self, space: SearchSpace) -> tuple[str, str, str]:
        """Return how many pairs can be joined."""
        count = f"{len(space.connectable)}"
        return f"{count} pairs connectable", "pairs that can be connected", count

    def may_happen(self, space: SearchSpace) -> dict[int, str]:
        """Return the later layers of the pairs, with what to say of them."""
        return dict.fromkeys((j for _, j in space.connectable), "get a skip connection")


def _stand_in(space: SearchSpace, decisions: Decisions, target: int) -> Pair:
    """Return a pair of layers that normalises to a skip from the input into `target`, and to no further skip."""
    for i, j in space.connectable:
        if j == target and i in decisions.removed:
            skips = space.normalise(replace(decisions, skips=frozenset({(i, j)}))).skips
            if (INPUT, target) in skips and skips <= decisions.skips:
                return i, j
    return INPUT, target


def sources(teacher: Architecture, index: int, removed: Collection[int]) -> frozenset[int]:
    """Return what stands in for a layer: itself, or if it is removed what it reads."""
    found: set[int] = set()
    stack = [index]
    while stack:
        i = stack.pop()
        if i in removed:
            stack.extend(teacher.layers[i].sources)
        else:
            found.add(i)
    return frozenset(found)


def _edges(teacher: Architecture, removed: Collection[int], readers: Iterable[int]) -> set[Pair]:
    """Return the edges into some layers once others are removed."""
    return {(source, j) for j in readers for i in teacher.layers[j].sources for source in sources(teacher, i, removed)}


def add_skips(architecture: Architecture, pairs: Iterable[tuple[int, int]]) -> Architecture:
    """For each pair (i, j), add the output of layer i (or the input, i = -1) to the input of layer j.

    An edge that the graph already has changes nothing. Raises ArchitectureError where j does not come after i, has
    several slots, or expects another shape.
    """
    layers = list(architecture.layers)
    for i, j in sorted(set(pairs)):
        if not INPUT <= i < j < len(layers) or len(layers[j].inputs) != 1:
            raise ArchitectureError(f"no skip connection can join layers {i} and {j}")
        if i not in layers[j].sources:
            layers[j] = replace(layers[j], inputs=(sum_slots([(layers[j].inputs[0], 1), (slot(i), 1)]),))
    return Architecture(tuple(layers), architecture.input_shape, architecture.output)
