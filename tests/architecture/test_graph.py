"""Architectures: what is refused, shapes and costs by hand and against PyTorch, identity, order, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graphs import architectures, rewritten, symmetric_architectures
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot, sum_slots
from esnac_lib.architecture.layer_types import LAYER_TYPES, Slot
from esnac_lib.errors import ArchitectureError

SAME = {"kernel_size": 3, "padding": 1}


def conv(name: str, source: int | Slot, channels: int, **attrs: Any) -> Layer:
    part = slot(source) if isinstance(source, int) else source
    return Layer(name, "conv", (part,), channels, {"kernel_size": 1, "bias": False} | attrs)


def relu(name: str, *sources: int) -> Layer:
    return Layer(name, "relu", (slot(*sources),))


def small() -> Architecture:
    """conv -> batch norm -> relu -> pool -> flatten -> linear."""
    layers = (
        Layer("conv", "conv", (slot(INPUT),), 8, SAME),
        Layer("bn", "batch_norm", (slot(0),)),
        Layer("relu", "relu", (slot(1),)),
        Layer("pool", "max_pool", (slot(2),), attrs={"kernel_size": 2, "stride": 2}),
        Layer("flatten", "flatten", (slot(3),)),
        Layer("linear", "linear", (slot(4),), 10),
    )
    return Architecture(layers, (3, 6, 4), slot(5))


# -- slots -----------------------------------------------------------------------------------------------------------


def test_slots_are_sums_with_multiplicity() -> None:
    assert slot(5, 3, 5) == ((3, 1), (5, 2))
    assert sum_slots([(slot(3, 5), 2), (slot(INPUT, 5), 1)]) == ((INPUT, 1), (3, 2), (5, 3))
    assert slot(np.int64(2)) == ((2, 1),) and type(slot(np.int64(2))[0][0]) is int


# -- shapes and costs, by hand -----------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    net = small()
    assert net.shapes == ((8, 6, 4), (8, 6, 4), (8, 6, 4), (8, 3, 2), (48,), (10,))
    assert net.in_shapes == (((3, 6, 4),), ((8, 6, 4),), ((8, 6, 4),), ((8, 6, 4),), ((8, 3, 2),), ((48,),))
    assert net.output_shape == (10,)
    assert net.layer_params == (8 * 3 * 9 + 8, 16, 0, 0, 0, 48 * 10 + 10)
    assert net.layer_macs == (8 * 24 * 3 * 9, 0, 0, 0, 0, 480)
    assert (net.num_params, net.macs) == (224 + 16 + 490, 5184 + 480)


@pytest.mark.parametrize(
    ("kind", "channels", "attrs", "inputs", "out", "params", "macs"),
    [
        ("conv", 6, {"kernel_size": (3, 1), "groups": 2, "bias": False}, [(4, 5, 5)], (6, 3, 5), 6 * 2 * 3, 90 * 2 * 3),
        ("conv", 8, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 4}, [(4, 5, 5)], (8, 3, 3), 80, 72 * 9),
        ("conv", 1, {"kernel_size": 3, "dilation": (2, 1)}, [(1, 5, 5)], (1, 1, 3), 10, 27),
        ("linear", 3, {}, [(7,)], (3,), 24, 21),
        ("linear", 3, {"bias": False}, [(7,)], (3,), 21, 21),
        ("batch_norm", 0, {}, [(4, 5, 5)], (4, 5, 5), 8, 0),
        ("batch_norm", 0, {"affine": False}, [(4, 5, 5)], (4, 5, 5), 0, 0),
        ("relu", 0, {}, [(7,)], (7,), 0, 0),
        ("sigmoid", 0, {}, [(4, 5, 5)], (4, 5, 5), 0, 0),
        ("dropout", 0, {"p": 0.1}, [(7,)], (7,), 0, 0),
        ("max_pool", 0, {"kernel_size": 2, "stride": 2, "ceil_mode": True}, [(4, 5, 5)], (4, 3, 3), 0, 0),
        ("avg_pool", 0, {"kernel_size": 3, "stride": 2, "padding": 1}, [(4, 5, 4)], (4, 3, 2), 0, 0),
        ("adaptive_avg_pool", 0, {"output_size": (2, 1)}, [(4, 5, 5)], (4, 2, 1), 0, 0),
        ("flatten", 0, {}, [(4, 5, 5)], (100,), 0, 0),
        ("concat", 0, {}, [(4, 5, 5), (1, 5, 5), (4, 5, 5)], (9, 5, 5), 0, 0),
        ("concat", 0, {}, [(4,), (3,)], (7,), 0, 0),
        ("channel_shuffle", 0, {"groups": 2}, [(4, 5, 5)], (4, 5, 5), 0, 0),
    ],
)
def test_each_kind_by_hand(
    kind: str, channels: int, attrs: dict[str, Any], inputs: list[Any], out: Any, params: int, macs: int
) -> None:
    layer = Layer("x", kind, tuple(slot(i) for i in range(len(inputs))), channels, attrs)
    rules = LAYER_TYPES[kind]
    assert rules.shape(channels, dict(layer.attrs), inputs) == out
    assert rules.params(channels, dict(layer.attrs), inputs[0]) == params
    assert rules.macs(channels, dict(layer.attrs), inputs[0], out) == macs


def test_a_network_may_put_out_its_input_or_a_sum() -> None:
    assert Architecture((), (3, 4, 5), slot(INPUT, INPUT)).output_shape == (3, 4, 5)
    net = Architecture((relu("a", INPUT), relu("b", 0)), (3, 4, 5), slot(INPUT, 0, 1, 1))
    assert net.output_shape == (3, 4, 5) and net.num_params == net.macs == 0


# -- shapes against PyTorch --------------------------------------------------------------------------------------------

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def predicted(kind: str, channels: int, shape: tuple[int, ...], attrs: dict[str, Any]) -> tuple[int, ...] | str:
    try:
        return Architecture((Layer("x", kind, (slot(INPUT),), channels, attrs),), shape, slot(0)).output_shape
    except ArchitectureError:
        return "refused"


def seen(run: Any) -> tuple[int, ...] | str:
    try:
        return tuple(run().shape[1:])
    except RuntimeError:
        return "refused"


@given(pairs, pairs, paddings, pairs, sizes, st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.booleans())
@settings(max_examples=300)
def test_convolutions_as_in_pytorch(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, size: Any, into: int, out: int, groups: int, bias: bool
) -> None:
    attrs = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    expected: tuple[int, ...] | str
    try:
        module = torch.nn.Conv2d(into, out, **attrs, groups=groups, bias=bias)
        expected = seen(lambda: module(torch.zeros(1, into, *size)))
    except ValueError:
        expected = "refused"
    assert predicted("conv", out, (into, *size), attrs | {"groups": groups, "bias": bias}) == expected
    if expected != "refused":
        layer = Layer("x", "conv", (slot(INPUT),), out, attrs | {"groups": groups, "bias": bias})
        net = Architecture((layer,), (into, *size), slot(0))
        assert net.num_params == sum(p.numel() for p in module.parameters())
        positions = expected[1] * expected[2]  # of a filter; at each it reads its own weights once
        assert net.macs == positions * module.weight.numel()


@given(pairs, pairs, paddings, pairs, sizes, st.booleans())
@settings(max_examples=400)
def test_max_pools_as_in_pytorch(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, size: Any, ceil_mode: bool
) -> None:
    attrs = {
        "kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode,
    }  # fmt: skip
    expected = seen(lambda: F.max_pool2d(torch.zeros(1, 2, *size), **attrs))
    assert predicted("max_pool", 0, (2, *size), attrs) == expected


@given(pairs, pairs, paddings, sizes, st.booleans())
@settings(max_examples=400)
def test_average_pools_as_in_pytorch(kernel_size: Any, stride: Any, padding: Any, size: Any, ceil_mode: bool) -> None:
    attrs = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    expected = seen(lambda: F.avg_pool2d(torch.zeros(1, 2, *size), **attrs))
    assert predicted("avg_pool", 0, (2, *size), attrs) == expected


# -- attributes --------------------------------------------------------------------------------------------------------


def test_attributes_have_one_form() -> None:
    forms: list[Any] = [
        {"kernel_size": 3, "padding": 1},
        {"padding": [1, 1], "kernel_size": (3, 3), "stride": 1, "dilation": (1, 1), "groups": 1, "bias": True},
        {"kernel_size": np.int64(3), "padding": (np.int32(1), 1), "groups": np.int64(1), "bias": 1},
        (("padding", 1), ("kernel_size", 3)),
    ]
    layers = [Layer("x", "conv", (slot(INPUT),), np.int64(4), attrs) for attrs in forms]
    ids = {Architecture((layer,), (np.int64(3), 5, 5), slot(0)).arch_id for layer in layers}
    assert len(set(layers)) == len(ids) == 1
    assert layers[0].attrs == (
        ("bias", True), ("dilation", (1, 1)), ("groups", 1),
        ("kernel_size", (3, 3)), ("padding", (1, 1)), ("stride", (1, 1)),
    )  # fmt: skip
    assert layers[0]["stride"] == (1, 1) and replace(layers[0], name="y").attrs == layers[0].attrs
    values = [value for layer in layers for _, value in layer.attrs] + [layer.channels for layer in layers]
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    assert set(map(type, flat)) == {int, bool}
    dropout = Layer("x", "dropout", (slot(INPUT),), attrs={"p": 1})
    assert type(dropout["p"]) is float
    with pytest.raises(KeyError, match="'x' has no attribute 'stride'"):
        dropout["stride"]


@pytest.mark.parametrize(
    ("kind", "attrs", "text"),
    [
        ("convolution", {}, "kind 'convolution': known kinds are conv, linear"),
        ("conv", {}, "conv needs the attribute 'kernel_size'"),
        ("conv", {"kernel_size": 3, "pad": 1}, "conv has no attribute 'pad': it has kernel_size, stride"),
        ("relu", {"inplace": True}, "relu has no attribute 'inplace': it has none"),
        ("conv", {"kernel_size": 0}, "kernel_size = 0: it must be one or two integers of at least 1"),
        ("conv", {"kernel_size": (3,)}, r"kernel_size = \(3,\)"),
        ("conv", {"kernel_size": (3, 3, 3)}, r"kernel_size = \(3, 3, 3\)"),
        ("conv", {"kernel_size": 3.0}, r"kernel_size = 3\.0"),
        ("conv", {"kernel_size": 3, "stride": (1, 0)}, r"stride = \(1, 0\)"),
        ("conv", {"kernel_size": 3, "stride": True}, "stride = True"),
        ("conv", {"kernel_size": 3, "padding": -1}, "padding = -1: it must be one or two integers of at least 0"),
        ("conv", {"kernel_size": 3, "padding": "same"}, "padding = 'same'"),
        ("conv", {"kernel_size": 3, "dilation": 0}, "dilation = 0"),
        ("conv", {"kernel_size": 3, "groups": 0}, "groups = 0: it must be an integer of at least 1"),
        ("conv", {"kernel_size": 3, "groups": (2, 2)}, r"groups = \(2, 2\)"),
        ("conv", {"kernel_size": 3, "bias": None}, "bias = None: it must be True or False"),
        ("channel_shuffle", {"groups": 0}, "groups = 0"),
        ("batch_norm", {"momentum": None}, "momentum = None: it must be a number of at least 0"),
        ("batch_norm", {"eps": float("nan")}, "eps = nan"),
        ("batch_norm", {"eps": float("inf")}, "eps = inf"),
        ("dropout", {"p": 1.5}, "p = 1.5: it must be a number of at least 0 and at most 1"),
        ("conv", 5, "conv with attributes 5: give a mapping"),
        ("conv", (("kernel_size", [3, 3, 3]),), r"kernel_size = \[3, 3, 3\]"),
        ("conv", "kernel", "conv with attributes 'kernel': give a mapping"),
    ],
)
def test_wrong_attributes_are_refused_in_one_line(kind: str, attrs: Any, text: str) -> None:
    with pytest.raises(ArchitectureError, match=text) as caught:
        Layer("x", kind, (slot(INPUT),), 4, attrs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "channels"), [("", 4), (None, 4), (7, 4), ("x", 4.0), ("x", "4"), ("x", None)])
def test_wrong_names_and_channels_are_refused(name: Any, channels: Any) -> None:
    with pytest.raises(ArchitectureError) as caught:
        Layer(name, "linear", (slot(INPUT),), channels)
    assert "\n" not in str(caught.value)


# -- validation --------------------------------------------------------------------------------------------------------

POOL = {"kernel_size": 2, "stride": 2}
WRONG: dict[str, tuple[tuple[Layer, ...], Slot, str]] = {
    "two of a name": ((relu("a", INPUT), relu("a", 0)), slot(1), "two layers are called 'a'"),
    "a later source": ((relu("a", 1), relu("b", INPUT)), slot(0), "'a' reads 1 times source 1"),
    "itself": ((relu("a", 0),), slot(0), "'a' reads 1 times source 0"),
    "no such source": ((relu("a", -2),), slot(0), "source -2"),
    "never": ((replace(relu("a", INPUT), inputs=(((INPUT, 0),),)),), slot(0), "'a' reads 0 times"),
    "an empty sum": ((replace(relu("a", INPUT), inputs=((),)),), slot(0), "'a' reads an empty sum"),
    "unsorted": ((relu("a", INPUT), replace(relu("b", 0), inputs=(((0, 1), (INPUT, 1)),))), slot(1), "not sorted"),
    "no slot": ((replace(relu("a", INPUT), inputs=()),), slot(0), "relu 'a' has 0 inputs"),
    "two slots": ((replace(relu("a", INPUT), inputs=(slot(INPUT),) * 2),), slot(0), "relu 'a' has 2 inputs"),
    "concat of nothing": ((Layer("a", "concat", ()),), slot(0), "concat 'a' has 0 inputs"),
    "nobody reads it": ((relu("a", INPUT), relu("b", INPUT)), slot(1), "layer 'a' does not contribute to the output"),
    "output from nowhere": ((relu("a", INPUT),), slot(1), "'the output' reads"),
    "no output": ((relu("a", INPUT),), (), "'the output' reads an empty sum"),
    "no filters": ((conv("a", INPUT, 0),), slot(0), "conv 'a' with 0 channels of its own"),
    "negative filters": ((conv("a", INPUT, -4),), slot(0), "conv 'a' with -4 channels"),
    "filters of a relu": ((replace(relu("a", INPUT), channels=4),), slot(0), "relu 'a' with 4 channels of its own"),
    "sum of shapes": ((conv("a", INPUT, 8), relu("b", INPUT, 0)), slot(1), "'b' sums shapes that differ"),
    "sum of shapes at the end": ((conv("a", INPUT, 8),), slot(INPUT, 0), "'the output' sums shapes that differ"),
    "too small a map": ((conv("a", INPUT, 8, kernel_size=7),), slot(0), "layer 'a': a window of 7 on a map of 5"),
    "groups of inputs": ((conv("a", INPUT, 6, groups=3),), slot(0), "layer 'a': 4 input and 6 output channels"),
    "groups of outputs": ((conv("a", INPUT, 7, groups=2),), slot(0), "4 input and 7 output channels do not divide"),
    "shuffle": ((Layer("a", "channel_shuffle", (slot(INPUT),), attrs={"groups": 3}),), slot(0), "4 channels in 3"),
    "linear on a map": ((Layer("a", "linear", (slot(INPUT),), 5),), slot(0), "flatten it first"),
    "conv on features": (
        (Layer("a", "flatten", (slot(INPUT),)), conv("b", 0, 4)), slot(1), r"layer 'b': an input of shape \(100,\)",
    ),
    "instance norm on features": (
        (Layer("a", "flatten", (slot(INPUT),)), Layer("b", "instance_norm", (slot(0),))), slot(1), "height, width",
    ),
    "concat of sizes": (
        (Layer("a", "max_pool", (slot(INPUT),), attrs=POOL), Layer("b", "concat", (slot(0), slot(INPUT)))),
        slot(1), "layer 'b': a concat of maps of different sizes",
    ),
    "more padding than window": (
        (Layer("a", "avg_pool", (slot(INPUT),), attrs=POOL | {"padding": 2}),), slot(0), "at most half of its window",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_graphs_are_refused_in_one_line(case: str) -> None:
    layers, output, text = WRONG[case]
    with pytest.raises(ArchitectureError, match=text) as caught:
        Architecture(layers, (4, 5, 5), output)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 5, 0), (-4, 5, 5), (4.0, 5, 5), (1, 4, 5, 5), ("4", 5, 5)])
def test_wrong_input_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(ArchitectureError, match=r"it must be \(channels, height, width\)") as caught:
        Architecture((relu("a", INPUT),), shape, slot(0))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused() -> None:
    assert small().index("pool") == 3
    with pytest.raises(ArchitectureError, match="no layer is called 'poll'"):
        small().index("poll")


def test_immutable() -> None:
    net = small()
    for thing, name in ((net, "layers"), (net, "output"), (net.layers[0], "channels"), (net.layers[0], "inputs")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, ())
    with pytest.raises(TypeError):
        net.layers[0] = net.layers[1]  # type: ignore[index]
    with pytest.raises(TypeError):
        net.layers[0].attrs[0] = ("bias", False)  # type: ignore[index]
    layers = list(net.layers)
    copied = Architecture(layers, [3, 6, 4], net.output)  # type: ignore[arg-type]
    before = copied.arch_id
    layers.clear()
    assert copied == net and copied.arch_id == before == Architecture.from_json(copied.to_json()).arch_id
    assert hash(copied) == hash(net)


def test_edges_and_consumers() -> None:
    layers = (relu("a", INPUT), relu("b", INPUT, 0, 0), Layer("c", "concat", (slot(0, 1), slot(0))))
    net = Architecture(layers, (1, 2, 2), slot(2))
    assert net.edges() == [(0, 1), (0, 2), (1, 2)]
    assert net.consumers == (((1, 0, 2), (2, 0, 1), (2, 1, 1)), ((2, 0, 1),), ((-1, 0, 1),))


def test_table_and_repr_are_for_people() -> None:
    layers = (relu("a", INPUT), relu("b", INPUT, 0, 0), Layer("c", "concat", (slot(0, 1), slot(0))))
    net = Architecture(layers, (1, 2, 2), slot(2))
    assert [row["reads"] for row in net.table()] == ["input", "input + 2·a", "a + b; a"]
    assert small().table()[0] == {
        "layer": "conv", "kind": "conv", "reads": "input", "output": "8×6×4", "params": 224, "macs": 5184,
    }  # fmt: skip
    expected = f"Architecture(6 layers, 730 parameters, 5,664 MACs, 3×6×4 -> 10, {small().arch_id[:8]})"
    assert repr(small()) == expected


# -- identity ----------------------------------------------------------------------------------------------------------


def one_conv_two_readers(shared: bool) -> Architecture:
    """relu(c(x)) + sigmoid(c(x)): with one convolution c, or with two equal ones."""
    first = (conv("c", INPUT, 4),)
    second = () if shared else (conv("d", INPUT, 4),)
    n = len(first + second)
    layers = (*first, *second, relu("r", 0), Layer("s", "sigmoid", (slot(n - 1),)))
    return Architecture(layers, (4, 5, 5), slot(n, n + 1))


def test_one_convolution_for_two_readers_differs_from_two_equal_ones() -> None:
    assert one_conv_two_readers(True).arch_id != one_conv_two_readers(False).arch_id
    assert one_conv_two_readers(False).arch_id == one_conv_two_readers(False).arch_id


def test_where_a_convolution_is_shared_counts() -> None:
    """Two places, in one the convolution is shared, in the other doubled: the same layers, wired in another way."""

    def net(first: bool) -> Architecture:
        shared, double = (0, (1, 2)) if first else (2, (0, 1))
        c = [conv(name, INPUT, 4) for name in "abc"]
        top, bottom = ((shared, shared), double) if first else (double, (shared, shared))
        layers = (
            *c, relu("r1", top[0]), Layer("s1", "sigmoid", (slot(top[1]),)), relu("r2", bottom[0]),
            Layer("s2", "sigmoid", (slot(bottom[1]),)),
            conv("k", slot(3, 4), 4, kernel_size=3, padding=1), conv("l", slot(5, 6), 4, kernel_size=1),
        )  # fmt: skip
        return Architecture(layers, (4, 5, 5), slot(7, 8))

    assert net(True).arch_id != net(False).arch_id


def rings(*lengths: int) -> Architecture:
    """Rings of equal layers b, each the sum of two neighbours a: every layer looks the same from where it stands."""
    below: list[Layer] = []
    above: list[Layer] = []
    total = sum(lengths)
    for length in lengths:
        start = len(below)
        below += [relu(f"a{start + i}", INPUT) for i in range(length)]
        above += [
            Layer(f"b{start + i}", "sigmoid", (slot(start + i, start + (i + 1) % length),)) for i in range(length)
        ]
    return Architecture((*below, *above), (1, 2, 2), slot(*range(total, 2 * total)))


def test_networks_that_differ_only_as_a_whole() -> None:
    assert rings(6).arch_id != rings(3, 3).arch_id
    assert rings(5).arch_id != rings(2, 3).arch_id == rings(3, 2).arch_id
    for lengths in ((6,), (3, 3), (2, 4)):
        for seed in range(5):
            other = rewritten(rings(*lengths), np.random.default_rng(seed))
            assert other.arch_id == rings(*lengths).arch_id
            assert np.array_equal(encode(other), encode(rings(*lengths)))


def variants() -> dict[str, Architecture]:
    """A network and what one change makes of it."""

    def net(
        join: tuple[tuple[int, ...], ...] = ((0,), (1,)),
        block: tuple[int, ...] = (INPUT, 2),
        end: tuple[int, ...] = (3, 4),
        shape: tuple[int, int, int] = (8, 5, 5),
        **first: Any,
    ) -> Architecture:
        layers = (
            conv("a", INPUT, 4, **first), conv("b", INPUT, 4, kernel_size=3, padding=1),
            Layer("c", "concat", tuple(slot(*part) for part in join)), relu("d", *block),
            Layer("e", "sigmoid", (slot(2),)),
        )  # fmt: skip
        return Architecture(layers, shape, slot(*end))

    return {
        "itself": net(),
        "a bias": net(bias=True),
        "groups": net(groups=2),
        "dilation": net(dilation=2),
        "order of a concat": net(join=((1,), (0,))),
        "multiplicity": net(block=(INPUT, 2, 2)),
        "multiplicity of the input": net(block=(INPUT, INPUT, 2)),
        "multiplicity at the output": net(end=(3, 3, 4)),
        "an edge less": net(block=(2,)),
        "an edge more": net(end=(2, 3, 4)),
        "another slot of the concat": net(join=((0, 1), (1,))),
        "image size": net(shape=(8, 6, 5)),
    }


def test_every_change_changes_the_id() -> None:
    ids = {name: net.arch_id for name, net in variants().items()}
    assert len(set(ids.values())) == len(ids)
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in ids.values())


def test_channels_and_kind_change_the_id() -> None:
    nets = [Architecture((conv("a", INPUT, n),), (8, 5, 5), slot(0)) for n in (4, 5)]
    nets += [
        Architecture((layer,), (8, 5, 5), slot(0))
        for layer in (relu("a", INPUT), Layer("a", "sigmoid", (slot(INPUT),)))
    ]
    assert len({net.arch_id for net in nets}) == 4


def test_names_origins_and_kept_channels_do_not_count() -> None:
    net = small()
    changed = tuple(
        replace(layer, name=f"other.{i}", origin="x", kept_out=np.arange(3), kept_in=np.arange(2))
        for i, layer in enumerate(net.layers)
    )
    other = Architecture(changed, net.input_shape, net.output)
    assert other.arch_id == net.arch_id
    assert replace(net.layers[0], origin="x", kept_in=np.arange(2)) == net.layers[0]


@given(st.one_of(architectures(), symmetric_architectures()), st.integers(0, 3))
@settings(max_examples=300)
def test_another_order_of_layers_is_the_same_network(net: Architecture, seed: int) -> None:
    other = rewritten(net, np.random.default_rng(seed))
    assert other.arch_id == net.arch_id
    assert np.array_equal(encode(other), encode(net))
    assert (other.num_params, other.macs) == (net.num_params, net.macs)


def as_graph(net: Architecture) -> nx.DiGraph:
    """The network for networkx; an edge is labelled with the slots that it enters and how often."""
    graph = nx.DiGraph()
    graph.add_node(INPUT, nature="input")
    graph.add_node("output", nature="output")
    for i, layer in enumerate(net.layers):
        graph.add_node(i, nature=(layer.kind, layer.channels, layer.attrs))
        for source in layer.sources:
            label = [(k, n) for k, part in enumerate(layer.inputs) for s, n in part if s == source]
            graph.add_edge(source, i, label=label)
    for source, n in net.output:
        graph.add_edge(source, "output", label=[(0, n)])
    return graph


@given(symmetric_architectures(), st.data())
@settings(max_examples=400)
def test_ids_are_equal_exactly_for_isomorphic_networks(net: Architecture, data: st.DataObject) -> None:
    """Slow twin: networkx looks for an isomorphism to the same network with two layers' inputs exchanged."""
    i, j = (data.draw(st.integers(0, len(net.layers) - 1)) for _ in range(2))
    layers = list(net.layers)
    if max(layers[i].sources | layers[j].sources) < min(i, j):
        layers[i], layers[j] = (replace(layers[a], inputs=layers[b].inputs) for a, b in ((i, j), (j, i)))
    other = Architecture(tuple(layers), net.input_shape, net.output)
    same = nx.is_isomorphic(
        as_graph(net), as_graph(other), lambda a, b: a["nature"] == b["nature"], lambda a, b: a["label"] == b["label"]
    )
    assert (net.arch_id == other.arch_id) == same


