"""The statistics of reports: mean and deviation, confidence intervals of a mean, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEAST = 3  # pairs, below which there is no rank correlation


class Stat(NamedTuple):
    """A mean with its standard deviation; None where there is none."""

    mean: float | None = None
    std: float | None = None


def stat(values: Sequence[float]) -> Stat:
    """Return mean and sample standard deviation (n - 1); no deviation of one value, nothing of none."""
    if not values:
        return Stat()
    return Stat(fmean(values), stdev(values) if len(values) > 1 else None)


def mean_and_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the runs and half the width of its 95 % confidence interval (Student's t).

    Shape: (runs, n) -> (n,), (n,). Half the width is 0 for one run.
    """
    from scipy.stats import t as student_t  # slow to import

    runs, mean = len(values), values.mean(axis=0)
    if runs < 2:
        return mean, np.zeros_like(mean)
    quantile = student_t.ppf((1 + 0.95) / 2, runs - 1)
    return mean, quantile * values.std(axis=0, ddof=1) / np.sqrt(runs)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return Spearman's rank correlation; None for fewer than three pairs or a constant side."""
    from scipy.stats import spearmanr  # slow to import

    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < LEAST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)
