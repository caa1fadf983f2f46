"""No search at all: the teacher with every width scaled by one factor, at several factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from esnac_lib.config.comparison import Variant
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import SpaceError
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.random import random_proposals
from esnac_lib.samplers.unseen import MAX_DRAWS, Unseen
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


@dataclass(eq=False)
class NarrowSampler(SeededSampler):
    """One ratio for all groups, nothing removed, nothing connected. Learns nothing: it is the line to beat.

    The ratios cover [0, 1) evenly however many are asked for: the van der Corput sequence ½, ¼, ¾, ⅛, …, shifted by an
    amount that the seed draws. Raises SpaceError for a space without shrinking.
    """

    def __post_init__(self) -> None:
        if not self.space.groups or "shrink" not in self.space.operators:
            raise SpaceError("nothing can be narrowed without shrinking: add shrink to the operators")
        self._shift = float(make_rng(self.seed, "narrow-sampler").random())

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n narrowed teachers; fewer once the widths that differ are used up."""
        begin = len(self.observations)
        widths = (self._narrowed(index) for index in range(begin, begin + MAX_DRAWS))
        return list(islice(Unseen(self.space, self.observations).among(widths), n))

    def _narrowed(self, index: int) -> Decisions:
        share = (van_der_corput(index + 1) + self._shift) % 1.0
        ratios = tuple(share * group.max_ratio for group in self.space.groups)
        return self.space.within(Decisions(frozenset(), ratios, frozenset()))


def first_proposals(
    first: str, space: SearchSpace, seed: int, observations: Sequence[Observation], n: int
) -> list[Proposal]:
    """Return up to n students to begin a search with: "random", or "narrowed" teachers, then random ones."""
    narrowed: list[Proposal] = []
    if first == "narrowed" and space.groups and "shrink" in space.operators:
        sampler = NarrowSampler(space, seed)
        sampler.tell(observations)
        narrowed = sampler.ask(n)
    return narrowed + random_proposals(space, seed, observations, n - len(narrowed), narrowed)


def van_der_corput(index: int) -> float:
    """Return the index-th number, from 1, of the sequence that fills (0, 1) ever more finely, in base 2.

    >>> [van_der_corput(index) for index in range(1, 6)]
    [0.5, 0.25, 0.75, 0.125, 0.625]
    """
    result, place = 0.0, 0.5
    while index:
        index, bit = divmod(index, 2)
        result += bit * place
        place /= 2
    return result


def check(config: StudyConfig) -> Iterator[str]:
    """Refuse a space without shrinking."""
    if "shrink" not in config.operator_names:
        yield f"operators = {config.operators!r}: sampler = 'narrow' only shrinks; add shrink"


ENTRY = SamplerEntry(
    "narrow", "width scaling", "#CC79A7", lambda space, config: NarrowSampler(space, config.seed), check,
    linestyle=(0, (3, 1, 1, 1)), variants=(Variant("narrow", "width scaling, no search"),), searches=False,
)  # fmt: skip
