"""The search space of ESNAC §3.2: everything that the operators can make of one teacher.

>>> space = SearchSpace(teacher_architecture)
>>> space.num_decisions
529
>>> decisions = space.sample(make_rng(0, "example"))
>>> student = space.apply(decisions)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import SpaceError
from esnac_lib.space.channel_groups import ChannelGroup, Grouping
from esnac_lib.space.decisions import Decisions, Limits
from esnac_lib.space.operators.base import CandidateChanges
from esnac_lib.space.operators.shrink import BELOW_ONE, largest_ratio
from esnac_lib.space.registry import OPERATORS, core_and

FITTING_STEPS = 12  # of the bisection that makes a student fit into limits
NARROWING_STEPS = 40  # of the bisection that finds a width
SAMPLINGS = ("paper", "mild")


class SearchSpace:
    """All students of a teacher's architecture.

    Args:
        architecture: The teacher's.
        operators: Names of the operators that may be used; by default the paper's, remove, shrink and skip.
        grouping: "dimension", the paper's, or "dependency" (`channel_groups` says what they are).
        limits: How large a student may be; whatever is drawn stays within them.
        sampling: How `sample` draws, "paper" as the authors' code does, or "mild".

    Raises SpaceError where an operator or grouping is unknown, or no student of the teacher keeps the limits.
    """

    def __init__(
        self,
        architecture: Architecture,
        operators: Collection[str] | None = None,
        grouping: str = "dimension",
        limits: Limits | None = None,
        sampling: str = "paper",
    ) -> None:
        operators = [operator.name for operator in core_and(())] if operators is None else operators
        if not operators or set(operators) - set(OPERATORS):
            raise SpaceError(f"operators = {list(operators)}: allowed are one or more of {', '.join(OPERATORS)}")
        if sampling not in SAMPLINGS:
            raise SpaceError(f"sampling = {sampling!r}: allowed are {' and '.join(SAMPLINGS)}")
        self.teacher = architecture
        self.operators = tuple(name for name in OPERATORS if name in operators)
        self.grouping = Grouping(architecture, grouping)
        self.groups: tuple[ChannelGroup, ...] = self.grouping.groups  # the channels that each ratio serves
        self.limits, self.sampling = limits or Limits(), sampling
        self._known = core_and(operators)
        self.used = tuple(o for o in self._known if o.name in operators)  # the operators that may be used
        self._in_order = tuple(sorted(self._known, key=lambda operator: operator.order))
        self._check_limits()

    def _check_limits(self) -> None:
        if self.limits == Limits():
            return
        if "shrink" not in self.operators:
            raise SpaceError("a limit on parameters or MACs is kept by shrinking: add the operator shrink")
        if not self.limits.allow(least := self.smallest):
            still = f"the teacher still has {least.num_params:,} parameters and {least.macs:,} MACs; allow more"
            raise SpaceError(f"{self.limits}: with every group shrunk as far as it goes {still}")

    def __repr__(self) -> str:
        return f"SearchSpace({self.num_decisions} decisions: {', '.join(o.describe(self)[0] for o in self._known)})"

    @property
    def removable(self) -> tuple[int, ...]:
        """Layers that can be removed: their input shape equals their output shape (ESNAC §6.5)."""
        return self.grouping.removable

    @property
    def connectable(self) -> tuple[tuple[int, int], ...]:
        """Pairs i < j that a skip connection can join: their shapes are equal at every ratio (ESNAC §6.5)."""
        return self.grouping.connectable

    @property
    def num_decisions(self) -> int:
        """What a tuner without an embedding has to tune (ESNAC §6.4): layers, groups and connectable pairs."""
        return sum(len(operator.hyperparameters(self)) for operator in self.used)

    @cached_property
    def smallest(self) -> Architecture:
        """The teacher with every group shrunk as far as a ratio can."""
        return self.apply(self.decide({"shrink": tuple(map(largest_ratio, self.groups))}))

    @cached_property
    def nothing(self) -> Decisions:
        """The decisions that give the teacher back."""
        return self.decide({})

    def decide(self, parts: Mapping[str, Any]) -> Decisions:
        """Return decisions with these parts, by the names of their operators; the other operators change nothing."""
        return Decisions.of({o.name: parts[o.name] if o.name in parts else o.nothing(self) for o in self._known})

    def normalise(self, decisions: Decisions) -> Decisions:
        """Return the one form of all that give the same student (unused operators: nothing); may raise SpaceError."""
        parts: dict[str, Any] = {}
        for operator in self._known:
            part = operator.part(decisions)
            operator.check(self, part)
            is_used = operator.name in self.operators
            parts[operator.name] = operator.normalise(self, part, parts) if is_used else operator.nothing(self)
        return Decisions.of(parts)

    def apply(self, decisions: Decisions) -> Architecture:
        """Return the student. Raises SpaceError for decisions of another space."""
        decisions = self.normalise(decisions)
        student = self.teacher
        for operator in self._in_order:
            if (part := operator.part(decisions)) != operator.nothing(self):
                student = operator.apply(self, student, part)
        return student

    def candidate_changes(self, decisions: Decisions) -> CandidateChanges | None:
        """Return what normalised decisions change; None where it takes the architecture to know."""
        changes = CandidateChanges(self.nothing.ratios)
        for operator in self._known:
            if (part := operator.part(decisions)) and not operator.change_candidate(part, changes):
                return None
        return changes

    def decisions_of(self, architecture: Architecture) -> Decisions | None:
        """Return decisions that give this architecture, from its origins, widths and edges; None if none do."""
        names = {layer.name: i for i, layer in enumerate(self.teacher.layers)}
        here = {names.get(layer.origin or layer.name, -1): place for place, layer in enumerate(architecture.layers)}
        if -1 in here or len(here) < len(architecture.layers):
            return None
        parts = {operator.name: operator.read(self, architecture, here) for operator in self._known}
        if None in parts.values():
            return None
        found = Decisions.of(parts)
        try:
            return found if self.apply(found).arch_id == architecture.arch_id else None
        except SpaceError:
            return None

    def contains(self, architecture: Architecture) -> bool:
        """Return whether some decisions give this architecture."""
        return self.decisions_of(architecture) is not None

    def sample(self, rng: np.random.Generator) -> Decisions:
        """Draw decisions, as `sampling` says: "paper" is the way of the authors' code (ESNAC §4.1).

        "mild": most decisions leave the teacher as it is. Few layers go or none, few pairs are joined or none, and the
        ratios of a network lie around one centre, uniform over all widths, so that networks near a uniformly narrowed
        teacher are drawn at every size. The paper's way never draws those: it removes 30 to 70 % of the layers.
        """
        rates = {o.name: rng.choice(o.rates[self.sampling]) for o in self._known if o.rates}
        in_turn = sorted(self._known, key=lambda operator: not operator.rates)
        return self.within(Decisions.of({o.name: o.sample(self, rates.get(o.name, 0.0), rng) for o in in_turn}))

    def within(self, decisions: Decisions) -> Decisions:
        """Return the decisions in one form, and above the limits all ratios raised by the smallest equal part."""
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
        pairs = zip(decisions.ratios, map(largest_ratio, self.groups), strict=True)
        ratios = tuple([max(ratio, ratio + (end - ratio) * part) for ratio, end in pairs])
        return self.normalise(replace(decisions, ratios=ratios))

    def mutate(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        """Change a few decisions: one, and with probability 1/2 each time one more. A removal can be undone."""
        enabled = [operator for operator in self.used if operator.choices(self)]
        parts = {operator.name: operator.part(decisions) for operator in self._known}
        while enabled:
            operator = enabled[rng.integers(len(enabled))]
            parts[operator.name] = operator.mutate(self, parts[operator.name], rng)
            if rng.random() < 0.5:
                break
        return self.within(Decisions.of(parts))

    def cross(self, a: Decisions, b: Decisions, rng: np.random.Generator) -> Decisions:
        """Take every decision from one of the two, with equal probability."""
        parts = {operator.name: operator.cross(operator.part(a), operator.part(b), rng) for operator in self._in_order}
        return self.within(Decisions.of(parts))

    def narrow(self, params: int) -> Decisions:
        """Return one ratio for all groups that brings the student nearest to `params`; SpaceError without shrinking."""
        if "shrink" not in self.operators:
            advice = 'make a SearchSpace(teacher, ("shrink",)) for it'
            raise SpaceError(f"nothing can be narrowed without shrinking: {advice}")
        best, low, high = self.nothing, 0.0, BELOW_ONE
        nearest = abs(self.teacher.num_params - params)
        for _ in range(NARROWING_STEPS):
            ratio = (low + high) / 2
            tried = self.decide({"shrink": (ratio,) * len(self.groups)})
            size = self.apply(tried).num_params
            if abs(size - params) < nearest:
                best, nearest = tried, abs(size - params)
            low, high = (ratio, high) if size > params else (low, ratio)
        return best
