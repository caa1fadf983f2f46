"""Random search: the baseline of ESNAC §4.1, and the first step of every other sampler."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.randomness import make_rng
from esnac_lib.samplers.base import Proposal, Told
from esnac_lib.space import SearchSpace

MAX_DRAWS = 200  # for one proposal; a space in which so many draws bring nothing new counts as exhausted


class RandomSampler:
    """Draws from the space as SPEC §1 says, and never the same network twice."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.told: list[Told] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to n new random members of the space."""
        seen = {self.space.teacher.arch_id, *(trial.architecture.arch_id for trial in self.told)}
        proposals: list[Proposal] = []
        for index in range(n):
            rng = make_rng(self.seed, "random-sampler", len(self.told), index)
            for _ in range(MAX_DRAWS):
                decisions = self.space.sample(rng)
                architecture = self.space.apply(decisions)
                if architecture.arch_id not in seen:
                    seen.add(architecture.arch_id)
                    proposals.append(Proposal(decisions, architecture))
                    break
        return proposals

    def tell(self, trials: Sequence[Told]) -> None:
        """Remember what has been proposed."""
        self.told.extend(trials)