PROGRAM = """
import sys
from esnac_lib.architecture import Architecture
for line in sys.stdin:
    net = Architecture.from_json(line)
    print(net.arch_id, *net.canonical_order)
"""


def test_another_process_gives_the_same_ids_and_orders() -> None:
    nets = [*variants().values(), one_conv_two_readers(True), rings(3, 3), small()]
    text = "".join(net.to_json() + "\n" for net in nets)
    expected = [" ".join([net.arch_id, *map(str, net.canonical_order)]) for net in nets]
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM], input=text, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert found.stdout.splitlines() == expected


def test_ids_stay_as_they_are() -> None:
    """Ledgers hold ids: after a change here, no study written before would know its architectures again."""
    assert small().arch_id == "02afb17fee79f47b6ea0fa4472c33ecd"
    assert variants()["itself"].arch_id == "22cb2fafdf1dd11ef0f4321fa11e8079"


# -- canonical order ---------------------------------------------------------------------------------------------------


@given(st.one_of(architectures(), symmetric_architectures()))
@settings(max_examples=200)
def test_the_canonical_order_is_topological(net: Architecture) -> None:
    order = net.canonical_order
    assert sorted(order) == list(range(len(net.layers)))
    place = {i: position for position, i in enumerate(order)}
    assert all(place[i] < place[j] for i, j in net.edges())


