"""Random search: the baseline of ESNAC §4.1, and the first step of every other sampler."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.config.comparison import Variant
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.unseen import MAX_DRAWS, Unseen
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace


class RandomSampler(SeededSampler):
    """Draws from the space, and never the same network twice."""

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n new random members of the space."""
        return random_proposals(self.space, self.seed, self.observations, n)


def random_proposals(
    space: SearchSpace, seed: int, observations: Sequence[Observation], n: int, others: Sequence[Proposal] = ()
) -> list[Proposal]:
    """Return up to n random members of the space that are neither observed nor among the step's `others`."""
    unseen = Unseen(space, observations, others)
    proposals: list[Proposal] = []
    for index in range(n):
        rng = make_rng(seed, "random-sampler", len(observations) + len(others), index)
        found = next(unseen.among(space.sample(rng) for _ in range(MAX_DRAWS)), None)
        proposals += [found] if found else []
    return proposals


ENTRY = SamplerEntry(
    "random", "random search", "#222222", lambda space, config: RandomSampler(space, config.seed), linestyle=":",
    variants=(
        Variant("random", "random"),
        Variant("random_mild", "random, mild", {"sampling": "mild"}, "#0072B2", "-", beyond_the_paper=True),
    ),
)  # fmt: skip
