"""The search space of ESNAC §3.2: everything that removing, shrinking and connecting can make of one teacher.

>>> space = SearchSpace(teacher_architecture)
>>> space.num_decisions
529
>>> decisions = space.sample(make_rng(0, "example"))
>>> student = space.apply(decisions)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm

import numpy as np

from esnac_lib.architecture import INPUT, Architecture
from esnac_lib.channels import Segment, kept_count, trace_channels
from esnac_lib.errors import SpaceError
from esnac_lib.operators import add_skips, is_removable, remove, shrink

OPERATORS = ("remove", "shrink", "skip")
REMOVAL_PROBABILITIES = (0.3, 0.4, 0.5, 0.6, 0.7)  # [code], one is drawn a network
SKIP_PROBABILITIES = (0.003, 0.005, 0.01, 0.03, 0.05)  # [code], likewise
MAX_RATIO_IN_GROUPS = 0.9  # [code], where channels must divide into groups


@dataclass(frozen=True)
class Decisions:
    """What was decided about a teacher.

    removed: indices of the teacher's layers that are taken out. ratios: for each channel group the share of filters
    that go, in [0, 1). skips: pairs (i, j) of the teacher's layers (i = -1: the input) joined by an added edge.
    """

    removed: frozenset[int]
    ratios: tuple[float, ...]
    skips: frozenset[tuple[int, int]]

    def to_json(self) -> str:
        """One line of JSON, the same for equal decisions."""
        return json.dumps(
            {"removed": sorted(self.removed), "ratios": list(self.ratios), "skips": sorted(map(list, self.skips))}
        )

    @classmethod
    def from_json(cls, text: str) -> Decisions:
        """The inverse of `to_json`. Raises SpaceError if the text is something else."""
        try:
            data = json.loads(text)
            skips = frozenset((int(i), int(j)) for i, j in data["skips"])
            return cls(frozenset(map(int, data["removed"])), tuple(map(float, data["ratios"])), skips)
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"not decisions in JSON: {type(error).__name__}: {error}") from None


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

    def keep(self, ratio: float) -> dict[int, np.ndarray]:
        """For each layer, the positions of the group's channels that stay: the first ones of every segment [code].

        Segments of one family share its kept width: a shortcut gets the stage's width less the branch's (SPEC §1).
        """
        kept: dict[int, list[np.ndarray]] = {}
        for segment in self.segments:
            upto = [kept_count(end, ratio, self.multiple) if end else 0 for end in (segment.lower, segment.upper)]
            count = min(segment.width, max(self.multiple, upto[1] - upto[0]))
            for index, positions in segment.first(count).items():
                kept.setdefault(index, []).append(positions)
        return {index: np.sort(np.concatenate(parts)) for index, parts in kept.items()}


class SearchSpace:
    """All students of a teacher's architecture.

    operators: which of remove, shrink and skip may be used. grouping: "dimension" gives one ratio to all channels of
    one width, where what the data flow ties together, and what lies within one block, counts as the block's width
    (ESNAC §6.5); "dependency" gives one to each family of tied channels.
    """

    def __init__(
        self, architecture: Architecture, operators: Collection[str] = OPERATORS, grouping: str = "dimension"
    ) -> None:
        if not operators or set(operators) - set(OPERATORS):
            raise SpaceError(f"operators = {list(operators)}: allowed are one or more of {', '.join(OPERATORS)}")
        if grouping not in ("dimension", "dependency"):
            raise SpaceError(f"grouping = {grouping!r}: allowed are dimension and dependency")
        self.teacher = architecture
        self.operators = tuple(name for name in OPERATORS if name in operators)
        self.grouping = grouping
        self.flow = trace_channels(architecture)
        self.groups = self._groups()

    def __repr__(self) -> str:
        return (
            f"SearchSpace({self.num_decisions} decisions: {len(self.removable)} of {len(self.teacher.layers)} layers "
            f"removable, {len(self.groups)} channel groups, {len(self.connectable)} pairs connectable)"
        )

    # -- what can be decided -----------------------------------------------------------------------------------------

    def _groups(self) -> tuple[ChannelGroup, ...]:
        members: dict[int, list[Segment]] = {}
        for segment in self.flow.segments:
            if segment.family not in self.flow.fixed:
                block = self._block(segment.family)
                key = self.flow.family_width(block) if self.grouping == "dimension" else segment.family
                members.setdefault(key, []).append(segment)
        groups = []
        for segments in members.values():
            families = {segment.family for segment in segments}
            width = max(self.flow.family_width(self._block(family)) for family in families)
            multiple = lcm(*(self.flow.multiples[family] for family in families))
            first = self.teacher.layers[min(index for segment in segments for index in segment.positions)].name
            groups.append(ChannelGroup(f"{width} ({first})", tuple(segments), multiple))
        return tuple(groups)

    def _block(self, family: int) -> int:
        """The family whose width counts for this one: that of the block it lies within, or itself."""
        block = self.flow.enclosing.get(family, family)
        return family if self.grouping == "dependency" or block in self.flow.fixed else block

    @cached_property
    def _content(self) -> tuple[list[object], list[object]]:
        """For every layer, what its input and its output are made of: equal contents stay equal at every ratio."""
        group_of = {segment.family: g for g, group in enumerate(self.groups) for segment in group.segments}

        def content(atoms: np.ndarray, shape: tuple[int, ...]) -> object:
            runs: Counter[object] = Counter()
            for s, count in zip(*np.unique(self.flow.segment_of[atoms], return_counts=True), strict=True):
                if s < 0 or self.flow.segments[s].family not in group_of:
                    runs["fixed"] += int(count)
                    continue
                segment = self.flow.segments[s]
                runs[group_of[segment.family], segment.lower, segment.upper] += int(count) // segment.width
            return shape, frozenset(runs.items())

        teacher = self.teacher
        into = [content(a, shapes[0]) for a, shapes in zip(self.flow.in_atoms, teacher.in_shapes, strict=True)]
        out = [content(a, shape) for a, shape in zip(self.flow.out_atoms, teacher.shapes, strict=True)]
        return into, out

    @cached_property
    def removable(self) -> tuple[int, ...]:
        """Layers whose input shape equals their output shape, whatever the ratios (ESNAC §6.5)."""
        into, out = self._content
        return tuple(i for i in range(len(self.teacher.layers)) if is_removable(self.teacher, i) and into[i] == out[i])

    @cached_property
    def connectable(self) -> tuple[tuple[int, int], ...]:
        """Pairs i < j where the output of i has the shape of the input of j, whatever the ratios (ESNAC §6.5).

        Pairs that are edges already are among them (the paper counts them) and change nothing. Never into a concat.
        """
        into, out = self._content
        return tuple(
            (i, j)
            for i in range(len(self.teacher.layers))
            for j in range(i + 1, len(self.teacher.layers))
            if len(self.teacher.layers[j].inputs) == 1 and out[i] == into[j]
        )

    @property
    def num_decisions(self) -> int:
        """What a tuner without an embedding has to tune (ESNAC §6.4): layers, groups and connectable pairs."""
        counts = {"remove": len(self.teacher.layers), "shrink": len(self.groups), "skip": len(self.connectable)}
        return sum(counts[name] for name in self.operators)

    @cached_property
    def nothing(self) -> Decisions:
        """The decisions that give the teacher back."""
        return Decisions(frozenset(), (0.0,) * len(self.groups), frozenset())

    # -- from decisions to architectures and back --------------------------------------------------------------------

    def normalise(self, decisions: Decisions) -> Decisions:
        """The same student's decisions in one form.

        A removal of a layer that must stay is dropped; a skip into a removed layer is dropped, one out of it starts
        at that layer's inputs; a skip where the student has that edge anyway is dropped. Raises SpaceError for
        decisions of another space.
        """
        if len(decisions.ratios) != len(self.groups) or not all(0 <= r < 1 for r in decisions.ratios):
            raise SpaceError(f"ratios {decisions.ratios}: this space has {len(self.groups)} groups, each in [0, 1)")
        ratios = decisions.ratios if "shrink" in self.operators else self.nothing.ratios
        removed = decisions.removed & frozenset(self.removable) if "remove" in self.operators else frozenset()
        if "skip" not in self.operators or not decisions.skips:
            return Decisions(removed, ratios, frozenset())
        if strange := decisions.skips - self._known_skips:
            raise SpaceError(f"a skip {min(strange)} does not join equal shapes of this teacher")
        skips = {(source, j) for i, j in decisions.skips if j not in removed for source in self._sources(i, removed)}
        return Decisions(removed, ratios, frozenset(skips - self._edges(removed, {j for _, j in skips})))

    @cached_property
    def _known_skips(self) -> frozenset[tuple[int, int]]:
        first = {(INPUT, j) for i, j in self.connectable if self._reads_input(i)}
        return frozenset(self.connectable) | first

    def _reads_input(self, index: int) -> bool:
        return index in self.removable and any(
            i == INPUT or self._reads_input(i) for i in self.teacher.layers[index].sources
        )

    def _sources(self, index: int, removed: Collection[int]) -> frozenset[int]:
        """What stands in for a layer: itself, or if it is removed what it reads."""
        found: set[int] = set()
        stack = [index]
        while stack:
            i = stack.pop()
            if i in removed:
                stack.extend(self.teacher.layers[i].sources)
            else:
                found.add(i)
        return frozenset(found)

    def _edges(self, removed: Collection[int], readers: Collection[int]) -> set[tuple[int, int]]:
        return {
            (source, j) for j in readers for i in self.teacher.layers[j].sources for source in self._sources(i, removed)
        }

    def apply(self, decisions: Decisions) -> Architecture:
        """The student. Raises SpaceError for decisions of another space."""
        decisions = self.normalise(decisions)
        keep: dict[int, list[np.ndarray]] = {}
        for group, ratio in zip(self.groups, decisions.ratios, strict=True):
            if ratio:
                for index, positions in group.keep(ratio).items():
                    keep.setdefault(index, []).append(positions)
        shrunk = (
            shrink(self.teacher, {i: np.sort(np.concatenate(p)) for i, p in keep.items()}) if keep else self.teacher
        )
        short = remove(shrunk, decisions.removed) if decisions.removed else shrunk
        if not decisions.skips:
            return short
        left = [i for i in range(len(self.teacher.layers)) if i not in decisions.removed]
        place = {INPUT: INPUT} | {old: new for new, old in enumerate(left)}
        return add_skips(short, [(place[i], place[j]) for i, j in decisions.skips])

    def decisions_of(self, architecture: Architecture) -> Decisions | None:
        """Decisions that give this architecture, read off its origins, widths and edges; None if there are none."""
        names = {layer.name: i for i, layer in enumerate(self.teacher.layers)}
        origins = [names.get(layer.origin or layer.name) for layer in architecture.layers]
        if None in origins or len(set(origins)) < len(origins):
            return None
        here = {i: place for place, i in enumerate(origins) if i is not None}
        removed = frozenset(range(len(self.teacher.layers))) - frozenset(here)
        ratios = tuple(self._ratio_of(group, architecture, here) for group in self.groups)
        if None in ratios:
            return None
        back = {INPUT: INPUT} | {place: i for i, place in here.items()}
        skips = set()
        for j, place in here.items():
            have = {back[source] for source in architecture.layers[place].sources}
            skips |= {(i, j) for i in have} - self._edges(removed, {j})
        found = Decisions(removed, tuple(r for r in ratios if r is not None), frozenset(skips))
        try:
            return found if self.apply(found).arch_id == architecture.arch_id else None
        except SpaceError:
            return None

    @staticmethod
    def _ratio_of(group: ChannelGroup, architecture: Architecture, here: dict[int, int]) -> float | None:
        """A ratio that leaves every layer of the group the filters that it has; 0 where no layer is left to tell."""
        whole: Counter[int] = Counter()
        for segment in group.segments:
            for index, positions in segment.positions.items():
                whole[index] += len(positions)
        seen = {index: architecture.layers[here[index]].channels for index in whole if index in here}
        candidates = {0.0}
        for index, count in seen.items():
            candidates |= {1 - (count - part) / whole[index] for part in np.linspace(0, group.multiple, 17)[1:-1]}
            candidates |= {1 - (count + part) / whole[index] for part in (0.0, 0.25, 0.5, 0.75)}
        for ratio in sorted(r for r in candidates if 0 <= r < 1):
            kept = group.keep(ratio)
            if all(len(kept[index]) == count for index, count in seen.items()):
                return ratio
        return None

    def contains(self, architecture: Architecture) -> bool:
        """Whether some decisions give this architecture."""
        return self.decisions_of(architecture) is not None

    # -- drawing -----------------------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Decisions:
        """Random decisions, drawn as the authors' program does (SPEC §1, random sampling)."""
        p_remove, p_skip = rng.choice(REMOVAL_PROBABILITIES), rng.choice(SKIP_PROBABILITIES)
        remove_draws, skip_draws = rng.random(len(self.removable)), rng.random(len(self.connectable))
        removed = {self.removable[i] for i in np.flatnonzero(remove_draws < p_remove)}
        ratios = tuple(float(rng.random() * group.max_ratio) for group in self.groups)
        skips = {self.connectable[i] for i in np.flatnonzero(skip_draws < p_skip)}
        return self.normalise(Decisions(frozenset(removed), ratios, frozenset(skips)))

    def mutate(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        """Change a few decisions: one, and with probability 1/2 each time one more. A removal can be undone."""
        changes = [self._mutate_removal, self._mutate_ratio, self._mutate_skip]
        enabled = [
            change
            for name, change, any_left in zip(
                OPERATORS, changes, (self.removable, self.groups, self.connectable), strict=True
            )
            if name in self.operators and any_left
        ]
        while enabled:
            decisions = enabled[rng.integers(len(enabled))](decisions, rng)
            if rng.random() < 0.5:
                break
        return self.normalise(decisions)

    def _mutate_removal(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        index = self.removable[rng.integers(len(self.removable))]
        return replace(decisions, removed=decisions.removed ^ {index})

    def _mutate_ratio(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        g = int(rng.integers(len(self.groups)))
        moved = float(np.clip(decisions.ratios[g] + rng.normal(0, 0.15), 0, self.groups[g].max_ratio - 1e-9))
        return replace(decisions, ratios=(*decisions.ratios[:g], moved, *decisions.ratios[g + 1 :]))

    def _mutate_skip(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        if decisions.skips and rng.random() < 0.5:
            skips = sorted(decisions.skips)
            return replace(decisions, skips=decisions.skips - {skips[rng.integers(len(skips))]})
        return replace(decisions, skips=decisions.skips | {self.connectable[rng.integers(len(self.connectable))]})

    def cross(self, a: Decisions, b: Decisions, rng: np.random.Generator) -> Decisions:
        """Take every decision from one of the two, with equal probability."""

        def pick(left: frozenset, right: frozenset) -> frozenset:
            differ = sorted(left ^ right)
            return (left & right) | {item for item in differ if rng.random() < 0.5}

        ratios = tuple(x if rng.random() < 0.5 else y for x, y in zip(a.ratios, b.ratios, strict=True))
        return self.normalise(Decisions(pick(a.removed, b.removed), ratios, pick(a.skips, b.skips)))

    def narrow(self, params: int) -> Decisions:
        """No search at all: one ratio for every group, so that the student comes as near to `params` as it can.

        Raises SpaceError in a space without shrinking.
        """
        if "shrink" not in self.operators:
            raise SpaceError(
                'nothing can be narrowed without shrinking: make a SearchSpace(teacher, ("shrink",)) for it'
            )
        best, low, high = self.nothing, 0.0, 1.0 - 1e-9
        nearest = abs(self.teacher.num_params - params)
        for _ in range(40):
            ratio = (low + high) / 2
            tried = Decisions(frozenset(), (ratio,) * len(self.groups), frozenset())
            size = self.apply(tried).num_params
            if abs(size - params) < nearest:
                best, nearest = tried, abs(size - params)
            low, high = (ratio, high) if size > params else (low, ratio)
        return best
