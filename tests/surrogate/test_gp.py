"""The Gaussian process against refits one by one, SciPy's normal distribution and GPyTorch."""

from __future__ import annotations

import gpytorch
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from esnac_lib.surrogate import gp

SIGMA2, NOISE = 0.01, 0.05


def observations(n: int, seed: int = 0, d: int = 5, spread: float = 0.15) -> tuple[Tensor, Tensor]:
    """Unit vectors near each other, so that the kernel is neither 0 nor 1, and values of the size of f."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.ones(d, dtype=torch.float64) + spread * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return h / h.norm(dim=-1, keepdim=True), torch.rand(n, generator=generator, dtype=torch.float64)


def covariance(h: Tensor) -> np.ndarray:
    """K + noise·I, entry by entry."""
    points = h.numpy()
    n = len(points)
    return np.array(
        [
            [np.exp(-np.sum((points[i] - points[j]) ** 2) / (2 * SIGMA2)) + NOISE * (i == j) for j in range(n)]
            for i in range(n)
        ]
    )


def gpytorch_model(h: Tensor, f: Tensor) -> tuple[gpytorch.models.ExactGP, gpytorch.likelihoods.GaussianLikelihood]:
    class Model(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(h, f, likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = gpytorch.kernels.RBFKernel()

        def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = torch.tensor(NOISE, dtype=torch.float64)  # a plain float would pass through float32
    model = Model().double()
    model.covar_module.lengthscale = torch.tensor(SIGMA2, dtype=torch.float64).sqrt()
    return model, likelihood


def test_rbf_by_hand() -> None:
    h = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.3, 0.4]])
    expected = np.exp(-np.array([[0, 0.01, 0.25], [0.01, 0, 0.2], [0.25, 0.2, 0]]) / 0.02)
    assert gp.rbf(h, h, SIGMA2).dtype == torch.float64
    np.testing.assert_allclose(gp.rbf(h, h, SIGMA2), expected, rtol=1e-6)  # h is float32
    assert gp.rbf(h[:1], h, SIGMA2).shape == (1, 3)


def test_posterior_of_one_observation_by_hand() -> None:
    h = torch.tensor([[1.0, 0.0]])
    mean, variance = gp.posterior(h, torch.tensor([0.8]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), SIGMA2, NOISE)
    np.testing.assert_allclose(mean, [0.8 / 1.05, 0], atol=1e-7)
    np.testing.assert_allclose(variance, [1.05 - 1 / 1.05, 1.05], atol=1e-12)  # the noise is counted


def test_posterior_against_gpytorch() -> None:
    h, f = observations(12)
    test, _ = observations(7, seed=1)
    model, likelihood = gpytorch_model(h, f)
    model.eval()
    likelihood.eval()
    with torch.no_grad():
        predicted = likelihood(model(test))
    mean, variance = gp.posterior(h, f, test, SIGMA2, NOISE)
    np.testing.assert_allclose(mean, predicted.mean, rtol=1e-6)
    np.testing.assert_allclose(variance, predicted.variance, rtol=1e-6)


def test_leave_one_out_against_n_refits() -> None:
    h, f = observations(15)
    mean, variance = gp.leave_one_out_moments(h, f, SIGMA2, NOISE)
    density = gp.leave_one_out(h, f, SIGMA2, NOISE)
    for i in range(15):
        others = torch.arange(15) != i
        refit_mean, refit_variance = gp.posterior(h[others], f[others], h[i : i + 1], SIGMA2, NOISE)
        assert mean[i].item() == pytest.approx(refit_mean.item(), rel=1e-10)
        assert variance[i].item() == pytest.approx(refit_variance.item(), rel=1e-10)
        assert density[i].item() == pytest.approx(norm.logpdf(f[i], refit_mean, refit_variance.sqrt()).item(), rel=1e-9)
    assert gp.posterior_objective(h, f, SIGMA2, NOISE).item() == pytest.approx(-density.mean().item())


def test_posterior_objective_against_gpytorch() -> None:
    h, f = observations(20, seed=3)
    model, likelihood = gpytorch_model(h, f)
    model.train()
    # GPyTorch divides the sum of the log densities by n, as ESNAC Eq. 5 does
    theirs = gpytorch.mlls.LeaveOneOutPseudoLikelihood(likelihood, model)(model(h), f)
    assert gp.posterior_objective(h, f, SIGMA2, NOISE).item() == pytest.approx(-theirs.item(), rel=1e-9)


def test_marginal_objective_against_scipy_and_gpytorch() -> None:
    h, f = observations(20, seed=4)
    ours = gp.marginal_objective(h, f, SIGMA2, NOISE).item()
    assert ours == pytest.approx(-multivariate_normal(np.zeros(20), covariance(h)).logpdf(f), rel=1e-9)
    model, likelihood = gpytorch_model(h, f)
    model.train()
    theirs = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)(model(h), f)
    assert ours == pytest.approx(-20 * theirs.item(), rel=1e-9)  # GPyTorch divides by n


def test_leading_dimensions_are_independent() -> None:
    batches = [observations(9, seed=seed) for seed in range(3)]
    h = torch.stack([pair[0] for pair in batches])  # (3, 9, 5)
    f = torch.stack([pair[1] for pair in batches])  # (3, 9)
    test = torch.stack([observations(4, seed=seed + 10)[0] for seed in range(3)])  # (3, 4, 5)
    mean, variance = gp.posterior(h, f, test, SIGMA2, NOISE)
    assert mean.shape == variance.shape == (3, 4)
    for k in range(3):
        one_mean, one_variance = gp.posterior(h[k], f[k], test[k], SIGMA2, NOISE)
        np.testing.assert_allclose(mean[k], one_mean, rtol=1e-12)
        np.testing.assert_allclose(variance[k], one_variance, rtol=1e-12)
        for function in (gp.leave_one_out, gp.posterior_objective, gp.marginal_objective):
            np.testing.assert_allclose(
                function(h, f, SIGMA2, NOISE)[k], function(h[k], f[k], SIGMA2, NOISE), rtol=1e-12
            )


@pytest.mark.parametrize("objective", [gp.posterior_objective, gp.marginal_objective])
def test_gradients(objective) -> None:  # type: ignore[no-untyped-def]
    h, f = observations(6, d=3)
    h[5] = h[4]  # gradients exist at a duplicate, too
    assert torch.autograd.gradcheck(lambda x: objective(x, f, SIGMA2, NOISE), h.requires_grad_())


@pytest.mark.parametrize(("n", "spread"), [(1, 0.15), (2, 0.15), (40, 0.0), (500, 0.15), (500, 1e-3)])
def test_numbers_stay_finite(n: int, spread: float) -> None:
    """One or two observations, nothing but duplicates, and n far above the 50 where ESNAC's marginal broke down."""
    h, f = observations(n, spread=spread)
    h.requires_grad_()
    for objective in (gp.posterior_objective, gp.marginal_objective):
        value = objective(h, f, SIGMA2, NOISE)
        (gradient,) = torch.autograd.grad(value, h)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
    mean, variance = gp.posterior(h, f, h, SIGMA2, NOISE)
    assert torch.isfinite(mean).all()
    assert ((variance >= NOISE) & (variance <= 1 + NOISE)).all()


def test_float32_embeddings_are_computed_in_float64() -> None:
    h, f = observations(30)
    for function in (gp.posterior_objective, gp.marginal_objective):
        single = function(h.float(), f.float(), SIGMA2, NOISE)
        assert single.dtype == torch.float64
        assert single.item() == pytest.approx(
            function(h.float().double(), f.float().double(), SIGMA2, NOISE).item(), rel=1e-14
        )
