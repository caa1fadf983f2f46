"""The Gaussian process over embeddings: zero mean, RBF kernel (ESNAC Eq. 4), one noise variance for all observations.

Pure functions of embeddings h and observed values f. All of them compute in float64, take any leading batch
dimensions, and are differentiable in h. The noise variance must be positive: it keeps the matrix that is factorised
well conditioned, whatever the embeddings are (two architectures may well share one).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def rbf(h: Tensor, h2: Tensor, sigma2: float) -> Tensor:
    """ESNAC Eq. 4: exp(-|h - h'|² / (2σ²)) for h (..., n, d) and h2 (..., m, d); returns (..., n, m) in float64."""
    h, h2 = h.double(), h2.double()
    squares = h.square().sum(-1).unsqueeze(-1) + h2.square().sum(-1).unsqueeze(-2)  # (..., n, m)
    distance2 = (squares - 2 * h @ h2.mT).clamp_min(0)  # rounding can leave -1e-16
    return torch.exp(-distance2 / (2 * sigma2))


def posterior(h_train: Tensor, f: Tensor, h_test: Tensor, sigma2: float, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of what an evaluation at h_test would give (ESNAC Eq. 2; Rasmussen & Williams Alg. 2.1).

    h_train (..., n, d), f (..., n), h_test (..., m, d) -> mean (..., m), variance (..., m). The variance includes the
    noise of the evaluation itself, as in the authors' code, so it lies between `noise` and 1 + `noise`.
    """
    root = _root(h_train, sigma2, noise)  # (..., n, n)
    cross = rbf(h_train, h_test, sigma2)  # (..., n, m)
    weights = torch.cholesky_solve(f.double().unsqueeze(-1), root)  # (..., n, 1)
    mean = (cross.mT @ weights).squeeze(-1)
    explained = torch.linalg.solve_triangular(root, cross, upper=False).square().sum(-2)
    return mean, (1 - explained).clamp_min(0) + noise


def leave_one_out_moments(h: Tensor, f: Tensor, sigma2: float, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and variance, including observation noise, that the other n - 1 observations predict for each one.

    h (..., n, d), f (..., n) -> mean (..., n), variance (..., n). One factorisation serves all n (Rasmussen & Williams
    Eq. 5.12): with A = (K + noise·I)⁻¹, variance = 1 / A_ii and mean = f_i - (A f)_i / A_ii. O(n³), not O(n⁴).
    """
    f = f.double()
    inverse = torch.cholesky_inverse(_root(h, sigma2, noise))  # (..., n, n)
    variance = 1 / inverse.diagonal(dim1=-2, dim2=-1)  # (..., n)
    return f - (inverse @ f.unsqueeze(-1)).squeeze(-1) * variance, variance


def leave_one_out(h: Tensor, f: Tensor, sigma2: float, noise: float) -> Tensor:
    """Return log p(f_i | all others) of each observation: h (..., n, d), f (..., n) -> (..., n)."""
    mean, variance = leave_one_out_moments(h, f, sigma2, noise)
    return -0.5 * ((f.double() - mean).square() / variance + variance.log() + LOG_2PI)


def posterior_objective(h: Tensor, f: Tensor, sigma2: float, noise: float) -> Tensor:
    """ESNAC Eq. 5: the mean negative log leave-one-out predictive density, (..., n, d), (..., n) -> (...)."""
    return -leave_one_out(h, f, sigma2, noise).mean(-1)


def marginal_objective(h: Tensor, f: Tensor, sigma2: float, noise: float) -> Tensor:
    """Return the negative log marginal likelihood (ESNAC §6.7; not divided by n), (..., n, d), (..., n) -> (...)."""
    root = _root(h, sigma2, noise)
    whitened = torch.linalg.solve_triangular(root, f.double().unsqueeze(-1), upper=False).squeeze(-1)  # (..., n)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (whitened.square().sum(-1) + log_det + f.shape[-1] * LOG_2PI)


def _root(h: Tensor, sigma2: float, noise: float) -> Tensor:
    """Return the lower Cholesky factor of K + noise·I, (..., n, n)."""
    identity = torch.eye(h.shape[-2], dtype=torch.float64, device=h.device)
    return torch.linalg.cholesky(rbf(h, h, sigma2) + noise * identity)
