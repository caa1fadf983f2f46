"""What the codec learns from: sequences as tensors, with their accuracies and parameter counts.

DEVIATION: beside the trained architectures there may be *unlabelled* ones, drawn from the same distributions. Their
parameters are known without training, so encoder, decoder and parameter regressor learn from them too; only the
accuracy regressor does not. (The paper's form: none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import Items

Target = Literal["scaled", "standardised", "log"]


@dataclass(frozen=True)
class ParamsScale:
    """Between a number of parameters and what the parameter regressor predicts.

    *standardised* is the paper's (p − p̄) / σ. Its mean is 0 and the regressor ends in a ReLU, so no network below the
    mean can be expressed, and Eq. 16's target 0 is the mean. DEVIATION, the default: *scaled*, p / σ. *log*: log₂ of p
    over the smallest p of the examples, over its standard deviation, which tells small networks apart.
    """

    kind: Target
    shift: float
    scale: float

    @classmethod
    def of(cls, kind: Target, params: Sequence[int]) -> ParamsScale:
        """The scale of these examples."""
        values = np.log2(params) if kind == "log" else np.asarray(params, dtype=np.float64)
        shift = {"scaled": 0.0, "standardised": float(values.mean()), "log": float(values.min())}[kind]
        return cls(kind, shift, float(values.std()) or 1.0)

    def target(self, params: float) -> float:
        """What stands for so many parameters."""
        value = np.log2(max(params, 1.0)) if self.kind == "log" else params
        return float((value - self.shift) / self.scale)

    def params(self, predicted: float) -> float:
        """How many parameters a prediction stands for."""
        value = predicted * self.scale + self.shift
        return float(2**value) if self.kind == "log" else float(value)


class Known(Protocol):
    """What is known of an architecture; a trained one (`trials.Labelled`) is such a thing too."""

    @property
    def items(self) -> Items: ...

    @property
    def params(self) -> int: ...

    @property
    def accuracy(self) -> float | None: ...


@dataclass(frozen=True)
class Example:
    """One architecture: accuracy is None where it was not trained."""

    items: Items
    params: int
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as tensors.

    x: (n, features, length). inside: (n, length), true for the T layers and the end mark after them (Eq. 12 sums over
    i = 0 … T). lengths: (n,) T. accuracy: (n,), NaN where unknown. params: (n,) on the regressor's scale.
    """

    x: Tensor
    inside: Tensor
    lengths: Tensor
    accuracy: Tensor
    params: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Examples:
        """The examples at these rows."""
        at = torch.from_numpy(rows)
        return Examples(self.x[at], self.inside[at], self.lengths[at], self.accuracy[at], self.params[at])


def examples_of(found: Sequence[Known], representation: Representation, scale: ParamsScale) -> Examples:
    """The tensors of some architectures."""
    lengths = torch.tensor([len(example.items) for example in found])
    accuracy = [float("nan") if example.accuracy is None else example.accuracy for example in found]
    return Examples(
        torch.from_numpy(np.stack([representation.encode(example.items) for example in found])),
        torch.arange(representation.length)[None, :] <= lengths[:, None],
        lengths.float(),
        torch.tensor(accuracy, dtype=torch.float32),
        torch.tensor([scale.target(example.params) for example in found], dtype=torch.float32),
    )
