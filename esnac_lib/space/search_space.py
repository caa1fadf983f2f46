"""The search space of ESNAC §3.2: everything that removing, shrinking and connecting can make of one teacher.

>>> space = SearchSpace(teacher_architecture)
>>> space.num_decisions
529
>>> decisions = space.sample(make_rng(0, "example"))
>>> student = space.apply(decisions)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property

import numpy as np

from esnac_lib.architecture.graph import INPUT, Architecture
from esnac_lib.errors import SpaceError
from esnac_lib.space.channel_groups import ChannelGroup, Grouping
from esnac_lib.space.decisions import Decisions, Limits
from esnac_lib.space.operators import add_skips, remove, shrink

OPERATORS = ("remove", "shrink", "skip")
REMOVAL_PROBABILITIES = (0.3, 0.4, 0.5, 0.6, 0.7)  # [code], one is drawn a network
SKIP_PROBABILITIES = (0.003, 0.005, 0.01, 0.03, 0.05)  # [code], likewise
FITTING_STEPS = 12  # of the bisection that makes a student fit into limits
SAMPLINGS = ("paper", "mild")
MILD_REMOVAL_PROBABILITIES = (0.0, 0.02, 0.05, 0.1, 0.2)
MILD_SKIP_PROBABILITIES = (0.0, 0.001, 0.003, 0.01)
MILD_RATIO_SPREADS = (0.0, 0.05, 0.1, 0.2)  # standard deviation of a network's ratios around their common centre


class SearchSpace:
    """All students of a teacher's architecture.

    operators: which of remove, shrink and skip may be used. grouping: "dimension", the paper's, or "dependency"
    (`grouping` says what they are). limits: how large a student may be; whatever is drawn stays within them.
    sampling: how `sample` draws, "paper" as the authors' program does, or "mild".

    Raises SpaceError for unknown operators or groupings, and for limits that no student of the teacher keeps.
    """

    def __init__(
        self,
        architecture: Architecture,
        operators: Collection[str] = OPERATORS,
        grouping: str = "dimension",
        limits: Limits | None = None,
        sampling: str = "paper",
    ) -> None:
        if not operators or set(operators) - set(OPERATORS):
            raise SpaceError(f"operators = {list(operators)}: allowed are one or more of {', '.join(OPERATORS)}")
        if sampling not in SAMPLINGS:
            raise SpaceError(f"sampling = {sampling!r}: allowed are {' and '.join(SAMPLINGS)}")
        self.teacher = architecture
        self.operators = tuple(name for name in OPERATORS if name in operators)
        self.grouping = Grouping(architecture, grouping)
        self.limits = limits or Limits()
        self.sampling = sampling
        self._check_limits()

    def _check_limits(self) -> None:
        if self.limits == Limits():
            return
        if "shrink" not in self.operators:
            raise SpaceError("a limit on parameters or MACs is kept by shrinking: add the operator shrink")
        least = self.smallest
        if not self.limits.allow(least):
            raise SpaceError(
                f"{self.limits}: with every group shrunk as far as it goes the teacher still has "
                f"{least.num_params:,} parameters and {least.macs:,} MACs; allow more"
            )

    def __repr__(self) -> str:
        return (
            f"SearchSpace({self.num_decisions} decisions: {len(self.removable)} of {len(self.teacher.layers)} layers "
            f"removable, {len(self.groups)} channel groups, {len(self.connectable)} pairs connectable)"
        )

    # -- what can be decided -----------------------------------------------------------------------------------------

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The channels that each ratio serves."""
        return self.grouping.groups

    @property
    def removable(self) -> tuple[int, ...]:
        """Layers that can be taken out: their input shape equals their output shape (ESNAC §6.5)."""
        return self.grouping.removable

    @property
    def connectable(self) -> tuple[tuple[int, int], ...]:
        """Pairs i < j that a skip connection can join: their shapes are equal at every ratio (ESNAC §6.5)."""
        return self.grouping.connectable

    @property
    def num_decisions(self) -> int:
        """What a tuner without an embedding has to tune (ESNAC §6.4): layers, groups and connectable pairs."""
        counts = {"remove": len(self.teacher.layers), "shrink": len(self.groups), "skip": len(self.connectable)}
        return sum(counts[name] for name in self.operators)

    @cached_property
    def smallest(self) -> Architecture:
        """The teacher with every group shrunk as far as a ratio can."""
        return self.apply(Decisions(frozenset(), tuple(map(_largest_ratio, self.groups)), frozenset()))

    @cached_property
    def nothing(self) -> Decisions:
        """The decisions that give the teacher back."""
        return Decisions(frozenset(), (0.0,) * len(self.groups), frozenset())

    # -- from decisions to architectures and back --------------------------------------------------------------------

    def normalise(self, decisions: Decisions) -> Decisions:
        """The same student's decisions in one form.

        A removal of a layer that must stay is dropped; where a removed layer stood between two groups, the later one
        gets the ratio of the first; a skip into a removed layer is dropped, one out of it starts at that layer's
        inputs; a skip where the student has that edge anyway is dropped. Raises SpaceError for decisions of another
        space.
        """
        if len(decisions.ratios) != len(self.groups) or not all(0 <= r < 1 for r in decisions.ratios):
            raise SpaceError(f"ratios {decisions.ratios}: this space has {len(self.groups)} groups, each in [0, 1)")
        ratios = decisions.ratios if "shrink" in self.operators else self.nothing.ratios
        removed = decisions.removed & self._may_go if "remove" in self.operators else frozenset()
        ratios = self._tied(ratios, removed)
        if "skip" not in self.operators or not decisions.skips:
            return Decisions(removed, ratios, frozenset())
        strange = decisions.skips - self._known_skips
        if strange and (wrong := [p for p in strange if not self.grouping.joins(*p, self._firsts(removed))]):
            raise SpaceError(f"a skip {min(wrong)} does not join equal shapes of this teacher")
        skips = {(source, j) for i, j in decisions.skips if j not in removed for source in self._sources(i, removed)}
        return Decisions(removed, ratios, frozenset(skips - self._edges(removed, {j for _, j in skips})))

    def _tied(self, ratios: tuple[float, ...], removed: Collection[int]) -> tuple[float, ...]:
        """One ratio for groups that a removed layer no longer parts: that of the first of them."""
        return tuple(ratios[first] for first in self._firsts(removed))

    def _firsts(self, removed: Collection[int]) -> list[int]:
        """For each group the first of those that it has its ratio in common with."""
        firsts = list(range(len(self.groups)))
        for low, high in sorted({self.grouping.ties[i] for i in removed if i in self.grouping.ties}):
            a, b = sorted((firsts[low], firsts[high]))
            firsts = [a if g == b else g for g in firsts]
        return firsts

    @cached_property
    def _may_go(self) -> frozenset[int]:
        return frozenset(self.removable)

    @cached_property
    def _known_skips(self) -> frozenset[tuple[int, int]]:
        first = {(INPUT, j) for i, j in self.connectable if i in self._may_become_input}
        return frozenset(self.connectable) | first

    @cached_property
    def _may_become_input(self) -> frozenset[int]:
        """Layers in whose place the network's input stands when they, and what leads to them, are removed."""
        found: set[int] = {INPUT}
        for i, layer in enumerate(self.teacher.layers):
            if i in self._may_go and layer.sources & found:
                found.add(i)
        return frozenset(found - {INPUT})

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
        told: dict[int, float | None] = {}  # groups that share a ratio have it from the first of them that tells it
        firsts = self._firsts(removed & self._may_go)
        for first, group in zip(firsts, self.groups, strict=True):
            if first not in told and any(index in here for segment in group.segments for index in segment.positions):
                told[first] = self._ratio_of(group, architecture, here)
        ratios = tuple(told.get(first, 0.0) for first in firsts)
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
        """A ratio that leaves every layer of the group the filters that it has, or None.

        Where a layer says which filters it kept, these; else a ratio that keeps as many.
        """
        whole: dict[int, np.ndarray] = group.keep(0.0)
        parts = Counter(index for segment in group.segments for index in segment.positions)
        named, seen = {}, {}
        for index in whole.keys() & here.keys():
            layer = architecture.layers[here[index]]
            seen[index] = layer.channels
            if layer.kept_out is not None and len(layer.kept_out) == layer.channels:
                named[index] = np.intersect1d(layer.kept_out, whole[index])
                seen[index] = len(named[index])
        # Each segment may have rounded its own count.
        slack = {index: group.multiple * (parts[index] + 1) for index in seen}
        low = max(1 - (count + slack[index]) / len(whole[index]) for index, count in seen.items())
        high = min(1 - (count - slack[index]) / len(whole[index]) for index, count in seen.items())
        as_many = None
        for ratio in [0.0, *group.ratios_between(max(low, 0.0), min(high, 1.0))]:
            kept = group.keep(ratio)
            if all(len(kept[index]) == count for index, count in seen.items()):
                if all(np.array_equal(kept[index], filters) for index, filters in named.items()):
                    return ratio
                as_many = ratio if as_many is None else as_many
        return as_many

    def contains(self, architecture: Architecture) -> bool:
        """Whether some decisions give this architecture."""
        return self.decisions_of(architecture) is not None

    # -- drawing -----------------------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Decisions:
        """Random decisions, as `sampling` says: "paper" is the authors' program's way (SPEC §1, random sampling).

        "mild": most decisions leave the teacher as it is. Few layers go or none, few pairs are joined or none, and the
        ratios of a network lie around one centre, uniform over all widths, so that networks near a uniformly narrowed
        teacher are drawn at every size. The paper's way never draws those: it removes 30 to 70 % of the layers.
        """
        mild = self.sampling == "mild"
        p_remove = rng.choice(MILD_REMOVAL_PROBABILITIES if mild else REMOVAL_PROBABILITIES)
        p_skip = rng.choice(MILD_SKIP_PROBABILITIES if mild else SKIP_PROBABILITIES)
        remove_draws, skip_draws = rng.random(len(self.removable)), rng.random(len(self.connectable))
        removed = {self.removable[i] for i in np.flatnonzero(remove_draws < p_remove)}
        shares = (self._mild_shares(rng) if mild else rng.random(len(self.groups))).tolist()
        ratios = tuple([share * group.max_ratio for share, group in zip(shares, self.groups, strict=True)])
        skips = {self.connectable[i] for i in np.flatnonzero(skip_draws < p_skip)}
        return self.within(Decisions(frozenset(removed), ratios, frozenset(skips)))

    def within(self, decisions: Decisions) -> Decisions:
        """The decisions in one form, and if their student is above the limits, shrunk by as little more as it takes.

        All ratios then go the same part of the way to their largest.
        """
        decisions = self.normalise(decisions)
        if self.limits == Limits() or self.limits.allow(self.apply(decisions)):
            return decisions
        low, high = 0.0, 1.0
        for _ in range(FITTING_STEPS):
            middle = (low + high) / 2
            fits = self.limits.allow(self.apply(self._shrunk_by(decisions, middle)))
            low, high = (low, middle) if fits else (middle, high)
        return self._shrunk_by(decisions, high)

    def _shrunk_by(self, decisions: Decisions, part: float) -> Decisions:
        ends = map(_largest_ratio, self.groups)
        ratios = tuple(
            max(ratio, ratio + (end - ratio) * part) for ratio, end in zip(decisions.ratios, ends, strict=True)
        )
        return self.normalise(replace(decisions, ratios=ratios))

    def _mild_shares(self, rng: np.random.Generator) -> np.ndarray:
        """For each group a share in [0, 1) of its largest ratio, all of them around one centre."""
        centre, spread = rng.random(), rng.choice(MILD_RATIO_SPREADS)
        return np.clip(centre + spread * rng.standard_normal(len(self.groups)), 0, 1 - 1e-9)

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
        return self.within(decisions)

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
        return self.within(Decisions(pick(a.removed, b.removed), ratios, pick(a.skips, b.skips)))

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


def _largest_ratio(group: ChannelGroup) -> float:
    """The largest ratio of a group that decisions may hold."""
    return min(group.max_ratio, 1 - 1e-9)
