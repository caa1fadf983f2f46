"""Convert plain networks to sequences of layers [t, k, o, s, p] (Eq. 7) and back (o and o⁻¹, Eqs. 2 and 3).

    >>> space = SequenceSpace((1, 8, 8), 10)
    >>> items = (Item(CONV, 3, 16, 1, 1), Item(RELU, 0, 16, 0, 0), Item(LINEAR, 0, 10, 0, 0))
    >>> space.to_architecture(items).num_params
    10410

The five numbers leave three things open, which are decided here:

- The flatten before the first linear layer is not an item; o omits it and o⁻¹ inserts it.
- Whether convolutions have a bias is a property of the space. Linear layers always have one.
- The p of a dropout is its probability in tenths. (The paper prints "Dropout (p=0)" for its decoded networks.)

What a layer does not have is 0, and o is the number of input channels where a layer cannot choose its own (§9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape
from esnac_lib.errors import ArchitectureError

CONV, MAX_POOL, BATCH_NORM, RELU, SIGMOID, DROPOUT, AVG_POOL, LINEAR = range(1, 9)  # types t in the order of §9
KINDS: Final = ("", "conv", "max_pool", "batch_norm", "relu", "sigmoid", "dropout", "avg_pool", "linear")
"""Names of the layer types in an `Architecture`; t = 0 is no layer."""

ACTIVATIONS: Final = (RELU, SIGMOID)
POOLS: Final = (MAX_POOL, AVG_POOL)
ON_IMAGES: Final = (CONV, MAX_POOL, BATCH_NORM, AVG_POOL)
"""Layer types that need (channels, height, width), so they cannot follow a linear layer."""


class Item(NamedTuple):
    """One layer of a sequence (Eq. 7): type, kernel size, output channels, stride, padding."""

    t: int
    k: int
    o: int
    s: int
    p: int


Items = tuple[Item, ...]


class InvalidSequence(ArchitectureError):
    """A sequence is no architecture of its space; `reason` names the violated rule in a few words, to be counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class SequenceSpace:
    """The sequences that are architectures for one task.

    `enforced`: whether assumptions 2 and 3 of §3 hold (no two activations in a row; pools reduce the map and have no
    padding); §9 and the decoded networks of §10 break them.
    """

    input_shape: Shape
    num_classes: int
    bias: bool = True  # of convolutions
    enforced: bool = True
    max_length: int = 64
    width_step: int = 1  # o of convolutions and inner linear layers is a multiple of it (the paper's is 1)
    max_macs: int = 0  # most multiply-accumulates of an image; 0 is no limit

    @classmethod
    def around(cls, teacher: Architecture, **options: Any) -> SequenceSpace:
        """Return the space of a plain teacher, or raise InvalidSequence."""
        biases = {bool(layer["bias"]) for layer in teacher.layers if layer.kind == "conv"}
        if len(biases) != 1:
            raise InvalidSequence("not plain", f"convolutions with bias {sorted(biases)}: all need the same")
        space = cls(teacher.input_shape, teacher.output_shape[0], biases.pop(), **options)
        space.check(space.to_sequence(teacher))
        return space

    def to_sequence(self, architecture: Architecture) -> Items:
        """Return o(A), the layers of a chain in their only topological order (Lemma 7.2).

        Raises InvalidSequence if five numbers a layer cannot describe it: it has a branch, a kind that is not among the
        eight, or an attribute that differs from what `to_architecture` gives.
        """
        items: list[Item] = []
        for index, layer in enumerate(architecture.layers):
            if layer.inputs != (slot(index - 1),):
                raise InvalidSequence("not plain", f"layer {layer.name!r} does not read the layer before it alone")
            shape = architecture.in_shapes[index][0]
            if layer.kind == "flatten":
                after = architecture.layers[index + 1 : index + 2]
                if not after or after[0].kind != "linear":
                    raise InvalidSequence("not plain", f"{layer.name!r} does not stand before a linear layer")
                continue
            if layer.kind not in KINDS:
                raise InvalidSequence("not plain", f"{layer.kind} {layer.name!r} is none of {', '.join(KINDS[1:])}")
            item = _item(layer, shape)
            if (wanted := self._layer(item, layer.name, index)).attrs != layer.attrs:
                name = next(name for name, value in layer.attrs if wanted[name] != value)
                raise InvalidSequence("not plain", f"{layer.kind} {layer.name!r} with {name} = {layer[name]}")
            items.append(item)
        if architecture.output != slot(len(architecture.layers) - 1):
            raise InvalidSequence("not plain", "the output is not the last layer")
        return tuple(items)

    def to_architecture(self, items: Sequence[Item]) -> Architecture:
        """Return o⁻¹, the network of a sequence, or raise InvalidSequence."""
        self.check(items)
        layers: list[Layer] = []
        for index, item in enumerate(items):
            if item.t == LINEAR and all(earlier.t != LINEAR for earlier in items[:index]):
                layers.append(Layer("flatten", "flatten", (slot(len(layers) - 1),)))
            layers.append(self._layer(item, f"{KINDS[item.t]}{len(layers)}", len(layers)))
        return Architecture(tuple(layers), self.input_shape, slot(len(layers) - 1))

    def _layer(self, item: Item, name: str, index: int) -> Layer:
        attrs, channels = self._attrs(item), item.o if item.t in (CONV, LINEAR) else 0
        return Layer(name, KINDS[item.t], (slot(index - 1 if index else INPUT),), channels, attrs)

    def _attrs(self, item: Item) -> dict[str, Any]:
        window = {"kernel_size": (item.k,) * 2, "stride": (item.s,) * 2, "padding": (item.p,) * 2}
        if item.t == CONV:
            return window | {"bias": self.bias}
        if item.t in POOLS:
            return window
        return {"p": item.p / 10} if item.t == DROPOUT else {}

    def check(self, items: Sequence[Item]) -> list[Shape]:
        """Return the output shape of every item, or raise InvalidSequence with the first reason."""
        if not 2 <= len(items) <= self.max_length:
            raise InvalidSequence("length", f"{len(items)} layers: 2 to {self.max_length} are allowed")
        if items[-1].t != LINEAR or items[-1].o != self.num_classes:
            raise InvalidSequence("no classifier", f"the last layer must be linear with o = {self.num_classes}")
        if all(item.t != CONV for item in items):
            raise InvalidSequence("no convolution", "at least one is needed")
        shapes, macs = [self.input_shape], 0
        for index, item in enumerate(items):
            before = items[index - 1].t if index else 0
            shape, cost = self.step(item, before, shapes[-1], last=index == len(items) - 1)
            macs += cost
            if 0 < self.max_macs < macs:
                raise InvalidSequence("too many MACs", f"more than {self.max_macs:,} an image")
            shapes.append(shape)
        return shapes[1:]

    def step(self, item: Item, before: int, shape: Shape, *, last: bool = False) -> tuple[Shape, int]:
        """Return shape and MACs of an item after type `before` (0: none) with `shape`, or raise InvalidSequence."""
        if not CONV <= item.t <= LINEAR:
            raise InvalidSequence("unknown type", f"t = {item.t}: 1 to 8 are allowed")
        if item.t in ON_IMAGES and len(shape) != 3:
            raise InvalidSequence("image layer after linear", f"{KINDS[item.t]} on {shape}")
        if self.enforced and item.t in ACTIVATIONS and before in ACTIVATIONS:
            raise InvalidSequence("activations in a row", f"{KINDS[item.t]} after {KINDS[before]} (§3, assumption 2)")
        if item != canonical(item, shape[0]):
            raise InvalidSequence("not canonical", f"{tuple(item)} of {shape[0]} channels: {canonical(item, shape[0])}")
        if (item.t == CONV or (item.t == LINEAR and not last)) and (item.o < 1 or item.o % self.width_step):
            raise InvalidSequence("width", f"o = {item.o}: a multiple of {self.width_step} is allowed")
        if item.t in (CONV, *POOLS) and (item.k < 1 or item.s < 1 or item.p < 0):
            raise InvalidSequence("window", f"{KINDS[item.t]} with k = {item.k}, s = {item.s}, p = {item.p}")
        kind = LAYER_TYPES[KINDS[item.t]]
        attrs = {**kind.attrs, **self._attrs(item)}
        inputs = (shape[0] * shape[1] * shape[2],) if item.t == LINEAR and len(shape) == 3 else shape
        channels = item.o if kind.filters else 0
        try:
            out = kind.shape(channels, attrs, [inputs])
        except ArchitectureError as error:
            raise InvalidSequence("map too small", str(error)) from None
        if self.enforced and item.t in POOLS and (item.p > 0 or out[1:] >= shape[1:]):
            raise InvalidSequence("pool reduces nothing", f"{tuple(item)} on {shape} (§3, assumption 3)")
        return out, kind.macs(channels, attrs, inputs, out)


