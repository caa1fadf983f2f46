"""ESNAC's sampler: K kernels on learned embeddings, each proposing one student a step (ESNAC Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from esnac_lib.acquisition import maximise_by_evolution, maximise_by_sampling, scorer
from esnac_lib.architecture import Architecture
from esnac_lib.encoding import encode
from esnac_lib.kernels import Kernel, KernelSettings, choose_subset, learn_kernels
from esnac_lib.randomness import derive_seed, make_rng
from esnac_lib.samplers.base import Proposal, Told
from esnac_lib.samplers.random import random_proposals
from esnac_lib.space import SearchSpace

PARENTS = 10  # of the best observed, from which evolution starts


class EsnacSampler:
    """Bayesian optimisation over a search space.

    acquisition: how expected improvement is maximised, by "random" sampling or by "evolution" (ESNAC §6.3).
    candidates: architectures scored for one proposal.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        settings: KernelSettings | None = None,
        acquisition: str = "random",
        candidates: int = 1000,
    ) -> None:
        self.space = space
        self.seed = seed
        self.settings = settings or KernelSettings()
        self.acquisition = acquisition
        self.candidates = candidates
        self._told: list[Told] = []
        self._encodings: dict[str, np.ndarray] = {}

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals, one a kernel; at the very first call random ones, as in Algorithm 1."""
        observed = [trial for trial in self._told if trial.f is not None]
        if not observed:
            return random_proposals(self.space, self.seed, self._told, n)
        proposals: list[Proposal] = []
        for k, kernel in enumerate(self._learn(observed, n)):
            proposal = self._propose(kernel, k, observed, [p.architecture.arch_id for p in proposals])
            if proposal is None:
                break
            proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Told]) -> None:
        """Add finished trials to the observations."""
        self._told.extend(trials)

    def kernels(self, n: int) -> list[Kernel]:
        """n kernels learned on all that was told, as the next `ask` would learn them."""
        return self._learn([trial for trial in self._told if trial.f is not None], n)

    def _learn(self, observed: Sequence[Told], n: int) -> list[Kernel]:
        """n kernels, each fresh and on its own random subset of the observations and the teacher (f = 0) [code]."""
        step = len(self._told)
        architectures = [self.space.teacher, *(trial.architecture for trial in observed)]
        values = [0.0, *(trial.f or 0.0 for trial in observed)]
        subsets = [
            choose_subset(len(values), make_rng(self.seed, "kernel-subset", step, k), self.settings.subset_probability)
            for k in range(n)
        ]
        seeds = [derive_seed(self.seed, "kernel", step, k) for k in range(n)]
        return learn_kernels([self._encode(a) for a in architectures], values, subsets, self.settings, seeds)

    def _propose(self, kernel: Kernel, k: int, observed: Sequence[Told], taken: Sequence[str]) -> Proposal | None:
        forbidden = {self.space.teacher.arch_id, *taken, *(trial.architecture.arch_id for trial in self._told)}
        rng = make_rng(self.seed, "candidates", len(self._told), k)
        score = scorer(kernel)
        if self.acquisition == "random":
            found = maximise_by_sampling(self.space, score, forbidden, self.candidates, rng)
        else:
            best = sorted(observed, key=lambda trial: -(trial.f or 0.0))[:PARENTS]
            start = [trial.decisions for trial in best]
            found = maximise_by_evolution(self.space, score, forbidden, self.candidates, rng, start=start)
        if found is None:
            return None
        return Proposal(found.decisions, found.architecture, k, found.mean, found.variance, found.ei)

    def _encode(self, architecture: Architecture) -> np.ndarray:
        if architecture.arch_id not in self._encodings:
            self._encodings[architecture.arch_id] = encode(architecture, self.settings.max_edge)
        return self._encodings[architecture.arch_id]
