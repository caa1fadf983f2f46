"""Expected improvement (ESNAC Eq. 3), accurate far in its tails."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx, ndtr


def log_expected_improvement(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    """Return log E[max(0, f - best)] for f ~ N(mean, variance); arrays of one shape, float64.

    With z = (mean - best) / σ it is log σ + log(φ(z) + z Φ(z)), which stays finite far in the lower tail, where the
    improvement itself is 0 in float64. A variance of 0 gives the logarithm of the certain improvement, -inf for none.
    """
    mean, sigma = np.asarray(mean, np.float64), np.sqrt(np.asarray(variance, np.float64))
    gain = mean - best
    with np.errstate(divide="ignore"):
        certain = np.log(np.maximum(gain, 0))
        safe = np.where(sigma > 0, sigma, 1)
        return np.where(sigma > 0, np.log(safe) + _log_improvement(gain / safe), certain)


def expected_improvement(mean: np.ndarray, variance: np.ndarray, best: float) -> np.ndarray:
    """Return E[max(0, f - best)] for f ~ N(mean, variance) (ESNAC Eq. 3); arrays of one shape, float64."""
    return np.exp(log_expected_improvement(mean, variance, best))


def _log_improvement(z: np.ndarray) -> np.ndarray:
    """log(φ(z) + z Φ(z)) without cancellation.

    Below -1, with t = -z and Mills' ratio M(t) = √(π/2) erfcx(t/√2), it is log φ(t) + log(1 - t M(t)). The last term
    loses ε·t² of its precision, so from t = 100 it is read from M's asymptotic series, whose first neglected term is
    below 1e-13 there.
    """
    t = np.maximum(-z, 1.0)
    with np.errstate(over="ignore"):
        log_density = -0.5 * t * t - 0.5 * math.log(2 * math.pi)
    near = np.minimum(t, 100.0)
    u = 1 / np.maximum(t, 100.0) ** 2
    lower = np.where(
        t < 100,
        np.log1p(-near * math.sqrt(math.pi / 2) * erfcx(near / math.sqrt(2))),
        -2 * np.log(t) + np.log1p(-3 * u + 15 * u**2 - 105 * u**3),
    )
    upper = np.maximum(z, -1.0)
    density = np.exp(-0.5 * np.minimum(upper, 50) ** 2) / math.sqrt(2 * math.pi)
    return np.where(z < -1, log_density + lower, np.log(density + upper * ndtr(upper)))
