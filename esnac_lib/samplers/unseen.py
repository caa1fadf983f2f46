"""Draws that bring something new: what every sampler makes its proposals from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

MAX_DRAWS = 200  # for one proposal; a space in which so many draws bring nothing new counts as exhausted


class Unseen:
    """The members of a space, other than the teacher, that have been neither observed nor proposed.

    >>> unseen = Unseen(space, observations)
    >>> next(unseen.among(space.sample(rng) for _ in range(MAX_DRAWS)), None)
    """

    def __init__(
        self, space: SearchSpace, observations: Sequence[Observation], proposals: Sequence[Proposal] = ()
    ) -> None:
        self.space = space
        known = [*(one.architecture for one in observations), *(one.architecture for one in proposals)]
        self._seen = {space.teacher.arch_id, *(architecture.arch_id for architecture in known)}

    def among(self, draws: Iterable[Decisions]) -> Iterator[Proposal]:
        """Yield a proposal for each of the draws that is new, and is so no longer; draw no more than is asked for."""
        for decisions in draws:
            architecture = self.space.apply(decisions)
            if architecture.arch_id not in self._seen:
                self._seen.add(architecture.arch_id)
                yield Proposal(decisions, architecture)
