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
    """Return the sum of the given sources; a source given twice counts twice."""
    return tuple(sorted(Counter(map(int, sources)).items()))


def sum_slots(terms: Iterable[tuple[Slot, int]]) -> Slot:
    """Return the sum of slots, each times its multiplicity."""
    total: Counter[int] = Counter()
    for part, times in terms:
        for source, count in part:
            total[source] += count * times
    return tuple(sorted(total.items()))


@dataclass(frozen=True)
class Layer:
    """One layer of an architecture.

    `attrs` (kernel_size and so on) are given as a mapping, kept as sorted pairs with every default filled in and read
    with `layer["stride"]`; kernel size, stride, padding and dilation are (height, width). `kept_out` says which of the
    origin's output channels (filters, batch-norm channels) are still here, as an array of indices in order, `kept_in`
    the same for its input channels or features; None means all. Only layers with weights need them.

    `origin` and all that follows count neither for `arch_id` nor for equality. ArchitectureError is raised if the kind
    is unknown, or an attribute is unknown, missing or out of range.
    """

    name: str  # unique in its architecture; its weights are "<name>.weight" and so on
    kind: str  # a key of LAYER_TYPES
    inputs: tuple[Slot, ...]
    channels: int = 0  # filters of a convolution, features of a linear layer; 0 for all other kinds
    attrs: Any = ()
    origin: str | None = field(default=None, compare=False)  # the name of the teacher's layer that this one came from
    kept_out: np.ndarray | None = field(default=None, compare=False, repr=False)
    kept_in: np.ndarray | None = field(default=None, compare=False, repr=False)
    code: Any = field(default=None, compare=False, repr=False)  # what runs an opaque layer: a module, never saved
    reason: str = field(default="", compare=False, repr=False)  # why it is opaque

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"a layer is called {self.name!r}: its name must be a text that is not empty")
        if not isinstance(self.channels, Integral):
            raise ArchitectureError(f"layer {self.name!r} has {self.channels!r} channels: it must be an integer")
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
