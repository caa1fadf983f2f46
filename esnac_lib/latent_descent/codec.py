"""A trained autoencoder that embeds sequences, predicts from latent vectors, and decodes them (Eqs. 8 to 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esnac_lib.latent_descent.examples import ParamsScale
from esnac_lib.latent_descent.networks import Autoencoder
from esnac_lib.latent_descent.repair import Repaired, repair
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import Item, SequenceSpace


@dataclass(frozen=True, eq=False)
class Codec:
    """An autoencoder in evaluation mode, so that nothing depends on a batch, with what its numbers mean."""

    autoencoder: Autoencoder
    representation: Representation
    scale: ParamsScale
    space: SequenceSpace

    def embed(self, sequences: Sequence[Sequence[Item]]) -> Tensor:
        """Return the latent vectors y = E(o(A)) of n sequences of any lengths: (n, N)."""
        x = torch.stack([torch.from_numpy(self.representation.encode(items)) for items in sequences])
        with torch.no_grad():
            return self.autoencoder.encoder(x)

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return â and p̂ (on the regressor's scale) of latent vectors (n, N): (n,) each, with gradients."""
        return self.autoencoder.accuracy(y), self.autoencoder.params(y)

    def predict(self, y: Tensor) -> list[tuple[float, float]]:
        """Return predicted accuracies and numbers of parameters of latent vectors (n, N)."""
        with torch.no_grad():
            accuracy, params = self.regress(y)
        return [(float(a), self.scale.params(float(p))) for a, p in zip(accuracy, params, strict=True)]

    def decode(self, y: Tensor) -> list[list[Item]]:
        """Return the rounded sequences of latent vectors (n, N), which may be invalid."""
        with torch.no_grad():
            decoded = self.autoencoder.decoder(y)
        return [self.representation.decode(array.numpy()) for array in decoded]

    def decode_valid(self, y: Tensor) -> Repaired:
        """Return the repaired sequence of one latent vector (1, N), or raise InvalidSequence."""
        return repair(self.space, self.decode(y)[0])
