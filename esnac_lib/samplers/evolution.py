"""Regularised evolution directly on the observed f (Real et al., 2018): the search without a surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esnac_lib.config.comparison import DASHED, ONE_BY_ONE, Variant
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.random import random_proposals
from esnac_lib.samplers.unseen import MAX_DRAWS, Unseen
from esnac_lib.samplers.width_scaling import first_proposals
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions


@dataclass(eq=False)
class EvolutionSampler(SeededSampler):
    """Students as `first` says until `population` of them are observed, then children of tournament winners.

    # DEVIATION: Real et al. mutate one parent, with a population of 100 and tournaments of 25 for 20,000 evaluations;
    # the defaults here are for some 50 to 200 evaluations, and crossover = 0 gives their operator.
    """

    population: int = 16  # the latest observed students, which can be parents; older ones have died, however good
    tournament: int = 5  # students drawn for one parent, of which the best becomes it
    crossover: float = 0.5  # share of children with two parents, each decision from either; all are mutated
    first: str = "random"  # or "narrowed" teachers

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals; all have their parents in the same population, since none is evaluated yet."""
        alive = [trial for trial in self.observations if trial.f is not None][-self.population :]
        if len(alive) < self.population:
            return first_proposals(self.first, self.space, self.seed, self.observations, n)
        proposals: list[Proposal] = []
        unseen = Unseen(self.space, self.observations)
        for index in range(n):
            rng = make_rng(self.seed, "evolution", len(self.observations), index)
            child = next(unseen.among(self._child(alive, rng) for _ in range(MAX_DRAWS)), None)
            proposals += [child] if child else []
        left = n - len(proposals)
        return proposals + random_proposals(self.space, self.seed, self.observations, left, proposals)

    def _child(self, alive: Sequence[Observation], rng: np.random.Generator) -> Decisions:
        """Breed from the population."""
        decisions = self._parent(alive, rng)
        if rng.random() < self.crossover:
            decisions = self.space.cross(decisions, self._parent(alive, rng), rng)
        return self.space.mutate(decisions, rng)

    def _parent(self, alive: Sequence[Observation], rng: np.random.Generator) -> Decisions:
        """Return the best of a few drawn without replacement; of equals the first drawn."""
        drawn = rng.choice(len(alive), size=min(self.tournament, len(alive)), replace=False)
        return max((alive[int(i)] for i in drawn), key=lambda trial: trial.f or 0.0).decisions


_MILD: dict[str, Any] = {"sampling": "mild", **ONE_BY_ONE}
_NARROWED: dict[str, Any] = {**_MILD, "first": "narrowed"}
ENTRY = SamplerEntry(
    "evolution", "evolution", "#009E73",
    lambda space, config: EvolutionSampler(space, config.seed, first=config.first), uses=frozenset({"first"}),
    variants=(
        Variant("evolution", "evolution", ONE_BY_ONE),
        Variant("evolution_mild", "evolution, mild", _MILD, beyond_the_paper=True),
        Variant("evolution_narrowed", "evolution from narrowed", _NARROWED, linestyle=DASHED, beyond_the_paper=True),
    ),
)  # fmt: skip
