"""Random architectures for property tests, and the same architecture written down in another way."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

from hypothesis import strategies as st

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import ACTIVATIONS, LAYER_TYPES, Shape, Slot

SAME = {"kernel_size": 3, "padding": 1}
WIDTHS = (2, 4, 6, 12)


ARGUMENTS = {"elu": 0.7, "celu": 0.7, "leaky_relu": 0.2, "hardtanh": (-0.5, 0.75), "softplus": (2.0, 3.0)}
FUNCTIONS = sorted(set(ACTIVATIONS) - {"square"})  # squares of squares soon are too large

PLAIN = ["conv"] * 6 + ["depthwise", "batch_norm", "relu", "sigmoid", "pool", "concat"]
OTHERS = [
    "activation", "prelu", "layer_norm", "group_norm", "instance_norm", "scale", "affine", "multiply", "add", "gate",
    "select", "select", "upsample", "pad", "adaptive_max_pool", "stochastic_depth", "zeros",
]  # fmt: skip


class _Drawing:
    """An architecture in the making."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.layers: list[Layer] = []
        self.shapes: list[Shape] = []
        self.input_shape = (draw(st.sampled_from((1, 3, 4))), 6, 6)

    def shape_of(self, source: int) -> Shape:
        return self.input_shape if source == INPUT else self.shapes[source]

    def one(self, items: Any) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def read(self, like: Shape | None = None) -> Slot:
        """A sum of one to three sources of one shape, the last ones more often; of maps of the size of `like`."""
        known = [i for i in range(INPUT, len(self.layers)) if len(self.shape_of(i)) == 3]
        if like is not None:
            known = [i for i in known if self.shape_of(i)[1:] == like[1:]]
        first = self.one(known[-3:] + known)
        same = [i for i in known if self.shape_of(i) == self.shape_of(first)]
        return slot(first, *self.draw(st.lists(st.sampled_from(same), max_size=2)))

    def add(self, kind: str, inputs: tuple[Slot, ...], channels: int = 0, **attrs: Any) -> Slot:
        layer = Layer(f"{kind}{len(self.layers)}", kind, inputs, channels, attrs)
        self.layers.append(layer)
        into = [self.shape_of(part[0][0]) for part in inputs]
        self.shapes.append(LAYER_TYPES[kind].shape(channels, dict(layer.attrs), into))
        return slot(len(self.layers) - 1)

    def grow(self, kind: str) -> None:
        """Add a layer, or a few that belong together."""
        part = self.read()
        channels, height, width = shape = self.shape_of(part[0][0])
        if kind in ("conv", "depthwise", "grouped"):
            self._conv(kind, part, channels)
        elif kind == "concat":
            self.add(kind, (part, *(self.read(shape) for _ in range(self.draw(st.integers(0, 2))))))
        elif kind == "pool":
            if height > 1:
                self.add(self.one(("max_pool", "avg_pool")), (part,), kernel_size=2, stride=2, ceil_mode=True)
        elif kind in ("multiply", "add"):
            self._join(kind, part, shape)
        elif kind == "gate":
            self._gate(part, channels)
        elif kind == "select":
            self.add(kind, (part,), runs=self._picked(channels))
        elif kind == "zeros":
            zeros = self.add(kind, (part,), self.one(WIDTHS))
            self.add("concat", tuple(self.draw(st.permutations((part, zeros)))))
        elif kind != "instance_norm" or height * width > 1:
            self.add(kind, (part,), **self._attrs(kind, shape))

    def _conv(self, kind: str, part: Slot, channels: int) -> None:
        if kind == "depthwise":
            self.add("conv", (part,), channels * self.draw(st.integers(1, 2)), groups=channels, **SAME)
            return
        filters = self.one((*WIDTHS, channels))
        common = gcd(channels, filters)
        groups = self.one([g for g in range(1, common + 1) if common % g == 0]) if kind == "grouped" else 1
        self.add("conv", (part,), filters, groups=groups, **self.one(({"kernel_size": 1}, SAME, SAME | {"stride": 2})))

    def _join(self, kind: str, part: Slot, shape: Shape) -> None:
        """With anything that fits, through a sigmoid: products of products soon are too large."""
        fitting = [
            i
            for i in range(INPUT, len(self.layers))
            if len(self.shape_of(i)) == 3
            and all(m == n or 1 in (m, n) for m, n in zip(self.shape_of(i), shape, strict=True))
        ]
        other = self.add("sigmoid", (slot(self.one(fitting)),))
        self.add(kind, tuple(self.draw(st.permutations((part, other)))))

    def _gate(self, part: Slot, channels: int) -> None:
        """Squeeze and excitation, of convolutions or of linear layers; or one map for all channels."""
        form = self.one(("conv", "linear", "map"))
        if form == "map":
            gate = self.add("conv", (part,), 1, kernel_size=1)
        else:
            gate = self.add("adaptive_avg_pool", (part,), output_size=1)
            if form == "conv":
                gate = self.add("conv", (gate,), self.one(WIDTHS), kernel_size=1)
                gate = self.add("conv", (self.add("relu", (gate,)),), channels, kernel_size=1)
            else:
                gate = self.add("linear", (self.add("flatten", (gate,)),), channels)
                gate = self.add("unflatten", (gate,))
        gate = self.add("activation", (gate,), function="hardsigmoid")
        self.add("multiply", (part, gate))

    def _picked(self, channels: int) -> list[tuple[int, int]]:
        """A slice, any order of some channels, or some that come more than once."""
        form = self.one(("slice", "order", "repeat"))
        if form == "slice":
            start = self.draw(st.integers(0, channels - 1))
            return [(start, self.draw(st.integers(start + 1, channels)))]
        if form == "order":
            picked = self.draw(st.permutations(range(channels)))[: self.draw(st.integers(1, channels))]
        else:
            picked = self.draw(st.lists(st.integers(0, channels - 1), min_size=1, max_size=6))
        return [(channel, channel + 1) for channel in picked]

    def _attrs(self, kind: str, shape: Shape) -> dict[str, Any]:
        """Attributes of a layer of one input."""
        channels, height, width = shape
        if kind == "activation":
            arguments = ARGUMENTS.get(function := self.one(FUNCTIONS), ())
            return {"function": function, "arguments": arguments if isinstance(arguments, tuple) else (arguments,)}
        if kind in ("channel_shuffle", "group_norm"):
            return {"groups": self.one([g for g in (1, 2, 3, 4) if channels % g == 0])}
        if kind == "pad":
            mode = self.one(("constant", "reflect", "replicate", "circular"))
            least = -1 if min(height, width) > 2 else 0
            side = st.integers(least, 0 if mode == "reflect" and min(height, width) == 1 else 1)
            return {"mode": mode, "sizes": self.draw(st.tuples(side, side, side, side)), "value": self.one((0, 0.5))}
        return {
            "prelu": lambda: {"shared": self.draw(st.booleans())},
            "layer_norm": lambda: {"weight": self.draw(st.booleans()), "bias": self.draw(st.booleans()), "eps": 1e-3},
            "instance_norm": lambda: {"affine": self.draw(st.booleans()), "eps": 1e-3},
            "scale": lambda: {"bias": self.draw(st.booleans())},
            "affine": lambda: {"factor": self.one((1, 0.5)), "offset": self.one((0, -0.75))},
            "upsample": lambda: self.one(
                {"size": size, "mode": mode}
                for size in ((4, 5), (6, 6))
                for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
            ),
            "adaptive_max_pool": lambda: {"output_size": self.one((1, (3, 2)))},
            "stochastic_depth": lambda: {"p": 0.3, "mode": self.one(("row", "batch"))},
        }.get(kind, dict)()

    def finish(self) -> Architecture:
        """A head for everything that nobody reads."""
        read_by_some = {i for layer in self.layers for i in layer.sources}
        heads = []
        for i in [i for i in range(len(self.layers)) if i not in read_by_some]:
            part = slot(i)
            if self.draw(st.booleans()):
                part = self.add("adaptive_avg_pool", (part,), output_size=1)
            part = self.add("flatten", (part,))
            if kind := self.one((None, None, "batch_norm", "layer_norm", "prelu", "scale", "relu")):
                part = self.add(kind, (part,))
            heads += [source for source, _ in self.add("linear", (part,), 5)]
        return Architecture(tuple(self.layers), self.input_shape, slot(*heads))


@st.composite
def architectures(draw: st.DrawFn, most: int = 12, grouped: bool = True) -> Architecture:
    """A graph of all kinds of layers but opaque ones, grown in up to `most` steps, with sums with multiplicity.

    grouped: whether there are grouped convolutions and shuffles; depthwise convolutions there are always.
    """
    drawing = _Drawing(draw)
    kinds = PLAIN + OTHERS + (["grouped", "channel_shuffle"] * 2 if grouped else [])
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=most)):
        drawing.grow(kind)
    return drawing.finish()


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
