"""The maximisers of expected improvement (ESNAC Eq. 3) over a search space (ESNAC §3.2, §6.3).

Each scores the same number of different architectures, each `arch_id` once, and returns the best; None if there was
none. forbidden: what must not be proposed (evaluated or waiting architectures, the teacher). Fewer are scored if
`MISSES` draws in a row bring nothing new. They draw decisions and score candidates; no architecture is built.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.acquisition import log_expected_improvement
from esnac_lib.surrogate.kernel import Kernel
from esnac_lib.surrogate.targets import ObjectiveTarget

Score = Callable[[list[Candidate]], tuple[np.ndarray, np.ndarray, np.ndarray]]
Rng = np.random.Generator
Forbidden = Collection[Candidate]

BATCH = 1000  # architectures scored at once by random sampling: bounds the memory
MISSES = 200  # draws in a row without a new architecture after which a space counts as exhausted


@dataclass(frozen=True)
class ScoredCandidate:
    """A scored architecture: the decisions that give it, what the posterior says, and its expected improvement."""

    decisions: Decisions
    mean: float
    variance: float
    ei: float
    log_ei: float


def scorer(kernel: Kernel, target: ObjectiveTarget | None = None) -> Score:
    """Return how a kernel scores architectures: mean and variance of f, log expected improvement over the best.

    target: what the kernel was learned on; None stands for f itself.
    """
    of = target or ObjectiveTarget()

    def score(candidates: list[Candidate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, variance = of.moments(kernel, candidates)
        return mean, variance, log_expected_improvement(mean, variance, of.best(kernel))

    return score


def maximise_by_sampling(
    space: SearchSpace, maker: CandidateMaker, score: Score, forbidden: Forbidden, candidates: int, rng: Rng,
    start: Sequence[Decisions] = (),
) -> ScoredCandidate | None:  # fmt: skip
    """Return the best of architectures sampled as in a random search (ESNAC §3.2); `start` changes nothing."""
    pool = _Pool(maker, score, forbidden, candidates)
    while pool.gather(lambda: space.sample(rng), BATCH):
        pass
    return pool.best


def maximise_by_evolution(
    space: SearchSpace, maker: CandidateMaker, score: Score, forbidden: Forbidden, candidates: int, rng: Rng,
    population: int = 50, start: Sequence[Decisions] = (),
) -> ScoredCandidate | None:  # fmt: skip
    """Return the best of architectures bred from samples and from `start` (ESNAC §6.3).

    The paper does not say which evolutionary algorithm it means; this is a (μ + λ) one. start: decisions of the best
    observed architectures, not scored again themselves. The first generation is half mutants of them, half samples (all
    samples if there are none). Each later one has as many children: two parents, each the better of two drawn at
    random, are crossed in half of the cases, and the result is mutated; the best `population` of parents and children
    live on. A child that is forbidden or known costs a draw, not the budget; after ten such draws in a row a sample
    takes its place.
    """
    pool = _Pool(maker, score, forbidden, candidates)

    def first() -> Decisions:
        if start and rng.random() < 0.5:
            return space.mutate(start[int(rng.integers(len(start)))], rng)
        return space.sample(rng)

    def child() -> Decisions:
        return _child(space, [parent.decisions for parent in parents], pool.misses, rng)

    parents = pool.gather(first, population)
    while parents and (children := pool.gather(child, population)):
        parents = sorted(parents + children, key=lambda item: -item.log_ei)[:population]
    return pool.best


def maximise_locally(
    space: SearchSpace, maker: CandidateMaker, score: Score, forbidden: Forbidden, candidates: int, rng: Rng,
    start: Sequence[Decisions] = (),
) -> ScoredCandidate | None:  # fmt: skip
    """Return the best of architectures that are a few changes away from `start` (beyond the paper).

    A kernel knows little about what is unlike all that was evaluated, and a maximiser that goes there finds its
    errors. start: decisions of the best observed architectures, best first. Each candidate is a mutant of the better
    of two of them drawn at random, or of that crossed with another one; after ten draws in a row that bring nothing new
    a sample takes its place, as it does for all where there is no start.
    """
    pool = _Pool(maker, score, forbidden, candidates)
    while pool.gather(lambda: _child(space, start, pool.misses, rng), BATCH):
        pass
    return pool.best


MAXIMISERS: Mapping[str, Callable[..., ScoredCandidate | None]] = {
    "random": maximise_by_sampling,
    "evolution": maximise_by_evolution,
    "local": maximise_locally,
}


def _child(space: SearchSpace, parents: Sequence[Decisions], misses: int, rng: Rng) -> Decisions:
    """Return a mutant of a parent (best first; the better of two drawn) or, in half of the cases, of two crossed.

    A sample where there are no parents, or the last ten draws brought nothing new.
    """

    def parent() -> Decisions:
        return parents[int(rng.integers(len(parents), size=2).min())]

    if not parents or misses >= 10:
        return space.sample(rng)
    decisions = space.cross(parent(), parent(), rng) if rng.random() < 0.5 else parent()
    return space.mutate(decisions, rng)


@contextmanager
def uncollected() -> Iterator[None]:
    """Switch Python's cyclic garbage collector off.

    Thousands of candidates, none in a cycle, set it off again and again, and each time it looks through all that
    PyTorch has loaded; that was a third of the time of a draw.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Pool:
    """Draws architectures, skips those that are forbidden or known, scores the others, and keeps the best."""

    def __init__(self, maker: CandidateMaker, score: Score, forbidden: Forbidden, candidates: int) -> None:
        self.best: ScoredCandidate | None = None
        self.misses = 0  # draws in a row without a new architecture
        self._maker, self._score, self._left = maker, score, candidates
        self._seen: dict[bytes, list[Candidate]] = {}  # by key: where keys differ, arch_ids do
        for candidate in forbidden:
            self._is_new(candidate)

    def gather(self, draw: Callable[[], Decisions], number: int) -> list[ScoredCandidate]:
        """Return up to `number` new candidates, best first; none once the budget or the space is exhausted."""
        found: list[tuple[Decisions, Candidate]] = []
        while len(found) < min(number, self._left) and self.misses < MISSES:
            candidate = self._maker.make(decisions := draw())
            if self._is_new(candidate):
                found.append((decisions, candidate))
                self.misses = 0
            else:
                self.misses += 1
        if not found:
            return []
        self._left -= len(found)
        mean, variance, log_ei = self._score([candidate for _, candidate in found])
        scored = [
            ScoredCandidate(decisions, float(m), float(v), math.exp(e), float(e))
            for (decisions, _), m, v, e in zip(found, mean, variance, log_ei, strict=True)
        ]
        scored.sort(key=lambda item: -item.log_ei)
        if self.best is None or scored[0].log_ei > self.best.log_ei:
            self.best = scored[0]
        return scored

    def _is_new(self, candidate: Candidate) -> bool:
        """Return whether the architecture was not seen before; now it is."""
        alike = self._seen.setdefault(candidate.key, [])
        if any(other.arch_id == candidate.arch_id for other in alike):
            return False
        alike.append(candidate)
        return True
