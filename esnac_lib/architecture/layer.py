"""Layers and the slots that they read.

A layer reads *slots*. A slot is a sum of sources, each with its multiplicity: ((3, 1), (5, 2)) is x₃ + 2·x₅, where x₃
is the output of layer 3 and source -1 (`INPUT`) is the network's input. Only a concat has more than one slot; there
their order is the order of concatenation. So a sum is not a layer, and an emptied residual block is the slot ((b, 2),).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from esnac_lib.architecture.layer_types import LAYER_TYPES, Slot, normalise_attrs
from esnac_lib.errors import ArchitectureError

INPUT = -1

_normalised = lru_cache(maxsize=4096)(normalise_attrs)


def slot(*sources: int) -> Slot:
    """The sum of the given sources; a source given twice counts twice."""
    return tuple(sorted(Counter(map(int, sources)).items()))


def sum_slots(terms: Iterable[tuple[Slot, int]]) -> Slot:
    """The sum of slots, each times its multiplicity."""
    total: Counter[int] = Counter()
    for part, times in terms:
        for source, count in part:
            total[source] += count * times
    return tuple(sorted(total.items()))


@dataclass(frozen=True)
class Layer:
    """One layer of an architecture.

    name: unique in its architecture; its weights are "<name>.weight" and so on.
    kind: a key of LAYER_TYPES.
    inputs: the slots that it reads.
    channels: filters of a convolution, features of a linear layer; 0 for all other kinds.
    attrs: kernel_size and so on, given as a mapping, kept as sorted pairs with every default filled in; read one with
        `layer["stride"]`. Kernel size, stride, padding and dilation are (height, width).
    origin: the name of the teacher's layer that this one came from.
    kept_out, kept_in: which of the origin's output channels (filters, batch-norm channels) and input channels (or
        features) are still here, as arrays of indices in order; None means all of them. Only layers with weights
        need them.
    code, reason: of an opaque layer what runs it (a module, never saved) and why it is opaque. None of these and
        neither the origin count for `arch_id` or equality.

    Raises ArchitectureError for an unknown kind, and for an attribute that is unknown, lacking or out of range.
    """

    name: str
    kind: str
    inputs: tuple[Slot, ...]
    channels: int = 0
    attrs: Any = ()
    origin: str | None = field(default=None, compare=False)
    kept_out: np.ndarray | None = field(default=None, compare=False, repr=False)
    kept_in: np.ndarray | None = field(default=None, compare=False, repr=False)
    code: Any = field(default=None, compare=False, repr=False)
    reason: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"a layer is called {self.name!r}: a name is a text that is not empty")
        if not isinstance(self.channels, Integral):
            raise ArchitectureError(f"layer {self.name!r} with {self.channels!r} channels: needed is an integer")
        object.__setattr__(self, "channels", int(self.channels))
        try:
            attrs = _normalised(self.kind, self.attrs)
        except TypeError:  # a mapping or a list cannot be looked up
            attrs = normalise_attrs(self.kind, self.attrs)
        object.__setattr__(self, "attrs", attrs)

    def __getitem__(self, name: str) -> Any:
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(f"{self.kind} {self.name!r} has no attribute {name!r}")

    @property
    def sources(self) -> set[int]:
        """All layers that this one reads."""
        return {source for part in self.inputs for source, _ in part}

    @property
    def has_filters(self) -> bool:
        """Whether the layer has output channels of its own (convolution, linear)."""
        return LAYER_TYPES[self.kind].filters
