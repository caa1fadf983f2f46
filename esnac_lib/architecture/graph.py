"""Architectures: immutable graphs of layers, without weights.

    >>> conv = Layer("conv", "conv", (slot(INPUT),), channels=8, attrs={"kernel_size": 3, "padding": 1, "bias": False})
    >>> head = [Layer("flat", "flatten", (slot(0),)), Layer("fc", "linear", (slot(1),), channels=10)]
    >>> net = Architecture((conv, *head), input_shape=(1, 4, 4), output=slot(2))
    >>> net.num_params, net.macs, net.shapes[0]
    (1362, 2432, (8, 4, 4))

What a layer is, and the slots that it reads: `esnac_lib.architecture.layer`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from esnac_lib.architecture.canonical import Graph, canonical_id, canonical_order
from esnac_lib.architecture.layer import INPUT, Layer, slot, sum_slots
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape, Slot
from esnac_lib.errors import ArchitectureError

__all__ = ["INPUT", "Architecture", "Layer", "slot", "sum_slots"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Architecture:
    """A directed acyclic graph of layers in execution order: every layer reads only earlier ones or the input.

    Raises ArchitectureError if two layers have one name, a source does not exist, a layer does not contribute to the
    output, or shapes do not fit.
    """

    layers: tuple[Layer, ...]
    input_shape: Shape  # (channels, height, width)
    output: Slot

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.input_shape) != 3 or not all(isinstance(n, Integral) and n > 0 for n in self.input_shape):
            raise ArchitectureError(f"the input has shape {self.input_shape}: it must be (channels, height, width)")
        object.__setattr__(self, "input_shape", tuple(map(int, self.input_shape)))
        names = Counter(layer.name for layer in self.layers)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ArchitectureError(f"two layers are called {twice[0]!r}: names must be unique")
        used: set[int] = {source for source, _ in self.output}
        for index, layer in enumerate(self.layers):
            slots = LAYER_TYPES[layer.kind].slots
            if not layer.inputs or (slots and len(layer.inputs) != slots):
                raise ArchitectureError(f"{layer.kind} {layer.name!r} has {len(layer.inputs)} inputs")
            if (layer.channels > 0) != layer.has_filters:
                raise ArchitectureError(f"{layer.kind} {layer.name!r} with {layer.channels} channels of its own")
            for part in layer.inputs:
                self._check_slot(part, index, layer.name)
            used |= layer.sources
        self._check_slot(self.output, len(self.layers), "the output")
        if unused := set(range(len(self.layers))) - used:
            raise ArchitectureError(f"layer {self.layers[min(unused)].name!r} does not contribute to the output")
        _ = self.shapes

    @staticmethod
    def _check_slot(part: Slot, limit: int, reader: str) -> None:
        if not part:
            raise ArchitectureError(f"{reader!r} reads an empty sum")
        for source, count in part:
            if not INPUT <= source < limit or count < 1:
                raise ArchitectureError(f"{reader!r} reads {count} times source {source}: only earlier layers exist")
        if any(a[0] >= b[0] for a, b in pairwise(part)):
            raise ArchitectureError(f"{reader!r} reads a sum that is not sorted: {part}")

    @cached_property
    def _shapes(self) -> tuple[tuple[Shape, ...], tuple[tuple[Shape, ...], ...]]:
        out, into = list[Shape](), list[tuple[Shape, ...]]()

        def of(part: Slot, reader: str) -> Shape:
            found = {self.input_shape if source == INPUT else out[source] for source, _ in part}
            if len(found) != 1:
                raise ArchitectureError(f"{reader!r} sums shapes that differ: {sorted(found)}")
            return found.pop()

        for layer in self.layers:
            inputs = [of(part, layer.name) for part in layer.inputs]
            try:
                out.append(LAYER_TYPES[layer.kind].shape(layer.channels, dict(layer.attrs), inputs))
            except ArchitectureError as error:
                raise ArchitectureError(f"layer {layer.name!r}: {error}") from None
            into.append(tuple(inputs))
        of(self.output, "the output")
        return tuple(out), tuple(into)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The output shape of every layer."""
        return self._shapes[0]

    @property
    def in_shapes(self) -> tuple[tuple[Shape, ...], ...]:
        """The shape of every input slot of every layer."""
        return self._shapes[1]

    @property
    def output_shape(self) -> Shape:
        """The shape of the network's output."""
        source = self.output[0][0]
        return self.input_shape if source == INPUT else self.shapes[source]

    @cached_property
    def layer_params(self) -> tuple[int, ...]:
        """Trainable parameters of every layer."""
        return tuple(
            LAYER_TYPES[layer.kind].params(layer.channels, dict(layer.attrs), shapes[0])
            for layer, shapes in zip(self.layers, self.in_shapes, strict=True)
        )

    @cached_property
    def layer_macs(self) -> tuple[int, ...]:
        """Multiply-accumulates of every layer for one image."""
        return tuple(
            LAYER_TYPES[layer.kind].macs(layer.channels, dict(layer.attrs), shapes[0], out)
            for layer, shapes, out in zip(self.layers, self.in_shapes, self.shapes, strict=True)
        )

    @property
    def num_params(self) -> int:
        """Trainable parameters."""
        return sum(self.layer_params)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image in convolutions and linear layers."""
        return sum(self.layer_macs)

    def edges(self) -> list[tuple[int, int]]:
        """Return all pairs (i, j) where layer j reads layer i, sorted, without the network's input."""
        return sorted((i, j) for j, layer in enumerate(self.layers) for i in layer.sources if i != INPUT)

    @cached_property
    def consumers(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """For every layer, who reads it: (reader, slot of the reader, multiplicity); reader -1 is the output."""
        found: list[list[tuple[int, int, int]]] = [[] for _ in self.layers]
        for j, slots in [*((j, layer.inputs) for j, layer in enumerate(self.layers)), (-1, (self.output,))]:
            for position, part in enumerate(slots):
                for i, count in part:
                    if i != INPUT:
                        found[i].append((j, position, count))
        return tuple(map(tuple, found))

    def index(self, name: str) -> int:
        """Return the position of the layer of this name."""
        if (found := next((i for i, layer in enumerate(self.layers) if layer.name == name), None)) is None:
            raise ArchitectureError(f"no layer is called {name!r}")
        return found

    @property
    def graph(self) -> Graph:
        """The network as a labelled graph, from which its canonical order and hash follow."""
        labels = [(layer.kind, layer.channels, layer.attrs) for layer in self.layers]
        return Graph(labels, [layer.inputs for layer in self.layers], self.consumers)

    @cached_property
    def canonical_order(self) -> tuple[int, ...]:
        """The layers in a topological order that depends only on the network: equal ones have equal encodings."""
        return canonical_order(self.graph)

    @cached_property
    def arch_id(self) -> str:
        """32 hexadecimal digits: one hash for a network, whatever the names and order of its layers, in any process."""
        return canonical_id(self.graph, self.canonical_order, self.input_shape, self.output)

    def to_json(self) -> str:
        """Return JSON with origins and kept channels, as runs [start, stop); `with_code_of` gives opaque code back."""
        layers = [
            {key: getattr(layer, key) for key in ("name", "kind", "inputs", "channels")}
            | {"attrs": dict(layer.attrs), "origin": layer.origin}
            | {"kept_out": _to_runs(layer.kept_out), "kept_in": _to_runs(layer.kept_in)}
            | ({"reason": layer.reason} if layer.reason else {})
            for layer in self.layers
        ]
        head = {"version": FORMAT_VERSION, "input_shape": self.input_shape, "output": self.output}
        return json.dumps(head | {"layers": layers}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote. Raises ArchitectureError for anything else, and for another version."""
        try:
            data = json.loads(text)
            if (found := data["version"]) != FORMAT_VERSION:
                raise ArchitectureError(
                    f"the architecture has version {found}: this library reads version {FORMAT_VERSION}"
                )
            layers = tuple(
                Layer(
                    **{key: item[key] for key in ("name", "kind", "channels", "origin")},
                    kept_out=_from_runs(item["kept_out"]),
                    kept_in=_from_runs(item["kept_in"]),
                    inputs=tuple(map(_to_slot, item["inputs"])),
                    attrs={key: _to_tuples(value) for key, value in item["attrs"].items()},
                    reason=item.get("reason", ""),
                )
                for item in data["layers"]
            )
            return cls(layers, tuple(data["input_shape"]), _to_slot(data["output"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArchitectureError(f"not an architecture in JSON: {type(error).__name__}: {error}") from None

    def with_code_of(self, teacher: Architecture) -> Architecture:
        """Return this student, as read from JSON, with the code of its teacher's opaque layers, which must be there."""
        code = {layer.name: layer for layer in teacher.layers if layer.kind == "opaque"}
        layers = list(self.layers)
        for place, layer in enumerate(layers):
            if layer.kind == "opaque":
                origin = layer.origin or layer.name
                if origin not in code or code[origin].attrs != layer.attrs:
                    raise ArchitectureError(f"opaque layer {layer.name!r} is not the teacher's {origin!r}")
                layers[place] = replace(layer, code=code[origin].code, reason=code[origin].reason)
        return replace(self, layers=tuple(layers))

    def standing_alone(self) -> Architecture:
        """Return this student without origins and kept channels: with weights of its own it can be a teacher itself."""
        layers = tuple(replace(layer, origin=None, kept_out=None, kept_in=None) for layer in self.layers)
        return replace(self, layers=layers)

    def table(self) -> list[Mapping[str, Any]]:
        """Return one row per layer, for people to read."""
        rows = zip(self.layers, self.shapes, self.layer_params, self.layer_macs, strict=True)
        return [
            {"layer": layer.name, "kind": layer.kind}
            | {"reads": "; ".join(" + ".join(self._term(i, n) for i, n in part) for part in layer.inputs)}
            | {"output": "×".join(map(str, shape)), "params": params, "macs": macs}
            for layer, shape, params, macs in rows
        ]

    def _term(self, source: int, count: int) -> str:
        name = "input" if source == INPUT else self.layers[source].name
        return name if count == 1 else f"{count}·{name}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: one line, and the layers as a table."""
        rows = self.table()
        cells = ["".join(f"<td>{escape(f'{v:,}' if isinstance(v, int) else v)}</td>" for v in r.values()) for r in rows]
        heads = "".join(f"<th>{name}</th>" for name in rows[0])
        table = f"<table><tr>{heads}</tr><tr>{'</tr><tr>'.join(cells)}</tr></table>"
        return f'{escape(repr(self))}<div style="max-height: 30em; overflow: auto; width: fit-content">{table}</div>'

    def __repr__(self) -> str:
        return (
            f"Architecture({len(self.layers)} layers, {self.num_params:,} parameters, {self.macs:,} MACs, "
            f"{'×'.join(map(str, self.input_shape))} -> {'×'.join(map(str, self.output_shape))}, {self.arch_id[:8]})"
        )


def _to_tuples(data: Any) -> Any:
    return tuple(map(_to_tuples, data)) if isinstance(data, list) else data


def _to_slot(data: list[list[int]]) -> Slot:
    return tuple((int(source), int(count)) for source, count in data)


def _to_runs(indices: np.ndarray | None) -> list[list[int]] | None:
    if indices is None:
        return None
    pieces = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [[int(run[0]), int(run[-1]) + 1] for run in pieces if len(run)]


def _from_runs(runs: list[list[int]] | None) -> np.ndarray | None:
    if runs is None:
        return None
    return np.concatenate([np.arange(start, stop) for start, stop in runs] or [np.arange(0)])
