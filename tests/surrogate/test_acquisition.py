"""Expected improvement against integration and BoTorch; the maximisers on a toy space that is counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import _log_ei_helper
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.space.candidates import Candidate
from esnac_lib.surrogate.acquisition import expected_improvement, log_expected_improvement
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import learn_kernel
from esnac_lib.surrogate.maximisers import (
    ScoredCandidate,
    maximise_by_evolution,
    maximise_by_sampling,
    maximise_locally,
    scorer,
)

# -- expected improvement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("sigma", [0.25, 1.0, 3.0])
def test_against_integration(mean: float, sigma: float) -> None:
    best = 0.5
    density = norm(mean, sigma).pdf
    top = max(best, mean)
    pieces = [quad(lambda f: (f - best) * density(f), a, b, epsabs=1e-14)[0] for a, b in
              [(best, top + sigma), (top + sigma, top + 4 * sigma), (top + 4 * sigma, top + 14 * sigma)]]  # fmt: skip
    ours = expected_improvement(np.array([mean]), np.array([sigma**2]), best)
    np.testing.assert_allclose(ours, sum(pieces), rtol=1e-8)
    log_ours = log_expected_improvement(np.array([mean]), np.array([sigma**2]), best)
    np.testing.assert_allclose(log_ours, math.log(sum(pieces)), atol=1e-8)


def test_against_botorch_from_tail_to_tail() -> None:
    z = np.concatenate([-np.logspace(6, -3, 400), [0.0], np.logspace(-3, 3, 200), [-1.0, -1.0 + 1e-12, -100.0, -99.9]])
    ours = log_expected_improvement(z, np.ones_like(z), 0.0)
    theirs = _log_ei_helper(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_far_tails() -> None:
    """log(φ(z) + zΦ(z)) tends to -z²/2 - log √(2π) - 2 log|z|, and to log z."""
    z = np.array([-1e3, -1e5, -1e10, -1e100])
    ours = log_expected_improvement(z, np.ones(4), 0.0)
    np.testing.assert_allclose(ours, -(z**2) / 2 - math.log(2 * math.pi) / 2 - 2 * np.log(-z), rtol=1e-12, atol=1e-5)
    np.testing.assert_allclose(log_expected_improvement(np.array([1e3, 1e200]), np.ones(2), 0.0), np.log([1e3, 1e200]))
    np.testing.assert_array_equal(expected_improvement(z, np.ones(4), 0.0), 0)
    # the two formulas meet at z = -100, where the slope is 100
    left, right = log_expected_improvement(np.array([-100.0, np.nextafter(-100.0, 0)]), np.ones(2), 0.0)
    assert abs(left - right) < 2e-11


@given(
    st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-5, 2).map(lambda e: 10**e), st.floats(-1e3, 1e3)
)  # fmt: skip
def test_finite_and_rising_with_the_mean(a: float, b: float, variance: float, best: float) -> None:
    low, high = log_expected_improvement(np.sort([a, b]), np.full(2, variance), best)
    assert math.isfinite(low)
    assert low <= high + 1e-9 * abs(high)
    assert expected_improvement(np.array([a]), np.array([variance]), best)[0] >= max(0.0, (a - best) * (1 - 1e-12))


def test_certain_values() -> None:
    ours = expected_improvement(np.array([0.2, 0.9]), np.zeros(2), 0.5)
    np.testing.assert_allclose(ours, [0, 0.4])
    assert log_expected_improvement(np.array([0.2]), np.zeros(1), 0.5)[0] == -math.inf


# -- the maximisers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """Stands in for an candidate: the maximisers only look at its key and, where two keys are alike, at its arch_id."""

    decisions: tuple[int, ...]

    @property
    def arch_id(self) -> str:
        return ",".join(map(str, self.decisions))

    @property
    def key(self) -> bytes:
        return bytes(self.decisions[:2])


@dataclass
class ToySpace:
    """`size` decisions with `values` values each, and their candidates."""

    size: int
    values: int
    calls: int = 0

    def sample(self, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(self.values, size=self.size)))

    def mutate(self, decisions: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        place, value = int(rng.integers(self.size)), int(rng.integers(self.values))
        return (*decisions[:place], value, *decisions[place + 1 :])

    def cross(self, a: tuple[int, ...], b: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(x if rng.random() < 0.5 else y for x, y in zip(a, b, strict=True))

    def make(self, decisions: tuple[int, ...]) -> Any:
        self.calls += 1
        return Toy(decisions)


def forbid(texts: Iterable[str]) -> list[Any]:
    return [Toy(tuple(map(int, text.split(",")))) for text in texts]


@dataclass
class ToyScore:
    """A smooth score, largest where every decision is 7; remembers what it was asked."""

    asked: list[str] = field(default_factory=list)

    def __call__(self, candidates: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.asked += [candidate.arch_id for candidate in candidates]
        mean = np.array([-sum((x - 7) ** 2 for x in item.decisions) / 100 for item in candidates], float)
        variance = np.full(len(mean), 0.1)
        return mean, variance, log_expected_improvement(mean, variance, 0.0)


NEAR = (7,) * 11 + (9,)
MAXIMISERS = [maximise_by_sampling, maximise_by_evolution, maximise_locally]


@pytest.mark.parametrize("maximise", MAXIMISERS)
@pytest.mark.parametrize("candidates", [1, 49, 400])
def test_budget_and_result(maximise, candidates: int) -> None:  # type: ignore[no-untyped-def]
    score = ToyScore()
    space = ToySpace(8, 10)
    best = maximise(space, space, score, [], candidates, np.random.default_rng(0))
    assert isinstance(best, ScoredCandidate)
    assert len(score.asked) == len(set(score.asked)) == candidates
    values = ToyScore()(forbid(score.asked))[2]
    assert best.log_ei == values.max()
    assert Toy(best.decisions).arch_id == score.asked[values.argmax()]
    assert best.ei == math.exp(best.log_ei)
    assert best.variance == 0.1
    assert best.mean == pytest.approx(-sum((x - 7) ** 2 for x in best.decisions) / 100)


@pytest.mark.parametrize("maximise", MAXIMISERS)
def test_forbidden_is_never_scored(maximise) -> None:  # type: ignore[no-untyped-def]
    everything = {f"{a},{b}" for a in range(4) for b in range(4)}
    allowed = {"0,3", "2,2", "1,0"}
    score = ToyScore()
    space = ToySpace(2, 4)
    best = maximise(space, space, score, forbid(everything - allowed), 1000, np.random.default_rng(0))
    assert set(score.asked) == allowed
    assert len(score.asked) == 3
    assert best is not None
    assert best.decisions == (2, 2)


@pytest.mark.parametrize("maximise", MAXIMISERS)
def test_an_exhausted_space_ends_at_once(maximise) -> None:  # type: ignore[no-untyped-def]
    space, score = ToySpace(2, 3), ToyScore()
    everything = forbid(f"{a},{b}" for a in range(3) for b in range(3))
    assert maximise(space, space, score, everything, 1000, np.random.default_rng(0)) is None
    assert score.asked == []
    assert space.calls <= 200
    assert maximise(space, space, score, [], 0, np.random.default_rng(0)) is None


@pytest.mark.parametrize("maximise", MAXIMISERS)
def test_the_same_draws_give_the_same_candidate(maximise) -> None:  # type: ignore[no-untyped-def]
    space = ToySpace(8, 10)
    one, two = (maximise(space, space, ToyScore(), [], 300, np.random.default_rng(4)) for _ in range(2))
    other = maximise(space, space, ToyScore(), [], 300, np.random.default_rng(5))
    assert one == two
    assert one != other


def test_evolution_finds_more_than_sampling() -> None:
    space = ToySpace(8, 10)
    pairs = []
    for seed in range(10):
        found = [
            maximise(space, space, ToyScore(), [], 400, np.random.default_rng(seed)) for maximise in MAXIMISERS[:2]
        ]
        pairs.append([candidate.mean for candidate in found if candidate])
    sampled, evolved = np.mean(pairs, axis=0)
    assert evolved > sampled + 0.05
    assert all(evolution >= sampling for sampling, evolution in pairs)


def test_evolution_starts_from_the_best_observed() -> None:
    space, near = ToySpace(12, 20), NEAR
    given = space, space, ToyScore(), [space.make(near)], 60
    cold, warm = (
        maximise_by_evolution(*given, np.random.default_rng(0), population=20, start=start) for start in ([], [near])
    )
    assert cold is not None
    assert warm is not None
    assert warm.mean > -0.5 > cold.mean
    assert warm.decisions != near


def test_local_candidates_are_a_few_changes_away() -> None:
    """Of two observed ones: all decisions but a mutated one are of either, and the better one's more often."""
    space, score, other = ToySpace(12, 20), ToyScore(), (0,) * 12
    best = maximise_locally(space, space, score, [space.make(NEAR)], 200, np.random.default_rng(0), [NEAR, other])
    assert best is not None
    candidates = [np.array(list(map(int, text.split(",")))) for text in score.asked]
    strange = [int(((c != np.array(NEAR)) & (c != 0)).sum()) for c in candidates]
    assert max(strange) == 1
    assert np.mean([(c == np.array(NEAR)).sum() >= 11 for c in candidates]) > 0.4
    assert best.mean >= -0.04 and best.decisions != NEAR


