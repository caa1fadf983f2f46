"""Layer configurations: written out by hand, and the same for every order of the same network."""

from __future__ import annotations

from math import sqrt

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.encoding import KINDS, encode, encoding_size
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import Slot

CONV = {"kernel_size": 3, "padding": 1}


def residual() -> Architecture:
    """conv -> bn -> relu -> conv -> bn, plus the first relu, -> pool -> flatten -> linear."""
    layers = (
        Layer("c1", "conv", (slot(INPUT),), 4, CONV),
        Layer("b1", "batch_norm", (slot(0),)),
        Layer("r1", "relu", (slot(1),)),
        Layer("c2", "conv", (slot(2),), 4, {**CONV, "groups": 2}),
        Layer("b2", "batch_norm", (slot(3),)),
        Layer("p", "max_pool", (slot(2, 4),), attrs={"kernel_size": 2, "stride": 2}),
        Layer("f", "flatten", (slot(5),)),
        Layer("fc", "linear", (slot(6),), 10),
    )
    return Architecture(layers, (3, 8, 8), slot(7))


def test_by_hand() -> None:
    n, m = 5, len(KINDS)
    encoding = encode(residual(), max_edge=n)
    assert encoding.shape == (8, m + 2 * n + 6) == (8, encoding_size(n))
    assert encoding.dtype == np.float32
    kinds = ["conv", "batch_norm", "relu", "conv", "batch_norm", "max_pool", "flatten", "linear"]
    assert [KINDS[row.argmax()] for row in encoding[:, :m]] == kinds
    assert (encoding[:, :m].sum(1) == 1).all()
    none = [0] * 6
    expected_attributes = [
        [3, 1, 1, 1, 3, 4], none, none, [3, 1, 1, 2, 4, 4], none, [2, 2, 0, 0, 0, 0], none, [0, 0, 0, 0, 64, 10],
    ]  # fmt: skip
    np.testing.assert_array_equal(encoding[:, m : m + 6], expected_attributes)
    incoming = np.zeros((8, n))
    outgoing = np.zeros((8, n))
    for i, j in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (2, 5)]:
        incoming[j, j - i - 1] = outgoing[i, j - i - 1] = 1
    np.testing.assert_array_equal(encoding[:, m + 6 : m + 6 + n], incoming)
    np.testing.assert_array_equal(encoding[:, m + 6 + n :], outgoing)


def test_default_width_and_every_kind_has_a_place() -> None:
    assert encoding_size() == encode(residual()).shape[1] == len(KINDS) + 2 * 128 + 6
    # saved kernels depend on the order
    assert KINDS[:12] == (
        "conv", "linear", "batch_norm", "relu", "sigmoid", "dropout", "max_pool", "avg_pool", "adaptive_avg_pool",
        "flatten", "concat", "channel_shuffle",
    )  # fmt: skip
    assert len(set(KINDS)) == len(KINDS) == 29


