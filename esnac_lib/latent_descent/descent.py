"""Compress a network by gradient descent on its latent vector (§4.4, Eqs. 16 to 18)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from esnac_lib.latent_descent.codec import Codec
from esnac_lib.latent_descent.sequence import InvalidSequence, Items


@dataclass(frozen=True)
class CompressionLoss:
    """L_c = w_a L_a(â, a₀) + w_p L_p(p̂, p₀) (Eq. 17; Eq. 16 has a₀ = 1, p₀ = 0, w_a = 1 and w_p = λ)."""

    accuracy: float  # a₀
    params: float  # p₀, on the regressor's scale
    accuracy_weight: float
    params_weight: float

    def __call__(self, accuracy: Tensor, params: Tensor) -> Tensor:
        """Return the losses (n,) of predictions (n,)."""
        size = F.huber_loss(params, torch.full_like(params, self.params), reduction="none")
        return self.accuracy_weight * (accuracy - self.accuracy).abs() + self.params_weight * size

    def of(self, accuracy: float, params: float) -> float:
        """Return the loss of known numbers; params is on the regressor's scale."""
        return float(self(torch.tensor([accuracy]), torch.tensor([params])))


@dataclass(frozen=True)
class DescentStep:
    """A point on the path of a descent, and the network that it decodes to.

    `accuracy` and `params` are predicted at the point. `items` is the decoded sequence after repair, or None where it
    could not be repaired for the reason `refused`; `decoded_accuracy` and `decoded_params` are predicted at its own
    latent vector, `true_params` and `macs` are exact.
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
        """Return plain data."""
        return asdict(self) | {"items": None if self.items is None else [list(item) for item in self.items]}


def descend(
    codec: Codec, start: Items, loss: CompressionLoss, steps: int, lr: float, reembed: int = 0
) -> list[DescentStep]:
    """Descend from the latent vector of `start` by y ← y − η dL_c/dy; the start is step 0.

    After some steps (§5.3: about 5) the path leaves the latent vectors of networks, and the regressors become wrong.
    DEVIATION: every `reembed` steps y becomes the latent vector of the network that it decodes to, unless it was that
    before; 0 (the paper): never. DEVIATION: Eq. 18 is printed with a plus, which would ascend.
    """
    y, path, visited = codec.embed([start]), list[DescentStep](), set[str | None]()  # y: (1, N)
    for step in range(steps + 1):
        y = y.detach().requires_grad_()
        accuracy, params = codec.regress(y)
        value = loss(accuracy, params).sum()
        predicted = float(accuracy.detach()), codec.scale.params(float(params.detach()))
        path.append(here := _step_of(codec, y.detach(), step, float(value.detach()), *predicted))
        (gradient,) = torch.autograd.grad(value, y)
        y = y.detach() - lr * gradient
        if reembed and step and step % reembed == 0 and here.items is not None and here.arch_id not in visited:
            visited.add(here.arch_id)
            y = codec.embed([here.items])
    return path


def _step_of(codec: Codec, y: Tensor, step: int, loss: float, accuracy: float, params: float) -> DescentStep:
    try:
        decoded = codec.decode_valid(y)
    except InvalidSequence as error:
        return DescentStep(step, loss, accuracy, params, None, error.reason, {})
    architecture = codec.space.to_architecture(decoded.items)
    (again,) = codec.predict(codec.embed([decoded.items]))
    return DescentStep(
        step, loss, accuracy, params, decoded.items, None, decoded.repairs,
        architecture.num_params, architecture.macs, architecture.arch_id, *again,
    )  # fmt: skip
