"""Regularised evolution directly on the observed f (Real et al., 2018): the search without a surrogate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.samplers.random import MAX_DRAWS, random_proposals
from esnac_lib.samplers.width_scaling import first_proposals
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


class EvolutionSampler:
    """Students as `first` says, "random" or "narrowed" teachers, until `population` of them are observed, then children
    of tournament winners.

    population: the youngest so many observed students can be parents; older ones have died, however good they are.
    tournament: students drawn for one parent, of which the best becomes it. crossover: how often a child has two
    parents, each decision taken from either; the child is mutated in any case.

    # DEVIATION: Real et al. mutate one parent, with a population of 100 and tournaments of 25 for 20,000 evaluations;
    # the defaults here are for some 50 to 200 evaluations, and crossover = 0 gives their operator.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        population: int = 16,
        tournament: int = 5,
        crossover: float = 0.5,
        first: str = "random",
    ) -> None:
        self.space = space
        self.seed = seed
        self.population = population
        self.tournament = tournament
        self.crossover = crossover
        self.first = first
        self._observations: list[Observation] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals. All of them have their parents among the same population, for none is evaluated yet."""
        alive = [trial for trial in self._observations if trial.f is not None][-self.population :]
        if len(alive) < self.population:
            return first_proposals(self.first, self.space, self.seed, self._observations, n)
        proposals: list[Proposal] = []
        seen = {self.space.teacher.arch_id, *(trial.architecture.arch_id for trial in self._observations)}
        for index in range(n):
            child = self._child(alive, seen, make_rng(self.seed, "evolution", len(self._observations), index))
            if child is not None:
                seen.add(child.architecture.arch_id)
                proposals.append(child)
        left = n - len(proposals)
        return proposals + random_proposals(self.space, self.seed, self._observations, left, proposals)

    def tell(self, trials: Sequence[Observation]) -> None:
        """The trials join the population, and the oldest leave it."""
        self._observations.extend(trials)

    def _child(self, alive: Sequence[Observation], seen: set[str], rng: np.random.Generator) -> Proposal | None:
        """A new architecture bred from the population; None if many draws bring nothing new."""
        for _ in range(MAX_DRAWS):
            decisions = self._parent(alive, rng)
            if rng.random() < self.crossover:
                decisions = self.space.cross(decisions, self._parent(alive, rng), rng)
            decisions = self.space.mutate(decisions, rng)
            architecture = self.space.apply(decisions)
            if architecture.arch_id not in seen:
                return Proposal(decisions, architecture)
        return None

    def _parent(self, alive: Sequence[Observation], rng: np.random.Generator) -> Decisions:
        """The best of a few that are drawn without replacement; of equals the first drawn."""
        drawn = rng.choice(len(alive), size=min(self.tournament, len(alive)), replace=False)
        return max((alive[int(i)] for i in drawn), key=lambda trial: trial.f or 0.0).decisions