def canonical(item: Item, channels: int) -> Item:
    """Return the item with 0 for what its type lacks, and the input's channels for an o that it cannot choose (§9)."""
    if item.t == CONV:
        return item
    if item.t in POOLS:
        return item._replace(o=channels)
    if item.t == LINEAR:
        return Item(LINEAR, 0, item.o, 0, 0)
    return Item(item.t, 0, channels, 0, min(max(item.p, 0), 9) if item.t == DROPOUT else 0)


def convolution_blocks(architecture: Architecture) -> dict[int, int]:
    """Return for every convolution of a chain the last of the batch norms and activations that follow it, by index."""
    blocks = {}
    for index, layer in enumerate(architecture.layers):
        if layer.kind == "conv":
            last = index
            while architecture.layers[last + 1].kind in ("batch_norm", "relu", "sigmoid"):
                last += 1
            blocks[index] = last
    return blocks


def _item(layer: Layer, shape: Shape) -> Item:
    t = KINDS.index(layer.kind)
    if t in (CONV, *POOLS):
        window = [layer[name] for name in ("kernel_size", "stride", "padding")]
        if odd := [pair for pair in window if pair[0] != pair[1]]:
            raise InvalidSequence("not plain", f"{layer.kind} {layer.name!r} with a window {odd[0]} that is not square")
        k, s, p = (pair[0] for pair in window)
        return Item(t, k, layer.channels or shape[0], s, p)
    return canonical(Item(t, 0, layer.channels, 0, round(10 * layer["p"]) if t == DROPOUT else 0), shape[0])