def test_local_candidates_are_samples_once_the_neighbourhood_is_used_up() -> None:
    space, score = ToySpace(2, 4), ToyScore()
    maximise_locally(space, space, score, [], 1000, np.random.default_rng(0), [(0, 0)])
    assert len(score.asked) == 16


def chain(widths: tuple[int, ...]) -> Architecture:
    layers = [
        Layer(f"c{i}", "conv", (slot(i - 1 if i else INPUT),), w, {"kernel_size": 1}) for i, w in enumerate(widths)
    ]
    return Architecture(tuple(layers), (3, 4, 4), slot(len(widths) - 1))


class ChainSpace(ToySpace):
    def apply(self, decisions: tuple[int, ...]) -> Architecture:
        return chain(tuple(value + 1 for value in decisions))

    def make(self, decisions: tuple[int, ...]) -> Any:
        return Candidate.of(self.apply(decisions))


@pytest.mark.parametrize("maximise", MAXIMISERS)
def test_with_a_kernel(maximise) -> None:  # type: ignore[no-untyped-def]
    settings = KernelSettings(max_steps=3, max_edge=4)
    space, rng = ChainSpace(3, 6), np.random.default_rng(0)
    observed = [space.sample(rng) for _ in range(6)]
    encodings = [encode(space.apply(item), 4) for item in observed]
    f = rng.random(6)
    kernel = learn_kernel(encodings, f, settings, torch.Generator().manual_seed(0))
    best = maximise(space, space, scorer(kernel), list(map(space.make, observed)), 40, rng)
    assert best.decisions not in observed
    mean, variance = kernel.predict([encode(space.apply(best.decisions), 4)])
    assert best.mean == pytest.approx(mean[0], abs=1e-4)
    assert best.variance == pytest.approx(variance[0], abs=1e-4)
    np.testing.assert_allclose(best.ei, expected_improvement(mean, variance, f.max()), rtol=1e-3)
