"""The learnable embedding of architectures: a bidirectional LSTM over layer configurations (ESNAC §3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.errors import ArchitectureError
from esnac_lib.surrogate.lstm import Weights, averaged
from esnac_lib.surrogate.packing import Packing

Encodings = Sequence[np.ndarray]  # each (L, d) float32

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of `Weights`
CHUNK = 16_000  # rows (layers) embedded at once: bounds the memory, some 80 MB


class Embedding(nn.Module):
    """Encodings -> unit vectors: a Bi-LSTM, its hidden states averaged over the layers, L2-normalised (ESNAC §3.1).

    input_size: width of an encoding. hidden: units a direction. layers: of the LSTM (the authors' code: 4 of 64).
    `self.lstm` holds the weights, drawn from `generator` (on the CPU) as PyTorch draws an LSTM's, uniform in
    ±1/√hidden; no global state is read or moved. All passes go through `surrogate/lstm.py`.
    """

    def __init__(self, input_size: int, hidden: int = 64, layers: int = 4, *, generator: torch.Generator) -> None:
        super().__init__()
        with torch.device("meta"):  # a constructor of weights that draws nothing
            lstm = nn.LSTM(input_size, hidden, layers, batch_first=True, bidirectional=True)
        self.lstm = lstm.to_empty(device="cpu").requires_grad_(False)
        bound = 1 / math.sqrt(hidden)
        for weight in self.lstm.parameters():
            weight.uniform_(-bound, bound, generator=generator)

    @property
    def size(self) -> int:
        """The dimension of the embedding."""
        return 2 * self.lstm.hidden_size

    def weights(self) -> list[Weights]:
        """Return copies of the weights, those of each layer stacked for G = 1 network."""
        return [
            Weights(*(torch.stack(self._parts(name, layer)).unsqueeze(0) for name in NAMES))
            for layer in range(self.lstm.num_layers)
        ]

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Take over weights in the form that `weights` gives them."""
        for layer, parts in enumerate(weights):
            for name, part in zip(NAMES, parts, strict=True):
                for own, value in zip(self._parts(name, layer), part[0], strict=True):
                    own.copy_(value)

    def _parts(self, name: str, layer: int) -> list[Tensor]:
        return [getattr(self.lstm, f"{name}_l{layer}{way}") for way in ("", "_reverse")]

    @torch.no_grad()
    def embed(self, encodings: Encodings, device: str | torch.device = "cpu") -> Tensor:
        """Map encodings (L_b, d) to unit vectors (n, 2·hidden) on `device`; memory does not grow with their number.

        Raises ArchitectureError if one is empty or of another width.
        """
        if wrong := misshapen(encodings, width := self.lstm.input_size):
            raise ArchitectureError(f"an encoding of shape {wrong[0]}: (layers, {width}) is needed")
        result = torch.empty(len(encodings), self.size, device=device)
        if not encodings:
            return result
        used = used_columns(encodings)
        first, *others = (Weights(*(part.to(device) for part in layer)) for layer in self.weights())
        layers = [first._replace(ih=first.ih[..., torch.from_numpy(used).to(device)]), *others]
        for chunk in _chunks([len(encoding) for encoding in encodings]):
            items = [encodings[index][:, used] for index in chunk]
            packing = Packing([[len(item) for item in items]], device)
            means = averaged(packing, torch.from_numpy(packing.arrange(0, items)).to(device), layers)
            result[chunk] = nn.functional.normalize(means[torch.from_numpy(packing.ranks(0)).to(device)], dim=1)
        return result


def used_columns(encodings: Encodings) -> np.ndarray:
    """Return the columns that are not zero everywhere: few of an encoding's, and the only ones to multiply with."""
    used = np.zeros(encodings[0].shape[1], bool)
    for encoding in encodings:
        used |= encoding.any(0)
    return np.flatnonzero(used)


def misshapen(encodings: Encodings, width: int) -> list[tuple[int, ...]]:
    """Return the shapes of the encodings that are not (layers, width) with at least one layer."""
    return [item.shape for item in encodings if item.ndim != 2 or len(item) < 1 or item.shape[1] != width]


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield all indices by length, in parts of at most CHUNK rows, or one sequence."""
    chunk: list[int] = []
    rows = 0
    for index in np.argsort(lengths, kind="stable").tolist():
        if chunk and rows + lengths[index] > CHUNK:
            yield chunk
            chunk, rows = [], 0
        chunk.append(index)
        rows += lengths[index]
    if chunk:
        yield chunk
