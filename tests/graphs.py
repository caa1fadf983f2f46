"""Random architectures for property tests, and the same architecture written down in another way."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

from hypothesis import strategies as st

from esnac_lib.architecture import INPUT, Architecture, Layer, Slot, slot
from esnac_lib.layer_types import LAYER_TYPES, Shape

SAME = {"kernel_size": 3, "padding": 1}
WIDTHS = (2, 4, 6, 12)


@st.composite
def architectures(draw: st.DrawFn, most: int = 12, grouped: bool = True) -> Architecture:
    """A graph with up to `most` layers of all kinds, sums with multiplicity and concats, then a head for each sink.

    grouped: whether there are grouped convolutions and shuffles; depthwise convolutions there are always.
    """
    layers: list[Layer] = []
    shapes: list[Shape] = []
    input_shape = (draw(st.sampled_from((1, 3, 4))), 6, 6)

    def shape_of(source: int) -> Shape:
        return input_shape if source == INPUT else shapes[source]

    def read(like: Shape | None = None) -> Slot:
        """A sum of one to three sources of one shape, the last ones more often."""
        known = [i for i in range(INPUT, len(layers)) if len(shape_of(i)) == 3]
        if like is not None:
            known = [i for i in known if shape_of(i)[1:] == like[1:]]
        first = draw(st.sampled_from(known[-3:] + known))
        same = [i for i in known if shape_of(i) == shape_of(first)]
        return slot(first, *draw(st.lists(st.sampled_from(same), max_size=2)))

    def add(kind: str, inputs: tuple[Slot, ...], channels: int = 0, **attrs: Any) -> None:
        layer = Layer(f"{kind}{len(layers)}", kind, inputs, channels, attrs)
        layers.append(layer)
        into = [shape_of(part[0][0]) for part in inputs]
        shapes.append(LAYER_TYPES[kind].shape(channels, dict(layer.attrs), into))

    kinds = ["conv", "conv", "conv", "depthwise", "batch_norm", "relu", "sigmoid", "pool", "concat"]
    kinds += ["grouped", "shuffle"] if grouped else []
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=most)):
        part = read()
        channels, height, _ = shape_of(part[0][0])
        if kind == "concat":
            add(kind, (part, *(read(shape_of(part[0][0])) for _ in range(draw(st.integers(0, 2))))))
        elif kind == "pool":
            if height > 1:
                add(draw(st.sampled_from(("max_pool", "avg_pool"))), (part,), kernel_size=2, stride=2, ceil_mode=True)
        elif kind == "shuffle":
            groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if channels % g == 0]))
            add("channel_shuffle", (part,), groups=groups)
        elif kind == "depthwise":
            add("conv", (part,), channels * draw(st.integers(1, 2)), groups=channels, **SAME)
        elif kind in ("conv", "grouped"):
            filters = draw(st.sampled_from((*WIDTHS, channels)))
            groups = 1
            if kind == "grouped":
                common = gcd(channels, filters)
                groups = draw(st.sampled_from([g for g in range(1, common + 1) if common % g == 0]))
            geometry = draw(st.sampled_from(({"kernel_size": 1}, SAME, SAME | {"stride": 2})))
            add("conv", (part,), filters, groups=groups, **geometry)
        else:
            add(kind, (part,))
    read_by_some = {i for layer in layers for i in layer.sources}
    heads = []
    for i in [i for i in range(len(layers)) if i not in read_by_some]:
        if draw(st.booleans()):
            add("adaptive_avg_pool", (slot(i),), output_size=1)
            i = len(layers) - 1
        add("flatten", (slot(i),))
        add("linear", (slot(len(layers) - 1),), 5)
        heads.append(len(layers) - 1)
    return Architecture(tuple(layers), input_shape, slot(*heads))


def rewritten(architecture: Architecture, rng: Any) -> Architecture:
    """The same network: other names, and its layers in another order in which each can be executed."""
    left = set(range(len(architecture.layers)))
    place = {INPUT: INPUT}
    layers = []
    while left:
        ready = sorted(i for i in left if architecture.layers[i].sources <= set(place))
        i = ready[int(rng.integers(len(ready)))]
        left.remove(i)
        place[i] = len(layers)
        layer = architecture.layers[i]
        layers.append(replace(layer, name=f"{len(layers)}", inputs=tuple(_moved(s, place) for s in layer.inputs)))
    return Architecture(tuple(layers), architecture.input_shape, _moved(architecture.output, place))


def _moved(part: Slot, place: dict[int, int]) -> Slot:
    return tuple(sorted((place[i], n) for i, n in part))


@st.composite
def symmetric_architectures(draw: st.DrawFn) -> Architecture:
    """Two or three rows of equal layers, each the sum of two of the row below: many can be exchanged, some cannot."""
    layers: list[Layer] = []
    below = [INPUT]
    for row, kind in enumerate(("relu", "sigmoid", "relu")[: draw(st.integers(2, 3))]):
        first = len(layers)
        for _ in range(draw(st.integers(2, 5))):
            part = slot(draw(st.sampled_from(below)), draw(st.sampled_from(below))) if row else slot(INPUT)
            layers.append(Layer(f"{kind}{len(layers)}", kind, (part,)))
        below = list(range(first, len(layers)))
    read_by_some = {i for layer in layers for i in layer.sources}
    return Architecture(tuple(layers), (1, 2, 2), slot(*(i for i in range(len(layers)) if i not in read_by_some)))
