"""Random search: the baseline of ESNAC §4.1, and the first step of every other sampler."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace

MAX_DRAWS = 200  # for one proposal; a space in which so many draws bring nothing new counts as exhausted


class RandomSampler:
    """Draws from the space as SPEC §1 says, and never the same network twice."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.told: list[Observation] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to n new random members of the space."""
        return random_proposals(self.space, self.seed, self.told, n)

    def tell(self, trials: Sequence[Observation]) -> None:
        """Remember what has been proposed."""
        self.told.extend(trials)


def random_proposals(
    space: SearchSpace, seed: int, told: Sequence[Observation], n: int, beside: Sequence[Proposal] = ()
) -> list[Proposal]:
    """Up to n random members of the space, none of them told, proposed `beside` them in this step, or the teacher."""
    seen = {space.teacher.arch_id, *(t.architecture.arch_id for t in told), *(p.architecture.arch_id for p in beside)}
    proposals: list[Proposal] = []
    for index in range(n):
        rng = make_rng(seed, "random-sampler", len(told) + len(beside), index)
        for _ in range(MAX_DRAWS):
            decisions = space.sample(rng)
            architecture = space.apply(decisions)
            if architecture.arch_id not in seen:
                seen.add(architecture.arch_id)
                proposals.append(Proposal(decisions, architecture))
                break
    return proposals
