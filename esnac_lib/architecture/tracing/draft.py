"""An architecture in the making: layers so far, and what each tensor of a recording stands for.

Everything is only ever added to, so that a part which turns out not to be understood can be removed again (`mark`,
`undo`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape, Slot
from esnac_lib.architecture.tracing.calls import Call, Constant, Value
from esnac_lib.architecture.tracing.learned import whole
from esnac_lib.architecture.tracing.movement import Reading, classify, is_one_to_one, numbered, present, presented
from esnac_lib.architecture.tracing.readers import Refused, Step
from esnac_lib.errors import ArchitectureError

_SUFFIXES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, eq=False)
class Part:
    """What a tensor stands for: a sum of layers' outputs, maps (C, H, W) or features (F,), and how it lies."""

    slot: Slot
    shape: Shape
    layout: str | None  # how the tensor presents that (`movement`); None: it holds the numbers that `index` says
    index: Tensor | None = None  # (B, ...)
    reading: Reading | None = None  # explains the index, if there is one
    moved_by: Call | None = None

    def numbers(self, batch: int) -> Tensor:
        """Return the index of the tensor."""
        return self.index if self.layout is None else present(numbered(self.shape, batch), self.layout)  # type: ignore


class Draft:
    """The layers of an architecture to be, in order, with their tensors; and the parts that Values stand for."""

    def __init__(self, images: Value, paths: set[str]) -> None:
        self.batch = images.shape[0]
        self.input_shape = images.shape[1:]
        self.paths = paths  # of modules: no function's layer takes one as its name
        self.layers: list[Layer] = []
        self.shapes: list[Shape] = []
        self.tensors: list[dict[str, Constant]] = []
        self.names: dict[str, None] = {}
        self.owners: dict[str, str] = {}  # a parameter or buffer -> the layer that holds it
        self.sources: dict[str, tuple[str, Tensor]] = {}  # of a layer's tensor: which elements of which parameter
        self.pending: dict[Value, str] = {}  # what no layer does yet, and why
        self.materialise: Callable[[Value], None] = lambda value: None  # makes a layer of what is pending
        self.notes: list[str] = []
        self.parts: dict[Value, Part] = {images: Part(slot(INPUT), self.input_shape, "chw")}
        self.read_parts: dict[Value, Part] = {}  # moved ones, once layers made what they hold

    @property
    def _books(self) -> tuple[Any, ...]:
        return (self.layers, self.shapes, self.tensors, self.names, self.owners, self.sources, self.pending, self.notes,
                self.parts, self.read_parts)  # fmt: skip

    def mark(self) -> tuple[int, ...]:
        """Return the current length of the draft, for `undo`."""
        return tuple(map(len, self._books))

    def undo(self, mark: tuple[int, ...]) -> None:
        """Remove everything added since a mark."""
        for book, length in zip(self._books, mark, strict=True):
            while len(book) > length:
                book.pop() if isinstance(book, list) else book.popitem()

    def read(self, value: Any, layouts: tuple[str, ...] = (), expanded: bool = False) -> Part:
        """Return what a tensor stands for, in one of some layouts; layers are made for what was cut out of a map.

        Without layouts it may also hold all of a map in some order of its own. With `expanded` it may be the map
        repeated along a dimension in which the map has length one.
        """
        if not isinstance(value, Value):
            raise Refused(f"reads {value!r}, where a tensor made of the input is needed")
        if (given := self.part(value)) is None:
            raise Refused("reads a tensor that is no map and no features")
        part = self.read_parts.get(value) or self._resolved(value, given)
        if layouts and part.layout not in layouts:
            order = f"as {part.layout}" if part.layout else "in an order of its own"
            raise Refused(f"reads a tensor {value.shape} that lies {order}, not as {' or '.join(layouts)}")
        if part.layout and not expanded and presented(part.shape, part.layout) != value.shape[1:]:
            raise Refused(f"reads {part.shape} repeated to {value.shape[1:]}")
        return part

    def part(self, value: Value) -> Part | None:
        """Return what a tensor stands for, as it lies, once a layer made it; None if it is no map and no features."""
        if value not in self.parts and value in self.pending:
            self.materialise(value)
        return self.parts.get(value)

    def _resolved(self, value: Value, part: Part) -> Part:
        if part.layout is not None:
            return part
        if part.reading is None:
            if part.index is None or not is_one_to_one(part.index, part.shape):
                raise Refused("reads numbers that were moved about in a way that is not known")
            return part
        assert part.moved_by is not None
        at = self.chain(part.moved_by, [Step(*step) for step in part.reading.steps], part).slot
        self.read_parts[value] = Part(at, part.reading.shape, part.reading.layout)
        return self.read_parts[value]

    def give(self, value: Value, part: Part) -> None:
        """Record what a result stands for, if it has the shape that was seen."""
        shape = presented(part.shape, part.layout) if part.layout else part.index.shape[1:]  # type: ignore[union-attr]
        if tuple(shape) != value.shape[1:]:
            layer = self.layers[part.slot[-1][0]] if self.layers else None
            name = f"layer {layer.name!r} ({layer.kind})" if layer else "it"
            raise Refused(f"{name} puts out {value.shape[1:]}, predicted was {tuple(shape)}")
        if value.shape[0] != self.batch:
            raise Refused(f"puts out a tensor {value.shape}: the batch of {self.batch} images is lost")
        self.parts[value] = part

    def move(self, value: Value, part: Part, index: Tensor, call: Call) -> Part:
        """Record that a result holds the elements of a part that an index says; return what it stands for."""
        reading = classify(index, part.shape)
        if reading and not reading.steps and presented(reading.shape, reading.layout) == value.shape[1:]:
            self.parts[value] = Part(part.slot, reading.shape, reading.layout)
        else:
            self.parts[value] = Part(part.slot, part.shape, None, index, reading, call)
            if reading and reading.layout in ("chw", "f"):
                self.read(value, expanded=True)
        return self.parts[value]

    def layer(self, call: Call, step: Step, inputs: tuple[Slot, ...], first: bool = True, **extra: Any) -> Slot:
        """Add a layer, the first or a later one of a call. Raises Refused if it does not fit its inputs or tensors."""
        name, absorbed = extra.pop("name", None) or self._name(call, step, first), extra.pop("absorbed", ())
        self.names[name] = None
        try:
            layer = Layer(name, step.kind, inputs, step.channels, step.attrs, origin=name, **extra)
            rules, attrs = LAYER_TYPES[layer.kind], dict(layer.attrs)
            shapes = [self.shape(part) for part in inputs]
            shape = rules.shape(layer.channels, attrs, shapes)
        except ArchitectureError as error:
            raise Refused(str(error)) from None
        given = {key: tuple(constant.tensor.shape) for key, constant in step.tensors.items()}
        if given != (expected := rules.tensors(layer.channels, attrs, shapes[0])):
            raise Refused(f"tensors of shapes {given} where {expected} are needed")
        for key, constant in step.tensors.items():
            self.trust(constant)
            self._hold(layer, key, constant, absorbed)
        self.layers.append(layer)
        self.shapes.append(shape)
        self.tensors.append(dict(step.tensors))
        return slot(len(self.layers) - 1)

    def _hold(self, layer: Layer, key: str, constant: Constant, absorbed: Collection[str]) -> None:
        """Record which parameter a layer's tensor is. Raises Refused if it is not all of one, or is to stay fixed."""
        name = layer.name
        if layer.kind == "opaque":
            for parameter in constant.learned:
                self.own((parameter,), name, "weight", absorbed)
                self.sources[f"{name}.{key}"] = parameter, torch.empty(0)
        elif key.startswith("running_") or (layer.kind == "broadcast" and not layer["trained"]):
            if constant.learned:
                raise Refused(f"its {key} is computed from {', '.join(sorted(constant.learned))}, and would stay fixed")
            self.own(constant.names if key.startswith("running_") else (), name, key)
        else:
            self.sources[f"{name}.{key}"] = whole(constant, key)
            self.own(constant.names, name, key)

    def chain(self, call: Call, steps: list[Step], part: Part) -> Part:
        """Add layers one after the other: return the output of the last one, in the layout of the part."""
        at = part.slot
        for place, step in enumerate(steps):
            at = self.layer(call, step, (at,), first=place == 0)
        return replace(part, slot=at, shape=self.shape(at), reading=None, moved_by=None)

    def shape(self, part: Slot) -> Shape:
        """Return the shape of a sum."""
        shapes = {self.input_shape if source == INPUT else self.shapes[source] for source, _ in part}
        if len(shapes) > 1:
            raise Refused(f"sums shapes that differ: {sorted(shapes)}")
        return shapes.pop()

    def own(self, names: Iterable[str], layer: str, key: str, absorbed: Collection[str] = ()) -> None:
        """Record which layer holds some parameters and buffers. Raises Refused if another one does already."""
        for name in names:
            if (owner := self.owners.setdefault(name, layer)) not in (layer, *absorbed):
                raise Refused(f"its {key} is already used by layer {owner!r}: shared weights are not supported")

    def trust(self, constant: Constant) -> Tensor:
        """Return the tensor of a constant. Raises Refused if it is not clear that it is one."""
        if not constant.known:
            raise Refused(
                "reads a tensor from outside the module, or from code that cannot be followed: hold it as a buffer"
            )
        if constant.tensor._version != constant.version:
            raise Refused("reads a constant that is changed in place later")
        return constant.tensor.detach()

    def _name(self, call: Call, step: Step, first: bool) -> str:
        """Return the path of a PyTorch module that is one layer, else of its tensors' holder, else a function name."""
        path, kind = call.place.path, step.kind
        owner = next((_holder(constant.names) for constant in step.tensors.values()), "")
        if call.place.plain and path:
            is_module = bool(owner) if call.place.holds else first
            return self.unique(path, True) if is_module else self.unique(f"{path}.{kind}")
        if owner:
            return self.unique(owner, True)
        return self.unique(call.name if first and not step.tensors else kind)

    def unique(self, wanted: str, own: bool = False) -> str:
        """Return a name that no layer has yet. A module's path is kept free for the module itself (`own`)."""
        name, count = wanted, 0
        while name in self.names or (name in self.paths and not (own and name == wanted)):
            count += 1
            name = f"{wanted}_{count}"
        return name

    def finish(self, output: Slot) -> tuple[Architecture, dict[str, Tensor]]:
        """Return the architecture of all layers that the output needs, and their tensors (the user's, not copies)."""
        needed = {source for source, _ in output}
        for place in reversed(range(len(self.layers))):
            if place in needed:
                needed |= self.layers[place].sources
        kept = sorted(needed - {INPUT})
        places = {INPUT: INPUT} | {old: new for new, old in enumerate(kept)}

        def renumbered(part: Slot) -> Slot:
            return tuple((places[source], count) for source, count in part)

        layers = [replace(self.layers[old], inputs=tuple(map(renumbered, self.layers[old].inputs))) for old in kept]
        weights = {
            f"{layer.name}.{key}": constant.tensor.detach()
            for layer, old in zip(layers, kept, strict=True)
            for key, constant in self.tensors[old].items()
        }
        return Architecture(tuple(layers), self.input_shape, renumbered(output)), weights


def _holder(names: frozenset[str]) -> str:
    """Return the path of some parameters' holder: their module, or a parameter itself that is no weight or bias."""
    if len(names) == 1:
        (name,) = names
        head, _, tail = name.rpartition(".")
        return head if tail in _SUFFIXES else name
    columns = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