def test_the_canonical_order_of_a_residual_block_is_the_order_of_execution() -> None:
    """Depth first, and the main path before its shortcut, wherever the layers are listed."""
    layers = (
        conv("stem", INPUT, 4), conv("shortcut", 0, 4), conv("main1", 0, 4), relu("main2", 2), relu("end", 1, 3),
        conv("next", 4, 4),
    )  # fmt: skip
    net = Architecture(layers, (3, 5, 5), slot(5))
    names = [net.layers[i].name for i in net.canonical_order]
    assert names == ["stem", "main1", "main2", "shortcut", "end", "next"]


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_round_trip_with_origins_and_kept_channels() -> None:
    kept = [np.array([0, 1, 2, 5, 7, 8]), np.array([3]), np.arange(0), np.arange(100), np.array([4, 2]), None]
    layers = tuple(
        replace(layer, origin=None if i == 0 else f"o{i}", kept_out=out, kept_in=kept[-1 - i])
        for i, (layer, out) in enumerate(zip(small().layers, kept, strict=True))
    )
    net = Architecture(layers, small().input_shape, slot(5, 5))
    back = Architecture.from_json(net.to_json())
    assert back == net and back.arch_id == net.arch_id and back.to_json() == net.to_json()
    for old, new in zip(net.layers, back.layers, strict=True):
        assert new.origin == old.origin and type(new.channels) is int
        for a, b in ((old.kept_out, new.kept_out), (old.kept_in, new.kept_in)):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)
    assert json.loads(net.to_json())["layers"][0]["kept_out"] == [[0, 3], [5, 6], [7, 9]]


