"""The learnable embedding of architectures: a bidirectional LSTM over layer configurations (ESNAC §3.1).

One Adam step of the posterior objective on one thread of an AMD EPYC (PyTorch 2.15, encodings of width 274 and 50-100 %
of the greatest length): 80 encodings of 60 layers 75-125 ms, 32 of 20 layers 13 ms, 8 of 20 layers 6 ms; with
`nn.LSTM` on a packed batch 231, 36 and 19 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.errors import ArchitectureError


def pad(encodings: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Stack encodings (L_b, d) into a batch (B, L, d) float32, zeros after the end, and their lengths (B,) int64.

    Raises ArchitectureError if there is none, one is empty, or their widths differ.
    """
    if not encodings:
        raise ArchitectureError("no encodings to embed: at least one is needed")
    shapes = {encoding.shape for encoding in encodings}
    if any(len(shape) != 2 or shape[0] < 1 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise ArchitectureError(f"encodings of shapes {sorted(shapes)[:3]}: (layers, width) with one width is needed")
    lengths = [len(encoding) for encoding in encodings]
    batch = np.zeros((len(encodings), max(lengths), encodings[0].shape[1]), np.float32)
    for row, encoding in zip(batch, encodings, strict=True):
        row[: len(encoding)] = encoding
    return torch.from_numpy(batch), torch.tensor(lengths)


class Embedding(nn.Module):
    """Encodings -> unit vectors: a Bi-LSTM, its hidden states averaged over the layers, L2-normalised (ESNAC §3.1).

    input_size: width of an encoding. hidden: units a direction. layers: of the LSTM; 4 of 64 units are [code]'s.
    The weights are drawn from `generator` (on the CPU) as PyTorch draws an LSTM's, uniform in ±1/√hidden; no global
    state is read or moved.

    `self.lstm` holds the weights, but is not called. PyTorch runs a packed batch time step by time step, while a
    padded batch in one direction goes to oneDNN as a whole: each direction is run by itself over the padded batch, the
    second on reversed sequences, where padding still comes last and so changes nothing. Columns that are zero in the
    whole batch, most of an encoding, are left out of the first product. The result is that of the packed LSTM.
    """

    def __init__(self, input_size: int, hidden: int = 64, layers: int = 4, *, generator: torch.Generator) -> None:
        super().__init__()
        with torch.device("meta"):  # a constructor of weights that draws nothing
            lstm = nn.LSTM(input_size, hidden, layers, batch_first=True, bidirectional=True)
        self.lstm = lstm.to_empty(device="cpu")
        bound = 1 / math.sqrt(hidden)
        with torch.no_grad():
            for weight in self.lstm.parameters():
                weight.uniform_(-bound, bound, generator=generator)

    @property
    def size(self) -> int:
        """The dimension of the embedding."""
        return 2 * self.lstm.hidden_size

    def forward(self, batch: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, d) and (B,), as from `pad`, -> (B, 2·hidden) unit vectors."""
        position = torch.arange(batch.shape[1], device=batch.device).unsqueeze(1)  # (L, 1)
        real = position < lengths  # (L, B)
        mirror = torch.where(real, lengths - 1 - position, position)  # (L, B): where the reversed sequence reads
        column = torch.arange(batch.shape[0], device=batch.device)
        used = batch.flatten(0, 1).any(0).nonzero().squeeze(1)
        states = batch[:, :, used].transpose(0, 1)  # (L, B, used)
        for layer in range(self.lstm.num_layers):
            ahead = self._run(states, layer, "", used)
            back = self._run(states[mirror, column], layer, "_reverse", used)
            states = torch.cat([ahead, back[mirror, column]], dim=2)  # (L, B, 2·hidden)
        mean = (states * real.unsqueeze(2)).sum(0) / lengths.unsqueeze(1)
        return nn.functional.normalize(mean, dim=1)

    def _run(self, inputs: Tensor, layer: int, direction: str, used: Tensor) -> Tensor:
        """One direction of one layer: (L, B, d) -> (L, B, hidden), starting from zero states."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self.lstm, f"{name}_l{layer}{direction}") for name in names]
        if layer == 0:
            weights[0] = weights[0][:, used]
        zero = inputs.new_zeros(1, inputs.shape[1], self.lstm.hidden_size)
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        return torch.lstm(inputs, (zero, zero), weights, True, 1, 0.0, self.training, False, False)[0]
