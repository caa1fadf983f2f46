"""Why the marginal objective stays finite here past 50 observations, where the paper's diverged (ESNAC §6.7).

Its log determinant is read off a Cholesky factor in float64, as a sum of logarithms. The paper blames that term; a
determinant formed as a product before its logarithm is taken fails as they saw, which `marginal_table` shows.
No training is needed for it: the observations are students drawn from the space, f = C(2 - C), as if none lost any
accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.objective import PAPERS
from esnac_lib.seeding import make_generator, make_rng
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:
    from esnac_lib.surrogate.kernel import Kernel


def marginal_table(teacher: Architecture, sizes: Sequence[int], seed: int) -> pd.DataFrame:
    """Return a line for each number n of observations, before and after learning by the marginal objective.

    "objective": negative log marginal likelihood. "condition": of the matrix K + noise·I that is factorised, whose
    eigenvalues lie between noise and n + noise, so that it is at most 1 + n/noise ("bound"). "log det": by the Cholesky
    factor in float64. "log of det, float32": the logarithm of the determinant as a product.
    """
    from esnac_lib.surrogate.fitting import KernelSettings
    from esnac_lib.surrogate.kernel import learn_kernel

    marginal, space = KernelSettings(objective="marginal"), SearchSpace(teacher)
    rngs = [make_rng(seed, "marginal-table", index) for index in range(max(sizes) - 1)]
    students = [teacher, *(space.apply(space.sample(rng)) for rng in rngs)]
    encodings = [encode(student) for student in students]
    values = [PAPERS.gain(student.num_params, teacher.num_params) for student in students]
    lines = []
    for n in sizes:
        for when, settings in (("before", replace(marginal, max_steps=0)), ("after", marginal)):
            kernel = learn_kernel(encodings[:n], values[:n], settings, make_generator(seed, "marginal-table"))
            lines.append({"observations": n, "learning": when, "steps": kernel.steps, **_numerics(kernel)})
    return pd.DataFrame(lines)


def _numerics(kernel: Kernel) -> dict[str, float]:
    import torch

    from esnac_lib.surrogate.gp import rbf

    h = kernel.embed(kernel.encodings)
    n, noise = len(h), kernel.settings.noise
    matrix = rbf(h, h, kernel.settings.sigma2) + noise * torch.eye(n, dtype=torch.float64)  # (n, n)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    root = torch.linalg.cholesky(matrix)
    with np.errstate(divide="ignore"):
        product = float(np.log(np.float32(torch.linalg.det(matrix.float()).item())))
    return {
        "objective": kernel.loss,
        "condition": float(eigenvalues[-1] / eigenvalues[0]),
        "bound": 1 + n / noise,
        "log det": float(2 * root.diagonal().log().sum()),
        "log of det, float32": product,
    }
