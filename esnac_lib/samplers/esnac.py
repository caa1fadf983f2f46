"""ESNAC's sampler: K kernels on learned embeddings, each proposing one student a step (ESNAC Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.objective import PAPERS, Objective
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.samplers.width_scaling import first_proposals
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import Kernel, choose_subset, learn_kernels
from esnac_lib.surrogate.maximisers import (
    Score,
    ScoredCandidate,
    maximise_by_evolution,
    maximise_by_sampling,
    maximise_locally,
    scorer,
    uncollected,
)
from esnac_lib.surrogate.targets import SURROGATES, Surrogate

PARENTS = 10  # of the best observed, from which evolution starts, and near which local candidates are


class EsnacSampler:
    """Bayesian optimisation over a search space.

    acquisition: how expected improvement is maximised, by "random" sampling, by "evolution" (ESNAC §6.3) or among
    "local" changes of the best observed. candidates: architectures scored for one proposal. first: the students of the
    first step, "random" as in Algorithm 1 or "narrowed" teachers of different widths, none of them far from what is
    good. surrogate: what kernels are learned on, "f" as in the paper or the "accuracy" in it (`surrogates`). device: on
    which kernels are learned and predict; all draws are the CPU's, whatever it is.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        settings: KernelSettings | None = None,
        acquisition: str = "random",
        candidates: int = 1000,
        device: str = "cpu",
        first: str = "random",
        surrogate: str = "f",
        objective: Objective = PAPERS,
    ) -> None:
        self.space = space
        self.seed = seed
        self.settings = settings or KernelSettings()
        self.acquisition = acquisition
        self.candidates = candidates
        self.device = device
        self.first = first
        self.surrogate = surrogate
        self.objective = objective
        self._observations: list[Observation] = []
        self._candidates: list[Candidate] = []  # of what was told
        self._maker = CandidateMaker(space)
        self._teacher = Candidate.of(space.teacher)

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals, one a kernel; before anything is observed those of the first step."""
        if all(trial.f is None for trial in self._observations):
            return first_proposals(self.first, self.space, self.seed, self._observations, n)
        return self.propose(self.kernels(n))

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""
        self._observations.extend(trials)
        self._candidates.extend(Candidate.of(trial.architecture) for trial in trials)

    def kernels(self, n: int) -> list[Kernel]:
        """n kernels learned on all that was told, as the next `ask` would learn them.

        Each is fresh and on its own random subset of the observations and the teacher (f = 0) [code].
        """
        step, settings, surrogate = len(self._observations), self.settings, self._surrogate()
        encodings = [outline.encode(settings.max_edge) for outline in surrogate.observed]
        subsets = [
            choose_subset(len(encodings), make_rng(self.seed, "kernel-subset", step, k), settings.subset_probability)
            for k in range(n)
        ]
        seeds = [derive_seed(self.seed, "kernel", step, k) for k in range(n)]
        return learn_kernels(encodings, surrogate.targets, subsets, settings, seeds, self.device)

    def _surrogate(self) -> Surrogate:
        """Of the teacher and all that was told an f."""
        known = [(self._teacher, 0.0)]
        known += [
            (o, trial.f) for o, trial in zip(self._candidates, self._observations, strict=True) if trial.f is not None
        ]
        outlines, f = zip(*known, strict=True)
        return SURROGATES[self.surrogate](outlines, f, self.objective)

    def propose(self, kernels: Sequence[Kernel]) -> list[Proposal]:
        """One proposal of each kernel, in their order, none of them alike; fewer when the space is exhausted."""
        proposals: list[Proposal] = []
        forbidden, surrogate = [self._teacher, *self._candidates], self._surrogate()
        with uncollected():
            for k, kernel in enumerate(kernels):
                found = self._best(scorer(kernel, surrogate), k, forbidden)
                if found is None:
                    break
                forbidden.append(self._maker.make(found.decisions))
                architecture = self.space.apply(found.decisions)
                proposals.append(Proposal(found.decisions, architecture, k, found.mean, found.variance, found.ei))
        return proposals

    def _best(self, score: Score, k: int, forbidden: Sequence[Candidate]) -> ScoredCandidate | None:
        """The candidate that the k-th kernel proposes; None if there is no new architecture."""
        rng = make_rng(self.seed, "candidates", len(self._observations), k)
        given = self.space, self._maker, score, forbidden, self.candidates, rng
        if self.acquisition == "random":
            return maximise_by_sampling(*given)
        observed = [trial for trial in self._observations if trial.f is not None]
        best = sorted(observed, key=lambda trial: -(trial.f or 0.0))[:PARENTS]
        maximise = maximise_locally if self.acquisition == "local" else maximise_by_evolution
        return maximise(*given, start=[trial.decisions for trial in best])
