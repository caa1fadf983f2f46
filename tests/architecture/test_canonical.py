"""The canonical order, which looks at colours only where it must, against one that always does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture import canonical
from esnac_lib.architecture.canonical import Graph, canonical_id
from esnac_lib.architecture.graph import Architecture, Layer, slot


def always_coloured(graph: Graph) -> tuple[int, ...]:
    """The definition in `canonical`'s docstrings, word for word."""
    height = [0] * len(graph.labels)
    for i in reversed(range(len(height))):
        height[i] = 1 + max((height[j] for j, _, _ in graph.consumers[i] if j >= 0), default=0)
    colours = canonical._refined(graph, [canonical._digest(nature) for nature in graph.labels])
    missing = [{i for part in parts for i, _ in part if i >= 0} for parts in graph.inputs]
    ready = {i: 0 for i, sources in enumerate(missing) if not sources}
    order: list[int] = []
    while ready:
        i = min(ready, key=lambda i: (-ready[i], -height[i], colours[i]))
        if colours.count(colours[i]) > 1:
            chosen = {j: canonical._individualised(graph, colours, j) for j in ready if colours[j] == colours[i]}
            i = min(chosen, key=lambda j: sorted(chosen[j]))
            colours = chosen[i]
        del ready[i]
        order.append(i)
        for j, sources in enumerate(missing):
            if i in sources:
                sources.remove(i)
                if not sources:
                    ready[j] = len(order)
    return tuple(order)


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    """Graphs of equal layers of two kinds, with sums, repeated sources and equal branches."""
    layers: list[Layer] = []
    for index in range(draw(st.integers(1, 10))):
        sources = draw(st.lists(st.integers(-1, index - 1), min_size=1, max_size=2))
        layers.append(Layer(f"l{index}", draw(st.sampled_from(["relu", "sigmoid"])), (slot(*sources),)))
    unread = set(range(len(layers))) - {source for layer in layers for source in layer.sources}
    return Architecture(tuple(layers), (3, 4, 4), slot(*unread))


@settings(max_examples=200, deadline=None)
@given(networks())
def test_the_order_is_the_same(network: Architecture) -> None:
    """Up to layers that can be exchanged, of which either may come first: the network in either order is one."""
    graph, expected = network.graph, always_coloured(network.graph)
    assert network.arch_id == canonical_id(graph, expected, network.input_shape, network.output)
    assert placed(graph, network.canonical_order) == placed(graph, expected)


def placed(graph: Graph, order: tuple[int, ...]) -> list[tuple[object, set[tuple[int, int]]]]:
    """Layer by layer in the order: what it is, and the places that it reads, with how often."""
    place = {i: position for position, i in enumerate(order)} | {-1: -1}
    return [(graph.labels[i], {(place[s], n) for part in graph.inputs[i] for s, n in part}) for i in order]
