"""The autoencoder of sequences and its accuracy and parameter regressors (§4.1, 4.2 and 8)."""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor, nn

WIDTHS: Final = (32, 48, 64, 96)  # channels after each of the four strided blocks; the paper gives none
KERNEL: Final = 5
HIDDEN: Final = 128  # features of the regressors' fc-ReLU blocks


class ResidualBlock(nn.Module):
    """x + σ(g(w ∗ x + b)) with a batch norm g; where length or channels change, x goes through a convolution (§8).

    (B, channels_in, T) to (B, channels, T / stride); with transposed convolutions (B, channels, T · stride).
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1, *, transposed: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        kernel, padding = (KERNEL, KERNEL // 2) if stride == 1 else (2 * stride, stride // 2)
        self.convolution = kind(channels_in, channels, kernel, stride, padding)
        self.norm = nn.BatchNorm1d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else kind(channels_in, channels, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.relu(self.norm(self.convolution(x))) + self.shortcut(x)


class Encoder(nn.Sequential):
    """y = E(x) by residual 1-D convolutions (Eq. 8): (B, features, length) to latent vectors (B, N)."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        blocks: list[nn.Module] = [ResidualBlock(features, WIDTHS[0])]
        for before, width in itertools.pairwise((WIDTHS[0], *WIDTHS)):
            blocks += [ResidualBlock(before, before), ResidualBlock(before, width, 2)]
        blocks += [nn.Conv1d(WIDTHS[-1], embedding, length // 2 ** len(WIDTHS)), nn.Flatten()]
        super().__init__(*blocks)


class Decoder(nn.Sequential):
    """x̂ = D(y) by residual transposed convolutions (Eq. 9): latent vectors (B, N) to (B, features, length)."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        widths = (*WIDTHS[::-1], WIDTHS[0])
        first = nn.ConvTranspose1d(embedding, widths[0], length // 2 ** len(WIDTHS))
        blocks: list[nn.Module] = [nn.Unflatten(1, (embedding, 1)), first]
        for before, width in itertools.pairwise(widths):
            blocks += [ResidualBlock(before, width, 2, transposed=True), ResidualBlock(width, width, transposed=True)]
        blocks.append(nn.ConvTranspose1d(widths[-1], features, KERNEL, padding=KERNEL // 2))
        super().__init__(*blocks)


class Regressor(nn.Sequential):
    """Three fc-ReLU blocks and an output activation (§4.2): latent vectors (B, N) to one number each (B,)."""

    def __init__(self, embedding: int, output: nn.Module) -> None:
        blocks = [m for before in (embedding, HIDDEN, HIDDEN) for m in (nn.Linear(before, HIDDEN), nn.ReLU())]
        last = nn.Linear(HIDDEN, 1)
        nn.init.constant_(last.bias, 0.5)  # a ReLU that starts below 0 for all inputs would never learn
        super().__init__(*blocks, last, output, nn.Flatten(0))


class Autoencoder(nn.Module):
    """Encoder, decoder and regressors (Eqs. 8 to 11); `length` is a multiple of 16, `embedding` is N."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        super().__init__()
        self.encoder = Encoder(features, length, embedding)
        self.decoder = Decoder(features, length, embedding)
        self.accuracy = Regressor(embedding, nn.Sigmoid())
        self.params = Regressor(embedding, nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y (B, N), x̂ (B, features, length), â (B,) and p̂ (B,) of x (B, features, length)."""
        y = self.encoder(x)
        return y, self.decoder(y), self.accuracy(y), self.params(y)