def test_windows_that_are_not_square() -> None:
    attrs = {"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1)}
    net = Architecture((Layer("c", "conv", (slot(INPUT),), 4, attrs),), (3, 8, 8), slot(0))
    row = encode(net, 1)[0, len(KINDS) :]
    np.testing.assert_allclose(row[:6], [sqrt(3), sqrt(2), 0.5, 1, 3, 4], rtol=1e-6)


def test_concat_shuffle_and_repeated_sources() -> None:
    layers = (
        Layer("a", "conv", (slot(INPUT),), 4, CONV),
        Layer("b", "conv", (slot(INPUT),), 2, CONV),
        Layer("cat", "concat", (slot(0, 0), slot(1))),
        Layer("mix", "channel_shuffle", (slot(2),), attrs={"groups": 3}),
    )
    encoding = encode(Architecture(layers, (3, 8, 8), slot(3)), 2)
    m = len(KINDS)
    np.testing.assert_array_equal(encoding[2, m:], [0, 0, 0, 0, 0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(encoding[3, m:], [0, 0, 0, 3, 0, 0, 1, 0, 0, 0])


def test_an_edge_that_is_too_long_sets_the_last_element() -> None:
    """The edge over 3 layers, from r1 to the pool, as if it went over 2."""
    exact, short, n, m = encode(residual(), 3), encode(residual(), 2), 2, len(KINDS) + 6
    np.testing.assert_array_equal(short[:, :m], exact[:, :m])
    for both, whole in ((short[:, m : m + n], exact[:, m : m + 3]), (short[:, m + n :], exact[:, m + 3 :])):
        np.testing.assert_array_equal(both[:, 0], whole[:, 0])
        np.testing.assert_array_equal(both[:, 1], np.maximum(whole[:, 1], whole[:, 2]))
    assert short[5, m + 1] == short[2, m + n + 1] == 1 and short.shape == (8, encoding_size(2))


def test_zeros_have_channels_and_a_group_norm_has_groups() -> None:
    layers = (
        Layer("norm", "group_norm", (slot(INPUT),), attrs={"groups": 3}), Layer("zeros", "zeros", (slot(0),), 5),
        Layer("cat", "concat", (slot(0), slot(1))), Layer("up", "upsample", (slot(2),), attrs={"size": 4}),
        Layer("half", "affine", (slot(3),), attrs={"factor": 0.5}),
    )  # fmt: skip
    encoding = encode(Architecture(layers, (3, 8, 8), slot(4)), 4)
    m = len(KINDS)
    assert [KINDS[row.argmax()] for row in encoding[:, :m]] == [layer.kind for layer in layers]
    np.testing.assert_array_equal(
        encoding[:, m : m + 6], [[0, 0, 0, 3, 0, 0], [0, 0, 0, 0, 3, 5], [0] * 6, [0] * 6, [0] * 6]
    )


def test_an_architecture_without_layers() -> None:
    assert encode(Architecture((), (3, 8, 8), slot(INPUT)), 4).shape == (0, encoding_size(4))


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    """Random graphs of maps of one shape, with many equal layers, sums and repeated sources."""
    count = draw(st.integers(1, 9))
    layers = []
    for index in range(count):
        sources = draw(st.lists(st.integers(-1, index - 1), min_size=1, max_size=3))
        kind = draw(st.sampled_from(["conv", "relu", "sigmoid"]))
        channels, attrs = (3, CONV) if kind == "conv" else (0, {})
        layers.append(Layer(f"l{index}", kind, (slot(*sources),), channels, attrs))
    unread = set(range(count)) - {source for layer in layers for source in layer.sources}
    return Architecture(tuple(layers), (3, 4, 4), slot(*unread))


def reordered(network: Architecture, order: list[int]) -> Architecture:
    """The same network with its layers in another topological order, under other names."""
    place = {INPUT: INPUT} | {old: new for new, old in enumerate(order)}

    def moved(part: Slot) -> Slot:
        return tuple(sorted((place[source], count) for source, count in part))

    layers = []
    for new, old in enumerate(order):
        layer = network.layers[old]
        layers.append(Layer(f"x{new}", layer.kind, tuple(map(moved, layer.inputs)), layer.channels, layer.attrs))
    return Architecture(tuple(layers), network.input_shape, moved(network.output))


@settings(max_examples=100, deadline=None)
@given(networks(), st.randoms(use_true_random=False))
def test_one_encoding_an_arch_id(network: Architecture, random) -> None:  # type: ignore[no-untyped-def]
    order: list[int] = []
    while len(order) < len(network.layers):
        ready = [
            i
            for i, layer in enumerate(network.layers)
            if i not in order and all(s in order or s == INPUT for s in layer.sources)
        ]
        order.append(random.choice(ready))
    other = reordered(network, order)
    assert other.arch_id == network.arch_id
    np.testing.assert_array_equal(encode(other, 16), encode(network, 16))


@settings(max_examples=60, deadline=None)
@given(networks())
def test_indicators_hold_every_edge_once(network: Architecture) -> None:
    n = 16
    encoding = encode(network, n)
    incoming, outgoing = encoding[:, -2 * n : -n], encoding[:, -n:]
    place = {layer: position for position, layer in enumerate(network.canonical_order)}
    edges = sorted((place[i], place[j]) for i, j in network.edges())
    assert edges == sorted((int(j - d - 1), int(j)) for j, d in zip(*incoming.nonzero(), strict=True))
    assert edges == sorted((int(i), int(i + d + 1)) for i, d in zip(*outgoing.nonzero(), strict=True))
