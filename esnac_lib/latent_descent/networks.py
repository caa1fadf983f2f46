"""The networks of Architecture Compression §4.1, 4.2 and 8: encoder, decoder and the two regressors.

y = E(x)    (B, features, length) -> (B, N)    residual 1-D convolutions (Eq. 8)
x̂ = D(y)    (B, N) -> (B, features, length)    the same with transposed convolutions (Eq. 9)
â = f_a(y), p̂ = f_p(y)    (B, N) -> (B,)        three fc-ReLU blocks; then a sigmoid, a ReLU (Eqs. 10 and 11)
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
from torch import Tensor, nn

WIDTHS: Final = (32, 48, 64, 96)
"""Channels after each of the four strided blocks; the paper gives none."""
KERNEL: Final = 5
HIDDEN: Final = 128
"""Features of the regressors' fc-ReLU blocks."""


class ResidualBlock(nn.Module):
    """x + σ(g(w ∗ x + b)) with a batch norm g (§8); where the length or the channels change, a convolution of x + …

    transposed: with transposed convolutions, so that a stride lengthens.
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
        """(B, channels_in, T) to (B, channels, T / stride), transposed T · stride."""
        return torch.relu(self.norm(self.convolution(x))) + self.shortcut(x)


class Encoder(nn.Sequential):
    """(B, features, length) to the embedding (B, N)."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        blocks: list[nn.Module] = [ResidualBlock(features, WIDTHS[0])]
        before = WIDTHS[0]
        for width in WIDTHS:
            blocks += [ResidualBlock(before, before), ResidualBlock(before, width, 2)]
            before = width
        blocks += [nn.Conv1d(before, embedding, length // 2 ** len(WIDTHS)), nn.Flatten()]
        super().__init__(*blocks)


class Decoder(nn.Sequential):
    """The embedding (B, N) to (B, features, length)."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        widths = (*WIDTHS[::-1], WIDTHS[0])
        blocks: list[nn.Module] = [
            nn.Unflatten(1, (embedding, 1)),
            nn.ConvTranspose1d(embedding, widths[0], length // 2 ** len(WIDTHS)),
        ]
        for before, width in itertools.pairwise(widths):
            blocks += [
                ResidualBlock(before, width, 2, transposed=True),
                ResidualBlock(width, width, transposed=True),
            ]
        blocks.append(nn.ConvTranspose1d(widths[-1], features, KERNEL, padding=KERNEL // 2))
        super().__init__(*blocks)


class Regressor(nn.Sequential):
    """The embedding (B, N) to one number (B,)."""

    def __init__(self, embedding: int, output: nn.Module) -> None:
        sizes = (embedding, HIDDEN, HIDDEN, HIDDEN)
        blocks: list[nn.Module] = []
        for before, size in itertools.pairwise(sizes):
            blocks += [nn.Linear(before, size), nn.ReLU()]
        last = nn.Linear(HIDDEN, 1)
        nn.init.constant_(last.bias, 0.5)  # a ReLU that starts below 0 for all inputs would never learn
        super().__init__(*blocks, last, output, nn.Flatten(0))


class Codec(nn.Module):
    """Encoder, decoder and regressors together. length: positions, a multiple of 16; embedding: N."""

    def __init__(self, features: int, length: int, embedding: int) -> None:
        super().__init__()
        self.encoder = Encoder(features, length, embedding)
        self.decoder = Decoder(features, length, embedding)
        self.accuracy = Regressor(embedding, nn.Sigmoid())
        self.params = Regressor(embedding, nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, features, length) to y (B, N), x̂ (B, features, length), â (B,), p̂ (B,)."""
        y = self.encoder(x)
        return y, self.decoder(y), self.accuracy(y), self.params(y)
