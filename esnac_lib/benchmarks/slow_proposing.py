"""Proposing as the published program does it, one architecture at a time, written anew to be measured and compared.

As in the authors' code, each architecture goes alone through `nn.LSTM`, a step of learning inverts n matrices for its n
left-out observations, and a candidate is built, named, encoded, embedded and scored by itself. The draws, the weights
to start from and the rules are those of `EsnacSampler`, so that both propose the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.architecture.encoding import encode, encoding_size
from esnac_lib.architecture.graph import Architecture
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate import gp
from esnac_lib.surrogate.acquisition import log_expected_improvement
from esnac_lib.surrogate.embedding import Embedding
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import choose_subset


class SlowKernel:
    """A kernel on D^k: encodings (L, d) and their f (n,). `learn` it before it predicts."""

    def __init__(
        self, encodings: Sequence[np.ndarray], f: Sequence[float], settings: KernelSettings, generator: torch.Generator
    ) -> None:
        self.encodings, self.f = encodings, torch.tensor(f, dtype=torch.float64)
        self.settings = settings
        self.lstm = Embedding(encoding_size(settings.max_edge), generator=generator).lstm.requires_grad_(True)
        self._adam = torch.optim.Adam(self.lstm.parameters(), settings.lr, weight_decay=settings.weight_decay)

    def embed(self, encoding: np.ndarray) -> Tensor:
        """Return the embedding (1, 128)."""
        states, _ = self.lstm(torch.from_numpy(encoding).unsqueeze(0))  # (1, L, 128)
        return nn.functional.normalize(states.mean(1), dim=1)

    def objective(self) -> Tensor:
        """Return ESNAC Eq. 5 as it is written: one inverse for each observation that is left out."""
        noisy = self._noisy()
        total = torch.zeros((), dtype=torch.float64)
        for i in range(len(self.f)):
            others = torch.arange(len(self.f)) != i
            inverse = torch.inverse(noisy[others][:, others])
            cross = noisy[i, others]
            mean, variance = cross @ inverse @ self.f[others], noisy[i, i] - cross @ inverse @ cross
            total = total + 0.5 * ((self.f[i] - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))
        return total / len(self.f)

    def _noisy(self) -> Tensor:
        h = torch.cat([self.embed(encoding) for encoding in self.encodings])
        return gp.rbf(h, h, self.settings.sigma2) + self.settings.noise * torch.eye(len(h), dtype=torch.float64)

    def step(self, loss: Tensor) -> None:
        """Take one step of Adam."""
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def learn(self) -> int:
        """Learn with the early stop of `learn_kernel`; return the number of steps."""
        settings, average, steps = self.settings, 0.0, 0
        while len(self.f) >= 2:
            loss = self.objective()
            value = -loss.item()
            near = steps and steps >= settings.min_steps and abs(average - value) < settings.tolerance
            if near or steps == settings.max_steps:
                break
            average = settings.average * average + (1 - settings.average) * value if steps else value
            self.step(loss)
            steps += 1
        return steps

    @cached_property
    def _learned(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            h = torch.cat([self.embed(encoding) for encoding in self.encodings])
            return h, torch.inverse(self._noisy())

    def log_ei(self, encoding: np.ndarray) -> tuple[float, float, float]:
        """Return mean, variance (including observation noise) and log expected improvement of one architecture."""
        h, inverse = self._learned
        with torch.no_grad():
            cross = gp.rbf(self.embed(encoding), h, self.settings.sigma2)  # (1, n)
            mean = (cross @ inverse @ self.f).item()
            variance = 1 - (cross @ inverse @ cross.T).item() + self.settings.noise
        improvement = log_expected_improvement(np.array([mean]), np.array([variance]), self.f.max().item())
        return mean, variance, improvement.item()


def slow_ask(
    space: SearchSpace, trials: Sequence[Observation], seed: int, n: int, settings: KernelSettings, candidates: int
) -> list[Proposal]:
    """Return what `EsnacSampler(space, seed, settings, "random", candidates)` proposes after these trials."""
    observed = [trial for trial in trials if trial.f is not None]
    architectures = [space.teacher, *(trial.architecture for trial in observed)]
    encodings = [encode(architecture, settings.max_edge) for architecture in architectures]
    f = [0.0, *(trial.f or 0.0 for trial in observed)]
    seen = {space.teacher.arch_id, *(trial.architecture.arch_id for trial in trials)}
    proposals, step = [], len(trials)
    for k in range(n):
        subset = choose_subset(len(f), make_rng(seed, "kernel-subset", step, k), settings.subset_probability)
        generator = torch.Generator().manual_seed(derive_seed(seed, "kernel", step, k))
        kernel = SlowKernel([encodings[i] for i in subset], [f[i] for i in subset], settings, generator)
        kernel.learn()
        proposal = _best(space, kernel, k, seen, candidates, make_rng(seed, "candidates", step, k))
        seen.add(proposal.architecture.arch_id)
        proposals.append(proposal)
    return proposals


def _best(
    space: SearchSpace, kernel: SlowKernel, k: int, forbidden: set[str], candidates: int, rng: np.random.Generator
) -> Proposal:
    """Return the best of so many different samples; there must be as many."""
    seen, found = set(forbidden), list[tuple[float, Proposal]]()
    for _ in range(candidates):
        decisions, architecture = new_candidate(space, seen, rng)
        mean, variance, log_ei = kernel.log_ei(encode(architecture, kernel.settings.max_edge))
        found.append((log_ei, Proposal(decisions, architecture, k, mean, variance, math.exp(log_ei))))
    return max(found, key=lambda pair: pair[0])[1]


def new_candidate(space: SearchSpace, seen: set[str], rng: np.random.Generator) -> tuple[Decisions, Architecture]:
    """Return a sample whose arch_id was not `seen`, and add it."""
    while True:
        decisions = space.sample(rng)
        architecture = space.apply(decisions)
        if architecture.arch_id not in seen:
            seen.add(architecture.arch_id)
            return decisions, architecture


def with_gaps(encoding: np.ndarray, length: int) -> np.ndarray:
    """Return the encoding at its teacher's length: the authors' code keeps removed layers (here: zeros at the end)."""
    return np.concatenate([encoding, np.zeros((length - len(encoding), encoding.shape[1]), np.float32)])
