"""A trained codec as one thing that embeds, predicts and decodes (Eqs. 8 to 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esnac_lib.latent_descent.examples import ParamsScale
from esnac_lib.latent_descent.networks import Codec
from esnac_lib.latent_descent.repair import Repaired, repair
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import Item, SequenceSpace


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The codec with what its numbers mean. The codec is in evaluation mode, so nothing depends on a batch."""

    codec: Codec
    representation: Representation
    scale: ParamsScale
    space: SequenceSpace

    def embed(self, sequences: Sequence[Sequence[Item]]) -> Tensor:
        """y = E(o(A)) of sequences of any lengths: (n, N)."""
        x = torch.stack([torch.from_numpy(self.representation.encode(items)) for items in sequences])
        with torch.no_grad():
            return self.codec.encoder(x)

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """â and p̂ (on the regressor's scale) of embeddings (n, N): (n,) each, with gradients."""
        return self.codec.accuracy(y), self.codec.params(y)

    def predict(self, y: Tensor) -> list[tuple[float, float]]:
        """Accuracy and number of parameters, as numbers."""
        with torch.no_grad():
            accuracy, params = self.regress(y)
        return [(float(a), self.scale.params(float(p))) for a, p in zip(accuracy, params, strict=True)]

    def decode(self, y: Tensor) -> list[list[Item]]:
        """The rounded sequences of embeddings (n, N), which may be invalid."""
        with torch.no_grad():
            decoded = self.codec.decoder(y)
        return [self.representation.decode(array.numpy()) for array in decoded]

    def network(self, y: Tensor) -> Repaired:
        """The valid sequence of one embedding (1, N). Raises InvalidSequence where there is none."""
        return repair(self.space, self.decode(y)[0])
