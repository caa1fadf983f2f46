"""Regression targets: what the kernels of a step are learned on, and the f that they predict.

f is made of a gain, which is exact before anything is trained, and of an accuracy, which is not (`objective`). The
paper's Gaussian process has to learn both from layer configurations. Beyond the paper, `AccuracyTarget` learns the
accuracy alone; its prediction of f remains a Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esnac_lib.objective import PAPERS, Objective
from esnac_lib.space.candidates import Candidate
from esnac_lib.surrogate.kernel import Kernel

Moments = tuple[np.ndarray, np.ndarray]


class ObjectiveTarget:
    """The paper's: a kernel learns f, and improves on the best f of its own D^k (ESNAC §3.1, Eq. 3).

    Made from the candidates and f of a search's observations, the teacher (f = 0) first. observed: the candidates that
    kernels are learned on. targets (n,): the regression target of each.
    """

    def __init__(
        self, candidates: Sequence[Candidate] = (), f: Sequence[float] = (), objective: Objective = PAPERS
    ) -> None:
        self.observed, self.targets = tuple(candidates), np.array(f, np.float64)

    def moments(self, kernel: Kernel, candidates: Sequence[Candidate]) -> Moments:
        """Return a kernel's predictive mean and variance (including observation noise) of f, each (m,) float64."""
        return kernel.predict([candidate.encode(kernel.settings.max_edge) for candidate in candidates])

    def best(self, kernel: Kernel) -> float:
        """Return the f over which a kernel's expected improvement is computed."""
        return kernel.best


class AccuracyTarget(ObjectiveTarget):
    """A kernel learns a = A / A_teacher, standardised; f follows with the exact gain.

    With the gain g of a student, f = g · a: a mean m and variance v of a make g · m and g² · v of f. The teacher has
    a = 1. Other students without a gain (no smaller than the teacher) have f = 0 whatever their accuracy: nothing is
    learned from them. The improvement is over the best f of all observations.
    """

    def __init__(self, candidates: Sequence[Candidate], f: Sequence[float], objective: Objective = PAPERS) -> None:
        self._objective, self._teacher_size = objective, objective.size(candidates[0])
        gains, values = self._gains(candidates), np.array(f, np.float64)
        kept = np.flatnonzero(gains > 0)
        relative = np.concatenate([[1.0], values[kept] / gains[kept]])
        self._mean, self._scale = float(relative.mean()), float(relative.std()) or 1.0
        self._best = float(values.max())
        self.observed = (candidates[0], *(candidates[int(i)] for i in kept))
        self.targets = (relative - self._mean) / self._scale

    def moments(self, kernel: Kernel, candidates: Sequence[Candidate]) -> Moments:
        """Return the kernel's prediction of the accuracy, scaled by the gains."""
        mean, variance = super().moments(kernel, candidates)
        gains = self._gains(candidates)
        return gains * (mean * self._scale + self._mean), (gains * self._scale) ** 2 * variance

    def best(self, kernel: Kernel) -> float:
        """Return the largest f observed."""
        return self._best

    def _gains(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Return the gain of each, (m,); 0 for what is no smaller than the teacher."""
        objective, teacher_size = self._objective, self._teacher_size
        return np.array([max(objective.gain(objective.size(one), teacher_size), 0.0) for one in candidates])


TARGETS: Mapping[str, type[ObjectiveTarget]] = {"f": ObjectiveTarget, "accuracy": AccuracyTarget}
