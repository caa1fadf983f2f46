"""What the kernels of a step are learned on, and the f that they foretell: f itself, or only the accuracy in it.

f = C (2 - C) · A / A_teacher (`objective`) is made of a size C, which is exact before anything is trained, and of an
accuracy A, which is not. The paper's Gaussian process has to learn both from layer configurations. Beyond the paper,
`AccuracyTarget` learns the accuracy alone; what it foretells of f remains a Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from esnac_lib.objective import gain
from esnac_lib.space.candidates import Candidate
from esnac_lib.surrogate.kernel import Kernel

Moments = tuple[np.ndarray, np.ndarray]


class Surrogate(Protocol):
    """Made of the observations of a search, the teacher first: their outlines, and f (the teacher's is 0).

    observed: the outlines of those that kernels are learned on. values: what is learned of each, (n,).
    """

    observed: tuple[Candidate, ...]
    values: np.ndarray

    def moments(self, kernel: Kernel, outlines: Sequence[Candidate]) -> Moments:
        """Mean and variance (noise counted) of f that a kernel foretells, each (m,) float64."""
        ...

    def best(self, kernel: Kernel) -> float:
        """The f over which a kernel's expected improvement is counted."""
        ...


class ObjectiveTarget:
    """The paper's: a kernel learns f, and improves on the best f of its own D^k (ESNAC §3.1, Eq. 3)."""

    def __init__(self, outlines: Sequence[Candidate] = (), f: Sequence[float] = ()) -> None:
        self.observed = tuple(outlines)
        self.values = np.array(f, np.float64)

    def moments(self, kernel: Kernel, outlines: Sequence[Candidate]) -> Moments:
        """What the kernel predicts."""
        return kernel.predict([outline.encode(kernel.settings.max_edge) for outline in outlines])

    def best(self, kernel: Kernel) -> float:
        """The largest f in D^k."""
        return kernel.best


class AccuracyTarget:
    """A kernel learns a = A / A_teacher, less its mean and over its standard deviation; f follows with the exact size.

    With the gain g = C (2 - C) of a student, f = g · a: a mean m and variance v of a make g · m and g² · v of f. The
    teacher has a = 1. Other students without a gain (no smaller than the teacher) have f = 0 whatever their accuracy:
    nothing is learned of them. Improved on is the best f of all that was observed.
    """

    def __init__(self, outlines: Sequence[Candidate], f: Sequence[float]) -> None:
        self._whole = outlines[0].num_params
        gains, values = self._gains(outlines), np.array(f, np.float64)
        kept = np.flatnonzero(gains > 0)
        relative = np.concatenate([[1.0], values[kept] / gains[kept]])
        self._mean, self._scale = float(relative.mean()), float(relative.std()) or 1.0
        self._best = float(values.max())
        self.observed = (outlines[0], *(outlines[int(i)] for i in kept))
        self.values = (relative - self._mean) / self._scale

    def moments(self, kernel: Kernel, outlines: Sequence[Candidate]) -> Moments:
        """What the kernel predicts of the accuracy, and the sizes."""
        mean, variance = kernel.predict([outline.encode(kernel.settings.max_edge) for outline in outlines])
        gains = self._gains(outlines)
        return gains * (mean * self._scale + self._mean), (gains * self._scale) ** 2 * variance

    def best(self, kernel: Kernel) -> float:
        """The largest f observed."""
        return self._best

    def _gains(self, outlines: Sequence[Candidate]) -> np.ndarray:
        """C (2 - C) of each, (m,); 0 for what is no smaller than the teacher."""
        return np.array([max(gain(outline.num_params, self._whole), 0.0) for outline in outlines])


SURROGATES: Mapping[str, Callable[[Sequence[Candidate], Sequence[float]], Surrogate]] = {
    "f": ObjectiveTarget,
    "accuracy": AccuracyTarget,
}
