"""The three operators of ESNAC §3.2: remove layers, shrink filters, add skip connections.

Each takes an architecture and returns a new one; none touches weights. Layers are named by their index in the
architecture that is given. Names, origins and kept channels come along, so that a student can always inherit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from esnac_lib.architecture.channel_routing import expand, follows_channels, is_depthwise, route_channels, selected
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot, sum_slots
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.errors import ArchitectureError


def is_removable(architecture: Architecture, index: int) -> bool:
    """ESNAC §6.5: only a layer whose input shape equals its output shape can be removed."""
    layer = architecture.layers[index]
    passes = len(layer.inputs) == 1 and layer.kind != "zeros"  # whose input only tells it a size
    return passes and architecture.in_shapes[index][0] == architecture.shapes[index]


def remove(architecture: Architecture, indices: Collection[int]) -> Architecture:
    """Take layers out of the graph: whoever read one of them reads its input instead, as often as it did.

    So a removed layer with two summed inputs becomes one summed slot (also in a concat), and a residual block that
    loses all of its layers becomes x + x. Raises ArchitectureError for a layer whose shapes differ.
    """
    gone = set(indices)
    _check_exist(architecture, gone)
    for index in gone:
        if not is_removable(architecture, index):
            layer = architecture.layers[index]
            raise ArchitectureError(
                f"layer {layer.name!r} cannot be removed: it turns {architecture.in_shapes[index]} "
                f"into {architecture.shapes[index]}"
            )
    stands_for: dict[int, Slot] = {INPUT: slot(INPUT)}
    kept: list[Layer] = []
    for index, layer in enumerate(architecture.layers):
        inputs = tuple(sum_slots((stands_for[i], n) for i, n in part) for part in layer.inputs)
        if index in gone:
            stands_for[index] = inputs[0]
        else:
            stands_for[index] = slot(len(kept))
            kept.append(replace(layer, inputs=inputs))
    output = sum_slots((stands_for[i], n) for i, n in architecture.output)
    return Architecture(tuple(kept), architecture.input_shape, output)


def add_skips(architecture: Architecture, pairs: Iterable[tuple[int, int]]) -> Architecture:
    """For each pair (i, j), add the output of layer i (or the input, i = -1) to the input of layer j.

    An edge that the graph already has changes nothing. Raises ArchitectureError if j does not come after i, has
    several slots, or expects another shape.
    """
    layers = list(architecture.layers)
    for i, j in sorted(set(pairs)):
        if not INPUT <= i < j < len(layers) or len(layers[j].inputs) != 1:
            raise ArchitectureError(f"no skip connection can join layers {i} and {j}")
        if i in layers[j].sources:
            continue
        layers[j] = replace(layers[j], inputs=(sum_slots([(layers[j].inputs[0], 1), (slot(i), 1)]),))
    return Architecture(tuple(layers), architecture.input_shape, architecture.output)


def shrink(architecture: Architecture, keep: Mapping[int, np.ndarray]) -> Architecture:
    """Keep only some filters of some layers, and of every later layer what reads them.

    keep: for the index of a convolution or linear layer, the positions (in order) of the output channels that stay.
    Depthwise convolutions and batch norms follow their input and cannot be given. Raises ArchitectureError if a sum
    would add maps of which different channels were kept, or if a layer has no such filters.
    """
    _check_exist(architecture, keep)
    flows: list[np.ndarray | None] = []  # which of its former channels each layer still puts out; None: all
    layers: list[Layer] = []
    for index, layer in enumerate(architecture.layers):
        inputs = [_common(part, flows, layer.name) for part in layer.inputs]
        shapes = architecture.in_shapes[index]
        if layer.has_filters:
            outputs = _checked(layer, keep[index]) if index in keep else None
            read = None if layer.kind == "zeros" else inputs[0]  # which only tells zeros a size
            changed, flow = _shrink_filters(layer, shapes[0][0], read, outputs)
        elif index in keep:
            raise ArchitectureError(f"layer {layer.name!r} ({layer.kind}) has no filters of its own to shrink")
        else:
            changed, flow = _follow(layer, shapes, inputs)
        layers.append(changed)
        flows.append(None if flow is not None and len(flow) == architecture.shapes[index][0] else flow)
    if _common(architecture.output, flows, "the output") is not None:
        raise ArchitectureError("the network's output would lose channels")
    return Architecture(tuple(layers), architecture.input_shape, architecture.output)


def _check_exist(architecture: Architecture, indices: Iterable[int]) -> None:
    count = len(architecture.layers)
    if wrong := sorted(i for i in indices if not 0 <= i < count):
        raise ArchitectureError(f"there is no layer {wrong[0]}: layers are numbered from 0 to {count - 1}")


def _checked(layer: Layer, keep: np.ndarray) -> np.ndarray:
    positions = np.asarray(keep, dtype=np.int64)
    ordered = len(positions) > 0 and positions[0] >= 0 and positions[-1] < layer.channels
    if not ordered or not (np.diff(positions) > 0).all():
        raise ArchitectureError(
            f"layer {layer.name!r} cannot keep the filters {positions.tolist()}: needed are one or more of "
            f"0 to {layer.channels - 1} in ascending order"
        )
    return positions


def _common(part: Slot, flows: list[np.ndarray | None], reader: str) -> np.ndarray | None:
    first, *rest = (None if i == INPUT else flows[i] for i, _ in part)
    for other in rest:
        same = other is first or (other is not None and first is not None and np.array_equal(first, other))
        if not same:
            raise ArchitectureError(f"{reader!r} would sum maps of which different channels were kept")
    return first


def _compose(kept: np.ndarray | None, positions: np.ndarray) -> np.ndarray:
    return positions if kept is None else kept[positions]


def _shrink_filters(
    layer: Layer, in_channels: int, inputs: np.ndarray | None, outputs: np.ndarray | None
) -> tuple[Layer, np.ndarray | None]:
    """The shrunk convolution or linear layer, and which of its output channels are left."""
    attrs = dict(layer.attrs)
    if is_depthwise(layer, in_channels):
        if outputs is not None:
            raise ArchitectureError(f"{layer.name!r} is depthwise: its channels follow its input")
        if inputs is None:
            return layer, None
        multiplier = layer.channels // in_channels
        outputs = expand(inputs, multiplier)
        attrs["groups"] = len(inputs)
    elif inputs is None and outputs is None:
        return layer, None
    changed = replace(
        layer,
        channels=layer.channels if outputs is None else len(outputs),
        attrs=tuple(sorted(attrs.items())),
        kept_in=layer.kept_in if inputs is None else _compose(layer.kept_in, inputs),
        kept_out=layer.kept_out if outputs is None else _compose(layer.kept_out, outputs),
    )
    return changed, outputs


def _follow(
    layer: Layer, shapes: tuple[tuple[int, ...], ...], inputs: list[np.ndarray | None]
) -> tuple[Layer, np.ndarray | None]:
    """A layer without filters of its own after its inputs were shrunk, and which of its output channels are left."""
    if layer.kind in ("multiply", "add"):  # one channel alone serves all of the other side
        widest = max(shape[0] for shape in shapes)
        inputs = [kept for shape, kept in zip(shapes, inputs, strict=True) if shape[0] == widest]
        shapes = tuple(shape for shape in shapes if shape[0] == widest)
    if all(kept is None for kept in inputs):
        return layer, None
    if layer.kind == "opaque":
        raise ArchitectureError(f"layer {layer.name!r} is opaque: the channels that it reads cannot be shrunk")
    full = [np.arange(shape[0]) if kept is None else kept for shape, kept in zip(shapes, inputs, strict=True)]
    flow = route_channels(layer, shapes, full)
    if layer.kind == "select":
        place = {int(channel): position for position, channel in enumerate(full[0])}
        left = [place[int(channel)] for channel in selected(layer)[flow]]
        return replace(layer, attrs={"runs": [(position, position + 1) for position in left]}), flow
    if follows_channels(layer):
        kept = _compose(layer.kept_out, flow)
        layer = replace(layer, kept_out=kept, kept_in=kept)
    return layer, flow
