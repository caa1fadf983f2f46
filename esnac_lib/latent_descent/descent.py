"""Compression by gradient descent on the embedding (§4.4, Eqs. 16 to 18)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from esnac_lib.latent_descent.codec import Surrogate
from esnac_lib.latent_descent.sequence import InvalidSequence, Items


@dataclass(frozen=True)
class CompressionLoss:
    """L_c = w_a L_a(â, a₀) + w_p L_p(p̂, p₀) (Eq. 17; Eq. 16 has a₀ = 1, p₀ = 0, w_a = 1 and w_p = λ).

    params: p₀ on the regressor's scale.
    """

    accuracy: float
    params: float
    accuracy_weight: float
    params_weight: float

    def __call__(self, accuracy: Tensor, params: Tensor) -> Tensor:
        """(n,) predictions to (n,) losses."""
        size = F.huber_loss(params, torch.full_like(params, self.params), reduction="none")
        return self.accuracy_weight * (accuracy - self.accuracy).abs() + self.params_weight * size

    def of(self, accuracy: float, params: float) -> float:
        """Of known numbers; params on the regressor's scale."""
        return float(self(torch.tensor([accuracy]), torch.tensor([params])))


@dataclass(frozen=True)
class PathStep:
    """A point on the way, and the network that it decodes to.

    accuracy, params: predicted at the embedding. items: the decoded sequence after repair, None where it was `refused`
    for that reason. true_params, macs, arch_id: of the decoded network. decoded_accuracy, decoded_params: predicted for
    the decoded network, that is, at its own embedding.
    """

    step: int
    loss: float
    accuracy: float
    params: float
    items: Items | None
    refused: str | None
    repairs: dict[str, int]
    true_params: int | None = None
    macs: int | None = None
    arch_id: str | None = None
    decoded_accuracy: float | None = None
    decoded_params: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"items": None if self.items is None else [list(item) for item in self.items]}


def descend(
    surrogate: Surrogate, start: Items, loss: CompressionLoss, steps: int, lr: float, reembed: int = 0
) -> list[PathStep]:
    """From the embedding of `start`, y ← y − η dL_c/dy; the start is step 0.

    The path leaves the embeddings of networks after some steps, and the regressors then predict what no network is (the
    paper: after about 5). DEVIATION: every `reembed` steps y becomes the embedding of the network that it decodes to,
    unless it did so before; 0 (the paper): never.

    DEVIATION: Eq. 18 is printed with a plus, which would ascend.
    """
    y = surrogate.embed([start])  # (1, N)
    path: list[PathStep] = []
    been: set[str | None] = {None}
    for step in range(steps + 1):
        y = y.detach().requires_grad_()
        accuracy, params = surrogate.regress(y)
        value = loss(accuracy, params).sum()
        predicted = float(accuracy.detach()), surrogate.scale.params(float(params.detach()))
        here = _step_of(surrogate, y.detach(), step, float(value.detach()), *predicted)
        path.append(here)
        (gradient,) = torch.autograd.grad(value, y)
        y = y.detach() - lr * gradient
        if reembed and step and step % reembed == 0 and here.items is not None and here.arch_id not in been:
            been.add(here.arch_id)
            y = surrogate.embed([here.items])
    return path


def _step_of(surrogate: Surrogate, y: Tensor, step: int, loss: float, accuracy: float, params: float) -> PathStep:
    try:
        found = surrogate.network(y)
    except InvalidSequence as error:
        return PathStep(step, loss, accuracy, params, None, error.reason, {})
    architecture = surrogate.space.to_architecture(found.items)
    (again,) = surrogate.predict(surrogate.embed([found.items]))
    return PathStep(
        step, loss, accuracy, params, found.items, None, found.repairs,
        architecture.num_params, architecture.macs, architecture.arch_id, *again,
    )  # fmt: skip
