"""Encode sequences as arrays that a convolution can read, and decode them again (Eqs. 7 and 9).

Two representations of a layer [t, k, o, s, p]:

- *numbers* (the paper's): five numbers. DEVIATION: each divided by the largest value of §9 (8, 10, 4096, 10, 10); as
  plain integers the widths' squared errors, of order 10⁶, drown all others and a learning rate of 0.003 diverges.
- *one_hot* (DEVIATION): the type as nine indicators (t = 0 among them), for a type is no quantity; o as log₂(1 + o /
  step), so that an error of a tenth costs the same at 16 and at 1,024 channels; k, s and p divided by 2.

A sequence fills the first positions of its array; t = 0 fills the rest. So the length is decoded too: the paper does
not define it, and here a decoded sequence ends before its first t = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from esnac_lib.latent_descent.sequence import KINDS, Item

LARGEST = np.array([8, 10, 4096, 10, 10], dtype=np.float64)
TYPES = len(KINDS)  # with t = 0
SMALL_SCALE = 2.0


@dataclass(frozen=True)
class Representation:
    """How sequences of at most `length` layers become arrays (features, length)."""

    kind: Literal["one_hot", "numbers"]
    length: int
    width_step: int

    @property
    def features(self) -> int:
        """Numbers that represent a layer."""
        return 5 if self.kind == "numbers" else TYPES + 4

    def encode(self, items: Sequence[Item]) -> np.ndarray:
        """Return the array of a sequence: float32 (features, length)."""
        table = np.zeros((self.length, 5))
        table[: len(items)] = np.array(items)
        if self.kind == "numbers":
            return (table / LARGEST).T.astype(np.float32)
        types = np.eye(TYPES)[table[:, 0].astype(int)]  # (length, 9)
        widths = np.log2(1 + table[:, 2:3] / self.width_step)
        return np.hstack([types, table[:, [1]] / SMALL_SCALE, widths, table[:, 3:] / SMALL_SCALE]).T.astype(np.float32)

    def decode(self, array: np.ndarray) -> list[Item]:
        """Return the rounded items before the first t = 0 of an array (features, length) of any real numbers.

        Widths are rounded to the step. The items need not be a valid sequence.
        """
        table = array.T.astype(np.float64)  # (length, features)
        if self.kind == "numbers":
            numbers = np.rint(table * LARGEST)
            numbers[:, 2] = np.rint(table[:, 2] * LARGEST[2] / self.width_step) * self.width_step
        else:
            small = table[:, TYPES:] * SMALL_SCALE  # (length, 4): k, (o), s, p
            small[:, 1] = np.rint(2 ** np.clip(table[:, TYPES + 1], 0, 16) - 1) * self.width_step
            numbers = np.column_stack([table[:, :TYPES].argmax(1), np.rint(small)])
        items = [Item(*map(int, row)) for row in np.clip(numbers, 0, 1e6)]
        end = next((index for index, item in enumerate(items) if item.t == 0), len(items))
        return items[:end]
