"""The statistics of reports: mean and deviation, noise bands, confidence intervals of a mean, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from esnac_lib.data.noise import noise_band

LEAST = 3  # pairs, below which there is no rank correlation


class Stat(NamedTuple):
    """A mean with its standard deviation; None where there is none."""

    mean: float | None = None
    std: float | None = None


class Difference(NamedTuple):
    """The difference of two accuracies in points, with half the width of its 95 % noise band (None: unknown)."""

    points: float
    band: float | None = None

    @classmethod
    def of(cls, accuracy: float, reference: float, images: int | None) -> Difference:
        """Return that of two accuracies (fractions) on the same images, so many of them; the band is binomial."""
        band = None if images is None else 100 * noise_band(accuracy, reference, images)
        return cls(100 * (accuracy - reference), band)

    @property
    def within_noise(self) -> bool:
        """Whether the band covers zero: then the difference says nothing."""
        return self.band is not None and abs(self.points) <= self.band

    @property
    def amount(self) -> str:
        """The size of the difference with its band: "0.28 ± 2.10 points"."""
        return f"{abs(self.points):.2f}{'' if self.band is None else f' ± {self.band:.2f}'} points"

    @property
    def signed(self) -> str:
        """The difference with its sign and its band: "-0.28 ± 2.10 points"."""
        return f"{'-' if self.points < 0 else '+'}{self.amount}"

    @property
    def caveat(self) -> str:
        """What must follow the amount: ", within the noise", or nothing."""
        return ", within the noise" if self.within_noise else ""

    @property
    def note(self) -> str:
        """The caveat as a note of its own in a table."""
        return "; the change is within the noise" if self.within_noise else ""


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