@given(architectures())
@settings(max_examples=50)
def test_json_round_trip(net: Architecture) -> None:
    back = Architecture.from_json(net.to_json())
    assert back == net and back.arch_id == net.arch_id and "\n" not in net.to_json()


def damaged(change: Any) -> str:
    data = json.loads(small().to_json())
    change(data)
    return json.dumps(data)


DAMAGE: dict[str, tuple[str, str]] = {
    "empty": ("", "not an architecture in JSON"),
    "cut": (small().to_json()[:-20], "not an architecture in JSON"),
    "a list": ("[]", "not an architecture in JSON"),
    "a number": ("7", "not an architecture in JSON"),
    "another object": ("{}", "KeyError: 'version'"),
    "version": (damaged(lambda d: d.update(version=2)), "version 2: this library reads version 1"),
    "no layers": (damaged(lambda d: d.pop("layers")), "KeyError: 'layers'"),
    "layers are null": (damaged(lambda d: d.update(layers=None)), "not an architecture in JSON"),
    "attrs are null": (damaged(lambda d: d["layers"][0].update(attrs=None)), "not an architecture in JSON"),
    "kind": (damaged(lambda d: d["layers"][0].update(kind="gru")), "kind 'gru'"),
    "kind is a list": (damaged(lambda d: d["layers"][0].update(kind=[])), r"kind \[\]"),
    "channels are text": (damaged(lambda d: d["layers"][0].update(channels="8")), "'8' channels"),
    "name is null": (damaged(lambda d: d["layers"][0].update(name=None)), "is called None"),
    "inputs": (damaged(lambda d: d["layers"][0].update(inputs=[[7]])), "not an architecture in JSON"),
    "kept": (damaged(lambda d: d["layers"][0].update(kept_out=[[1]])), "not an architecture in JSON"),
    "kept is a number": (damaged(lambda d: d["layers"][0].update(kept_in=3)), "not an architecture in JSON"),
    "input shape": (damaged(lambda d: d.update(input_shape=[3, 6])), r"it must be \(channels, height, width\)"),
    "input shape is a number": (damaged(lambda d: d.update(input_shape=3)), "not an architecture in JSON"),
    "groups": (damaged(lambda d: d["layers"][0]["attrs"].update(groups=0)), "groups = 0"),
    "attribute": (damaged(lambda d: d["layers"][0]["attrs"].update(stride=[[1], 1])), "stride = "),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_json_is_refused_in_one_line(case: str) -> None:
    text, message = DAMAGE[case]
    with pytest.raises(ArchitectureError, match=message) as caught:
        Architecture.from_json(text)
    assert "\n" not in str(caught.value)
