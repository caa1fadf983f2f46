"""No search at all: the teacher with every width scaled by one factor, at several factors."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.errors import SpaceError
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.samplers.random import MAX_DRAWS, random_proposals
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


class NarrowSampler:
    """One ratio for all groups, nothing removed, nothing connected. Learns nothing: it is the line to beat.

    The ratios cover [0, 1) evenly however many are asked for: the van der Corput sequence ½, ¼, ¾, ⅛, …, shifted by an
    amount that the seed draws. Raises SpaceError in a space without shrinking.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        if not space.groups or "shrink" not in space.operators:
            raise SpaceError("nothing can be narrowed without shrinking: add shrink to the operators")
        self.space = space
        self.shift = float(make_rng(seed, "narrow-sampler").random())
        self.told: list[Observation] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to n narrowed teachers; fewer once the widths that differ are used up."""
        seen = {self.space.teacher.arch_id, *(trial.architecture.arch_id for trial in self.told)}
        proposals: list[Proposal] = []
        for index in range(len(self.told), len(self.told) + MAX_DRAWS):
            if len(proposals) == n:
                break
            share = (van_der_corput(index + 1) + self.shift) % 1.0
            ratios = tuple(share * group.max_ratio for group in self.space.groups)
            decisions = self.space.within(Decisions(frozenset(), ratios, frozenset()))
            architecture = self.space.apply(decisions)
            if architecture.arch_id not in seen:
                seen.add(architecture.arch_id)
                proposals.append(Proposal(decisions, architecture))
        return proposals

    def tell(self, trials: Sequence[Observation]) -> None:
        """Remember what has been proposed."""
        self.told.extend(trials)


def first_proposals(first: str, space: SearchSpace, seed: int, told: Sequence[Observation], n: int) -> list[Proposal]:
    """Up to n students to begin a search with: "random", or "narrowed" teachers, and random ones where these end."""
    narrowed: list[Proposal] = []
    if first == "narrowed" and space.groups and "shrink" in space.operators:
        sampler = NarrowSampler(space, seed)
        sampler.tell(told)
        narrowed = sampler.ask(n)
    return narrowed + random_proposals(space, seed, told, n - len(narrowed), narrowed)


def van_der_corput(index: int) -> float:
    """The index-th number, from 1, of the sequence that fills (0, 1) ever more finely, in base 2.

    >>> [van_der_corput(index) for index in range(1, 6)]
    [0.5, 0.25, 0.75, 0.125, 0.625]
    """
    result, place = 0.0, 0.5
    while index:
        index, bit = divmod(index, 2)
        result += bit * place
        place /= 2
    return result
