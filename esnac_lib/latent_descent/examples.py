"""Turn architectures with their accuracies and numbers of parameters into training examples of the autoencoder.

DEVIATION: besides the trained architectures there may be *unlabelled* ones, drawn from the same distributions. Their
parameters are known without training, so all but the accuracy regressor learn from them too. (The paper has none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import Items

Target = Literal["scaled", "standardised", "log"]


@dataclass(frozen=True)
class ParamsScale:
    """The scale on which the parameter regressor predicts (§4.2).

    *standardised* is the paper's (p − p̄) / σ. Its mean is 0 and the regressor ends in a ReLU, so no network below the
    mean can be expressed, and Eq. 16's target 0 is the mean. DEVIATION, the default: *scaled*, p / σ. *log*: log₂ of p
    over the smallest p of the examples, over its standard deviation, which tells small networks apart.
    """

    kind: Target
    shift: float
    scale: float

    @classmethod
    def of(cls, kind: Target, params: Sequence[int]) -> ParamsScale:
        """Return the scale of examples with these numbers of parameters."""
        values = np.log2(params) if kind == "log" else np.asarray(params, dtype=np.float64)
        shift = {"scaled": 0.0, "standardised": float(values.mean()), "log": float(values.min())}[kind]
        return cls(kind, shift, float(values.std()) or 1.0)

    def target(self, params: float) -> float:
        """Return the regression target of a number of parameters."""
        value = np.log2(max(params, 1.0)) if self.kind == "log" else params
        return float((value - self.shift) / self.scale)

    def params(self, predicted: float) -> float:
        """Return the number of parameters of a prediction."""
        value = predicted * self.scale + self.shift
        return float(2**value) if self.kind == "log" else float(value)


@dataclass(frozen=True)
class Example:
    """An architecture to learn from; its accuracy is None where it was not trained."""

    items: Items
    params: int
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as tensors."""

    x: Tensor  # (n, features, length)
    inside: Tensor  # (n, length): true for the T layers and the end mark after them (Eq. 12 sums over i = 0 … T)
    lengths: Tensor  # (n,): T
    accuracy: Tensor  # (n,), NaN where unknown
    params: Tensor  # (n,) on the regressor's scale

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, examples: Sequence[Example], representation: Representation, scale: ParamsScale) -> Examples:
        """Return the tensors of some examples."""
        lengths = torch.tensor([len(example.items) for example in examples])
        accuracy = [float("nan") if example.accuracy is None else example.accuracy for example in examples]
        return cls(
            torch.from_numpy(np.stack([representation.encode(example.items) for example in examples])),
            torch.arange(representation.length)[None, :] <= lengths[:, None],
            lengths.float(),
            torch.tensor(accuracy, dtype=torch.float32),
            torch.tensor([scale.target(example.params) for example in examples], dtype=torch.float32),
        )

    def take(self, rows: np.ndarray) -> Examples:
        """Return the examples at these rows."""
        return Examples(*(tensor[torch.from_numpy(rows)] for tensor in vars(self).values()))
