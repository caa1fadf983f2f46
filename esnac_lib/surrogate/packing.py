"""Sequences of different lengths as rows without padding, for several networks at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch


class Packing:
    """Where the elements of the sequences of G networks lie.

    lengths: of every network's sequences, each at least 1. Networks may have different numbers of sequences.

    The sequences of a network are ranked, the longest first. Element t of the sequence of rank r is row
    starts[t] + r, for r < counts[t], the largest number of sequences longer than t that a network has; where a network
    has fewer, the row holds nothing.
    """

    def __init__(self, lengths: Sequence[Sequence[int]], device: str | torch.device = "cpu") -> None:
        self.networks = len(lengths)  # G
        self.orders = [np.argsort([-n for n in own], kind="stable") for own in lengths]
        ranked = np.zeros((len(lengths), max(map(len, lengths))), np.int64)  # (G, n)
        for row, own, order in zip(ranked, lengths, self.orders, strict=True):
            row[: len(own)] = np.asarray(own)[order]
        longest = ranked.max(0)  # (n,), ranked too
        self.counts = [int((longest > t).sum()) for t in range(longest[0])]
        self.starts = [0, *accumulate(self.counts)]
        self.total = self.starts[-1]  # T, the rows of one network
        self._time = np.repeat(np.arange(len(self.counts)), self.counts)  # (T,)
        self._rank = np.concatenate([np.arange(count) for count in self.counts])  # (T,)
        own_length = ranked[:, self._rank]  # (G, T)
        self._real = self._time < own_length  # (G, T): whether the row holds anything
        mirrored = np.where(self._real, own_length - 1 - self._time, self._time)
        self.mirror = torch.from_numpy(np.asarray(self.starts)[mirrored] + self._rank).to(device)
        self.real = torch.from_numpy(self._real.astype(np.float32)).to(device)
        self.lengths = torch.from_numpy(ranked).to(device)  # (G, n); 0: no such sequence

    def ranks(self, network: int) -> np.ndarray:
        """Return the rank of each of the network's sequences."""
        return np.argsort(self.orders[network])

    def arrange(self, network: int, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Return the elements of a network's sequences, (length, d) each, as rows (T, d); zeros elsewhere."""
        ends = np.cumsum([0, *map(len, sequences)])
        real = self._real[network]
        source = ends[self.orders[network][self._rank[real]]] + self._time[real]
        result = np.zeros((self.total, sequences[0].shape[1]), sequences[0].dtype)
        result[real] = np.concatenate(sequences)[source]
        return result
