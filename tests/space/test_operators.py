"""Remove, skip and shrink: on hand-made graphs, and on random ones against slow twins that compute with tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graphs import architectures
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from esnac_lib.architecture.channel_routing import expand, is_depthwise, route_channels, shuffled
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.architecture.network import build, inherit, weight_shapes
from esnac_lib.errors import ArchitectureError
from esnac_lib.space.operators.remove import is_removable, remove
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.space.operators.skip import add_skips
from esnac_lib.space.search_space import SearchSpace

SAME = {"kernel_size": 3, "padding": 1}


def conv(name: str, source: int | Slot, channels: int, **attrs: Any) -> Layer:
    part = slot(source) if isinstance(source, int) else source
    return Layer(name, "conv", (part,), channels, {"kernel_size": 1} | attrs)


def relu(name: str, *sources: int) -> Layer:
    return Layer(name, "relu", (slot(*sources),))


def net(*layers: Layer, shape: tuple[int, int, int] = (4, 5, 5), output: Slot | None = None) -> Architecture:
    return Architecture(layers, shape, slot(len(layers) - 1) if output is None else output)


def reads(architecture: Architecture) -> dict[str, list[dict[str, int]]]:
    """For every layer (and the output) its slots, with names for numbers."""
    names = {INPUT: "input"} | {i: layer.name for i, layer in enumerate(architecture.layers)}
    parts = {layer.name: layer.inputs for layer in architecture.layers} | {"output": (architecture.output,)}
    return {name: [{names[i]: n for i, n in part} for part in slots] for name, slots in parts.items()}


def weights_of(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Random weights in float64; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        if name.endswith("running_var")
        else torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in weight_shapes(architecture).items()
    }


def images(architecture: Architecture, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *architecture.input_shape, generator=generator, dtype=torch.float64)


def modules(architecture: Architecture, weights: Mapping[str, Tensor]) -> list[torch.nn.Module]:
    """The layers in eval mode, in order."""
    return list(build(architecture, weights).eval().layers.children())


# -- remove ------------------------------------------------------------------------------------------------------------


def test_remove_in_a_chain() -> None:
    chain = net(conv("a", INPUT, 4), relu("b", 0), relu("c", 1), relu("d", 2))
    assert reads(remove(chain, [1])) == {"a": [{"input": 1}], "c": [{"a": 1}], "d": [{"c": 1}], "output": [{"d": 1}]}
    assert reads(remove(chain, [1, 2])) == {"a": [{"input": 1}], "d": [{"a": 1}], "output": [{"d": 1}]}
    assert remove(chain, []) == chain


def test_remove_the_first_layer_and_the_one_that_is_the_output() -> None:
    chain = net(relu("a", INPUT), relu("b", 0), relu("c", 1))
    assert reads(remove(chain, [0])) == {"b": [{"input": 1}], "c": [{"b": 1}], "output": [{"c": 1}]}
    assert reads(remove(chain, [2])) == {"a": [{"input": 1}], "b": [{"a": 1}], "output": [{"b": 1}]}
    assert reads(remove(chain, [0, 1, 2])) == {"output": [{"input": 1}]}


def test_remove_with_two_summed_inputs_into_a_sum_and_a_concat() -> None:
    graph = net(
        relu("a", INPUT), relu("b", INPUT), relu("sum", 0, 1), relu("c", 1, 2),
        Layer("cat", "concat", (slot(2), slot(3), slot(2, 3))),
    )  # fmt: skip
    assert reads(remove(graph, [2])) == {
        "a": [{"input": 1}],
        "b": [{"input": 1}],
        "c": [{"a": 1, "b": 2}],
        "cat": [{"a": 1, "b": 1}, {"c": 1}, {"a": 1, "b": 1, "c": 1}],
        "output": [{"cat": 1}],
    }


def block(source: int, first: int) -> list[Layer]:
    """A residual block with a ReLU on the main path: the layers `first` and `first` + 1."""
    return [relu(f"main{first}", source), relu(f"end{first}", source, first)]


def test_an_emptied_residual_block_is_x_plus_x() -> None:
    graph = net(conv("stem", INPUT, 4), *block(0, 1), relu("last", 2))
    assert reads(remove(graph, [1]))["end1"] == [{"stem": 2}]
    assert reads(remove(graph, [1, 2])) == {"stem": [{"input": 1}], "last": [{"stem": 2}], "output": [{"last": 1}]}


def test_nested_emptied_blocks_multiply() -> None:
    graph = net(conv("stem", INPUT, 4), *block(0, 1), *block(2, 3))
    emptied = remove(graph, [1, 2, 3, 4])
    assert reads(emptied) == {"stem": [{"input": 1}], "output": [{"stem": 4}]}
    weights, x = weights_of(emptied), images(emptied)
    once = build(net(conv("stem", INPUT, 4)), weights)
    torch.testing.assert_close(build(emptied, weights)(x), 4 * once(x))


def test_removed_one_by_one_or_together_is_the_same() -> None:
    graph = net(conv("stem", INPUT, 4), *block(0, 1), *block(2, 3), Layer("cat", "concat", (slot(4), slot(1, 4))))
    together = remove(graph, [1, 2, 4])
    assert remove(remove(remove(graph, [4]), [2]), [1]) == together == remove(remove(graph, [1, 2]), [2])
    assert together.arch_id == remove(remove(graph, [1]), [1, 3]).arch_id


def test_what_comes_along() -> None:
    layers = (
        replace(conv("a", INPUT, 4), origin="A", kept_out=np.arange(4), kept_in=np.arange(4)), relu("b", 0),
        replace(conv("c", 1, 4), origin="C", kept_in=np.array([1, 2, 5, 6])),
    )  # fmt: skip
    after = remove(net(*layers), [1])
    assert [layer.origin for layer in after.layers] == ["A", "C"]
    assert after.layers[1].kept_in is layers[2].kept_in and after.layers[0].kept_out is layers[0].kept_out


def test_only_layers_that_keep_their_shape_can_be_removed() -> None:
    graph = net(
        conv("wider", INPUT, 8), conv("same", 0, 8), conv("smaller", 1, 8, stride=2),
        Layer("one", "concat", (slot(2),)), Layer("two", "concat", (slot(2), slot(3))),
        Layer("flat", "flatten", (slot(4),)), Layer("fc", "linear", (slot(5),), 144), relu("on features", 6),
    )  # fmt: skip
    assert [graph.layers[i].name for i in range(8) if is_removable(graph, i)] == ["same", "one", "fc", "on features"]
    for index in (0, 2, 4, 5):
        with pytest.raises(ArchitectureError, match=rf"layer '{graph.layers[index].name}' cannot be removed") as caught:
            remove(graph, [1, index])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [-1, 2])
def test_layers_that_are_not_there_are_refused(index: int) -> None:
    graph = net(conv("a", INPUT, 4), relu("b", 0))
    for act in (lambda: remove(graph, [index]), lambda: shrink(graph, {index: np.arange(2)})):
        with pytest.raises(ArchitectureError, match=f"no layer {index}: layers are numbered from 0 to 1"):
            act()


# -- skip connections --------------------------------------------------------------------------------------------------


def test_skips_are_summed() -> None:
    chain = net(conv("a", INPUT, 4), relu("b", 0), relu("c", 1), relu("d", 2))
    assert reads(add_skips(chain, [(0, 2), (INPUT, 3), (1, 3)])) == {
        "a": [{"input": 1}],
        "b": [{"a": 1}],
        "c": [{"a": 1, "b": 1}],
        "d": [{"input": 1, "b": 1, "c": 1}],
        "output": [{"d": 1}],
    }


def test_an_edge_that_exists_changes_nothing() -> None:
    graph = net(conv("a", INPUT, 4), relu("b", 0), relu("c", 0, 0, 1))
    assert add_skips(graph, [(0, 1), (0, 2), (1, 2), (INPUT, 0)]) == graph
    assert add_skips(add_skips(graph, [(INPUT, 2)]), [(INPUT, 2)]) == add_skips(graph, [(INPUT, 2), (INPUT, 2)])


@pytest.mark.parametrize("pair", [(1, 1), (2, 1), (-2, 1), (0, 5), (0, 4), (3, 4)])
def test_skips_that_lead_nowhere_are_refused(pair: tuple[int, int]) -> None:
    """Backwards, to itself, from or to no layer, into a concat."""
    graph = net(conv("a", INPUT, 4), relu("b", 0), relu("c", 1), relu("d", 2), Layer("e", "concat", (slot(2), slot(3))))
    with pytest.raises(ArchitectureError, match=f"no skip connection can join layers {pair[0]} and {pair[1]}"):
        add_skips(graph, [pair])


def test_skips_between_different_shapes_are_refused() -> None:
    graph = net(conv("a", INPUT, 8), relu("b", 0))
    with pytest.raises(ArchitectureError, match="'b' sums shapes that differ"):
        add_skips(graph, [(INPUT, 1)])


# -- shrink, by hand ---------------------------------------------------------------------------------------------------


def kept(layer: Layer) -> tuple[list[int] | None, list[int] | None]:
    both = (layer.kept_out, layer.kept_in)
    return tuple(None if part is None else part.tolist() for part in both)  # type: ignore[return-value]


def test_shrink_through_convolution_batch_norm_flatten_and_linear() -> None:
    chain = net(
        conv("a", INPUT, 6), Layer("bn", "batch_norm", (slot(0),)), relu("r", 1), conv("b", 2, 5),
        Layer("pool", "max_pool", (slot(3),), attrs={"kernel_size": 3, "stride": 2}),
        Layer("flat", "flatten", (slot(4),)), Layer("fc", "linear", (slot(5),), 3),
    )  # fmt: skip
    small = shrink(chain, {0: np.array([0, 2, 5]), 3: np.array([1, 4])})
    a, bn, _, b, _, _, fc = small.layers
    assert (a.channels, kept(a)) == (3, ([0, 2, 5], None))
    assert kept(bn) == ([0, 2, 5], [0, 2, 5])
    assert (b.channels, kept(b)) == (2, ([1, 4], [0, 2, 5]))
    assert (fc.channels, kept(fc)) == (3, (None, [4, 5, 6, 7, 16, 17, 18, 19]))
    assert small.shapes == ((3, 5, 5), (3, 5, 5), (3, 5, 5), (2, 5, 5), (2, 2, 2), (8,), (3,))
    assert small.num_params == (3 * 4 + 3) + 6 + (2 * 3 + 2) + (3 * 8 + 3)


def test_shrink_a_linear_layer() -> None:
    chain = net(
        Layer("flat", "flatten", (slot(INPUT),)), Layer("a", "linear", (slot(0),), 6), relu("r", 1),
        Layer("b", "linear", (slot(2),), 3),
    )  # fmt: skip
    small = shrink(chain, {1: np.array([1, 3])})
    assert [kept(layer) for layer in small.layers[1::2]] == [([1, 3], None), (None, [1, 3])]
    assert small.num_params == (2 * 100 + 2) + (3 * 2 + 3)


def test_shrink_through_a_grouped_convolution() -> None:
    chain = net(conv("a", INPUT, 6), conv("b", 0, 8, groups=2), conv("c", 1, 4))
    small = shrink(chain, {0: np.array([0, 1, 3, 4]), 1: np.array([0, 2, 3, 4, 6, 7])})
    assert kept(small.layers[1]) == ([0, 2, 3, 4, 6, 7], [0, 1, 3, 4])
    assert small.layers[1]["groups"] == 2 and small.num_params == (4 * 4 + 4) + (6 * 2 + 6) + (4 * 6 + 4)
    for keep in ({0: np.array([0, 1, 3])}, {1: np.array([0, 1, 3])}):
        with pytest.raises(ArchitectureError, match=r"layer 'b': .* do not divide into 2 groups"):
            shrink(chain, keep)


@pytest.mark.parametrize("times", [1, 3])
def test_shrink_through_a_depthwise_convolution(times: int) -> None:
    chain = net(conv("a", INPUT, 4), conv("b", 0, 4 * times, groups=4, kernel_size=3), conv("c", 1, 4))
    small = shrink(chain, {0: np.array([1, 3])})
    outputs = [channel * times + k for channel in (1, 3) for k in range(times)]
    assert (small.layers[1]["groups"], small.layers[1].channels) == (2, 2 * times)
    assert kept(small.layers[1]) == (outputs, [1, 3]) and kept(small.layers[2]) == (None, outputs)
    assert small.layer_params[1] == 2 * times * (9 + 1)
    with pytest.raises(ArchitectureError, match="'b' is depthwise: its channels follow its input"):
        shrink(chain, {1: np.arange(2)})
    single = shrink(chain, {0: np.array([2])})
    assert (single.layers[1]["groups"], single.layers[1].channels) == (1, times)


def test_shrink_through_a_concat() -> None:
    graph = net(
        conv("a", INPUT, 3),
        conv("b", INPUT, 2),
        Layer("cat", "concat", (slot(1), slot(INPUT), slot(0))),
        conv("c", 2, 4),
    )
    small = shrink(graph, {0: np.array([0, 2])})
    assert small.in_shapes[2] == ((2, 5, 5), (4, 5, 5), (2, 5, 5))
    assert kept(small.layers[3]) == (None, [0, 1, 2, 3, 4, 5, 6, 8])
    small = shrink(graph, {0: np.array([1]), 1: np.array([1])})
    assert kept(small.layers[3]) == (None, [1, 2, 3, 4, 5, 7])


def test_shuffled_by_hand() -> None:
    assert shuffled(6, 2).tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(6, 3).tolist() == [0, 2, 4, 1, 3, 5]
    with pytest.raises(ArchitectureError, match="5 channels cannot be shuffled in 2 groups"):
        shuffled(5, 2)


def test_shrink_through_a_shuffle() -> None:
    """Six channels a to f are shuffled to a d b e c f; of a, b, d, f the shuffle makes a d b f."""
    graph = net(
        conv("a", INPUT, 6), Layer("shuffle", "channel_shuffle", (slot(0),), attrs={"groups": 2}), conv("c", 1, 4)
    )
    small = shrink(graph, {0: np.array([0, 1, 3, 5])})
    assert kept(small.layers[2]) == (None, [0, 1, 2, 5])
    with pytest.raises(ArchitectureError, match="shuffle"):
        shrink(graph, {0: np.array([0, 1, 3])})


def test_routes_against_tensors() -> None:
    """route_channels on numbered channels is what PyTorch does to them."""
    kept_in = np.array([0, 1, 2, 5, 6, 9])
    shuffle = Layer("s", "channel_shuffle", (slot(INPUT),), attrs={"groups": 3})
    former = F.channel_shuffle(torch.arange(12)[None, :, None, None], 3).flatten()
    left = F.channel_shuffle(torch.from_numpy(kept_in)[None, :, None, None], 3).flatten()
    routed = route_channels(shuffle, ((12, 2, 2),), [kept_in])
    assert former[torch.from_numpy(routed)].tolist() == left.tolist()
    flatten = Layer("f", "flatten", (slot(INPUT),))
    numbered = torch.arange(12 * 6).view(12, 2, 3)
    assert route_channels(flatten, ((12, 2, 3),), [kept_in]).tolist() == numbered[kept_in].flatten().tolist()
    assert expand(np.array([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]


def test_depthwise() -> None:
    assert is_depthwise(conv("a", INPUT, 8, groups=4), 4)
    assert not is_depthwise(conv("a", INPUT, 8, groups=2), 4)
    assert not is_depthwise(conv("a", INPUT, 8), 1)  # one input for every filter, but nothing that must follow it
    assert not is_depthwise(relu("a", INPUT), 4)


def residual() -> Architecture:
    """stem -> conv -> conv, plus the stem -> relu -> head."""
    return net(conv("stem", INPUT, 4), conv("b", 0, 4), conv("c", 1, 4), relu("end", 0, 2, 2), conv("head", 3, 4))


def test_shrink_sums() -> None:
    first = np.array([0, 3])
    small = shrink(residual(), {0: first, 2: first.copy()})
    assert [kept(layer) for layer in small.layers] == [
        ([0, 3], None), (None, [0, 3]), ([0, 3], None), (None, None), (None, [0, 3]),
    ]  # fmt: skip
    assert small.layers[1].channels == 4 and reads(small) == reads(residual())


@pytest.mark.parametrize("keep", [{0: [0, 3], 2: [0, 2]}, {0: [0, 3]}, {2: [0]}, {0: [0, 3], 2: [0]}])
def test_sums_of_different_channels_are_refused(keep: dict[int, list[int]]) -> None:
    with pytest.raises(ArchitectureError, match="'end' would sum maps of which different channels were kept"):
        shrink(residual(), {i: np.array(positions) for i, positions in keep.items()})


def test_sums_with_the_input_and_at_the_output_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="'b' would sum maps of which different channels"):
        shrink(net(conv("a", INPUT, 4), relu("b", INPUT, 0), conv("c", 1, 2)), {0: np.arange(2)})
    with pytest.raises(ArchitectureError, match="the network's output would lose channels"):
        shrink(residual(), {4: np.arange(2)})


@pytest.mark.parametrize("positions", [[], [0, 4], [-1, 2], [2, 1], [1, 1]])
def test_filters_that_are_not_there_are_refused(positions: list[int]) -> None:
    with pytest.raises(
        ArchitectureError, match=r"'b' cannot keep the filters .*: needed are one or more of 0 to 3"
    ) as caught:
        shrink(residual(), {1: np.array(positions, dtype=int)})
    assert "\n" not in str(caught.value)


def test_layers_without_filters_cannot_be_shrunk() -> None:
    with pytest.raises(ArchitectureError, match=r"layer 'end' \(relu\) has no filters of its own"):
        shrink(residual(), {3: np.arange(2)})


def test_nothing_to_shrink_gives_the_same_layers() -> None:
    graph = residual()
    assert all(a is b for a, b in zip(shrink(graph, {}).layers, graph.layers, strict=True))


def test_kept_channels_compose_over_repeated_shrinks() -> None:
    chain = net(
        conv("a", INPUT, 8), Layer("bn", "batch_norm", (slot(0),)), conv("dw", 1, 16, groups=8), conv("b", 2, 6),
        Layer("flat", "flatten", (slot(3),)), Layer("fc", "linear", (slot(4),), 3),
    )  # fmt: skip
    once = shrink(chain, {0: np.array([1, 2, 4, 7]), 3: np.array([0, 3, 5])})
    twice = shrink(once, {0: np.array([1, 3]), 3: np.array([0, 2])})
    a, bn, dw, b, _, fc = twice.layers
    assert kept(a) == ([2, 7], None) and kept(bn) == ([2, 7], [2, 7])
    assert kept(dw) == ([4, 5, 14, 15], [2, 7])
    assert kept(b) == ([0, 5], [4, 5, 14, 15])
    assert kept(fc) == (None, [*range(25), *range(125, 150)])
    assert twice == shrink(chain, {0: np.array([2, 7]), 3: np.array([0, 5])})


# -- slow twins: the same with tensors ---------------------------------------------------------------------------------


def twin_of_the_graph(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    x: Tensor,
    removed: Collection[int] = (),
    skips: Collection[tuple[int, int]] = (),
) -> Tensor:
    """The network's output if removed layers are identities and skips are added by hand."""
    values = {INPUT: x}

    def read(part: Slot) -> Tensor:
        return torch.stack([values[i] for i, times in part for _ in range(times)]).sum(0)

    for j, (layer, module) in enumerate(zip(architecture.layers, modules(architecture, weights), strict=True)):
        inputs = [read(part) for part in layer.inputs]
        inputs[0] = inputs[0] + sum(values[i] for i, k in skips if k == j and i not in layer.sources)
        values[j] = inputs[0] if j in removed else module(*inputs)
    return read(architecture.output)


@given(architectures(), st.data())
@settings(max_examples=120)
def test_remove_and_skip_against_identities_and_sums(graph: Architecture, data: st.DataObject) -> None:
    n = len(graph.layers)
    removable = [i for i in range(n) if is_removable(graph, i)]
    removed = data.draw(st.sets(st.sampled_from(removable))) if removable else set()
    shapes = (*graph.shapes, graph.input_shape)  # the last is that of source -1
    pairs = [
        (i, j)
        for j in range(n)
        for i in range(INPUT, j)
        if len(graph.layers[j].inputs) == 1 and graph.in_shapes[j][0] == shapes[i]
    ]
    skips = data.draw(st.sets(st.sampled_from(pairs), max_size=5))
    weights, x = weights_of(graph), images(graph)
    skipped = add_skips(graph, skips)
    after = remove(skipped, removed)
    left = {name: tensor for name, tensor in weights.items() if name in weight_shapes(after)}
    expected = twin_of_the_graph(graph, weights, x, removed, skips)
    torch.testing.assert_close(build(after, left).eval()(x), expected)
    assert len(after.layers) == n - len(removed)


def positions_kept(teacher: Architecture, student: Architecture, keep: Mapping[int, np.ndarray]) -> list[Tensor]:
    """For every layer of a shrunk network, the teacher's channel behind each of its channels, by sending numbers."""
    found: list[Tensor] = []
    for j, (layer, shapes) in enumerate(zip(teacher.layers, teacher.in_shapes, strict=True)):
        inputs = [torch.arange(teacher.input_shape[0]) if p[0][0] == INPUT else found[p[0][0]] for p in layer.inputs]
        first, channels = inputs[0], shapes[0][0]
        if layer.has_filters and layer.kind == "conv" and layer["groups"] == channels > 1:
            times = layer.channels // channels
            first = torch.stack([first * times + k for k in range(times)], 1).flatten()
        elif layer.has_filters:
            first = torch.as_tensor(keep[j]) if j in keep else torch.arange(layer.channels)
        elif layer.kind == "concat":
            ends = np.cumsum([0, *(shape[0] for shape in shapes)])
            first = torch.cat([part + int(start) for part, start in zip(inputs, ends, strict=False)])
        elif layer.kind == "flatten":
            first = torch.arange(np.prod(shapes[0])).view(shapes[0])[first].flatten()
        elif layer.kind == "channel_shuffle":
            before = F.channel_shuffle(torch.arange(channels)[None, :, None], layer["groups"]).flatten()
            now = F.channel_shuffle(first[None, :, None], student.layers[j]["groups"]).flatten()
            first = torch.stack([(before == channel).nonzero()[0, 0] for channel in now])
        elif layer.kind == "select":
            before, now = (torch.cat([torch.arange(*run) for run in x["runs"]]) for x in (layer, student.layers[j]))
            left = [p for p, channel in enumerate(before.tolist()) if channel in first.tolist()]
            assert first[now].tolist() == before[left].tolist()  # the teacher's, in the teacher's order
            first = torch.tensor(left)
        elif layer.kind in ("multiply", "add"):
            first = max(zip(shapes, inputs, strict=True), key=lambda pair: pair[0][0])[1]
        found.append(first)
    return found


def normalised(layer: Layer, x: Tensor, left: Tensor, groups: int, weights: Mapping[str, Tensor]) -> Tensor:
    """A layer norm, or a group norm in these groups, of the channels that are left; zero elsewhere."""
    y = torch.zeros_like(x)
    for image in range(len(x)):
        for channels in left.view(groups, -1):
            part = x[image, channels]
            over = 0 if layer.kind == "layer_norm" else tuple(range(part.ndim))
            centred = part - part.mean(over, keepdim=True)
            y[image, channels] = centred / (centred.square().mean(over, keepdim=True) + layer["eps"]).sqrt()
    columns = [weights.get(f"{layer.name}.{name}") for name in ("weight", "bias")]
    weight, bias = (None if c is None else c.view(-1, *[1] * (x.ndim - 2)) for c in columns)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def dense(layer: Layer, weight: Tensor, groups: int, inputs: Tensor, outputs: Tensor, channels: int) -> Tensor:
    """A grouped convolution's weight as one without groups: the student's connections, with the teacher's weights."""
    full = torch.zeros(layer.channels, channels, *weight.shape[2:], dtype=weight.dtype)
    for o, output in enumerate(outputs.tolist()):
        group = o // (len(outputs) // groups)
        size = len(inputs) // groups
        for i in inputs.tolist()[group * size : (group + 1) * size]:
            full[output, i] = weight[output, i % weight.shape[1]]
    return full


def assert_shrunk_is_masked(teacher: Architecture, student: Architecture, keep: Mapping[int, np.ndarray]) -> None:
    """Every layer of the student puts out what the teacher's does if dropped channels are zeroed everywhere."""
    weights, x = weights_of(teacher), images(teacher)
    inherited = inherit(weights, student)
    positions = positions_kept(teacher, student, keep)
    big, small = {INPUT: x}, {INPUT: x}

    def read(values: Mapping[int, Tensor], part: Slot) -> Tensor:
        return torch.stack([values[i] for i, times in part for _ in range(times)]).sum(0)

    pairs = zip(modules(teacher, weights), modules(student, inherited), strict=True)
    for j, (module, own) in enumerate(pairs):
        layer, other, left = teacher.layers[j], student.layers[j], positions[j]
        inputs = [read(big, part) for part in layer.inputs]
        if layer.kind == "conv" and layer["groups"] > 1:
            source = layer.inputs[0][0][0]
            channels = teacher.in_shapes[j][0][0]
            seen = torch.arange(channels) if source == INPUT else positions[source]
            full = dense(layer, weights[f"{layer.name}.weight"], other["groups"], seen, left, channels)
            bias = weights.get(f"{layer.name}.bias")
            out = F.conv2d(inputs[0], full, bias, layer["stride"], layer["padding"], layer["dilation"])
        elif layer.kind in ("layer_norm", "group_norm"):
            out = normalised(layer, inputs[0], left, dict(layer.attrs).get("groups", 1), weights)
        else:
            out = module(*inputs)
        big[j] = torch.zeros_like(out)
        big[j][:, left] = out[:, left]
        small[j] = own(*(read(small, part) for part in other.inputs))
        torch.testing.assert_close(small[j], big[j][:, left], msg=lambda m, name=layer.name: f"{name}: {m}")
    torch.testing.assert_close(build(student, inherited).eval()(x), read(big, teacher.output))


@given(architectures(), st.data())
@settings(max_examples=150)
def test_shrunk_networks_are_masked_teachers(teacher: Architecture, data: st.DataObject) -> None:
    space = SearchSpace(teacher, ("shrink",), data.draw(st.sampled_from(("dimension", "dependency"))))
    assume(space.groups)
    keep: dict[int, list[np.ndarray]] = {}
    for group in space.groups:
        ratio = data.draw(st.sampled_from((0.0, 0.2, 0.4, 0.6, 0.8)))
        for index, positions in group.keep(ratio).items():
            keep.setdefault(index, []).append(positions)
    chosen = {i: np.sort(np.concatenate(parts)) for i, parts in keep.items()}
    assert_shrunk_is_masked(teacher, shrink(teacher, chosen), chosen)


def attached(kind: str, **attrs: Any) -> tuple[Layer, ...]:
    return (Layer("it", kind, (slot(0),), attrs=attrs),)


JOINED = (conv("b", INPUT, 6), Layer("it", "multiply", (slot(0), slot(1))))
KEPT = [0, 2, 5]
# What stands between a convolution of 6 channels and the one that reads it; which filters stay; which channels are read
# then, by hand.
BETWEEN: dict[str, tuple[tuple[Layer, ...], dict[int, list[int]], list[int]]] = {
    "activation": (attached("activation", function="hardsigmoid"), {0: KEPT}, KEPT),
    "prelu": (attached("prelu"), {0: KEPT}, KEPT),
    "shared prelu": (attached("prelu", shared=True), {0: KEPT}, KEPT),
    "instance_norm": (attached("instance_norm", affine=True), {0: KEPT}, KEPT),
    "scale": (attached("scale", bias=True), {0: KEPT}, KEPT),
    "affine": (attached("affine", factor=2, offset=1), {0: KEPT}, KEPT),
    "multiply": (JOINED, {0: KEPT, 1: KEPT}, KEPT),
    "gate": (
        (Layer("pool", "adaptive_avg_pool", (slot(0),), attrs={"output_size": 1}), conv("squeeze", 1, 4),
         conv("excite", 2, 6), Layer("it", "multiply", (slot(3), slot(0)))),
        {0: KEPT, 2: [1, 3], 3: KEPT}, KEPT,
    ),
    "features": (
        (Layer("pool", "adaptive_avg_pool", (slot(0),), attrs={"output_size": 1}), Layer("flat", "flatten", (slot(1),)),
         Layer("norm", "batch_norm", (slot(2),)), Layer("back", "unflatten", (slot(3),)),
         Layer("it", "multiply", (slot(0), slot(4)))),
        {0: KEPT}, KEPT,
    ),
    "add": (
        (conv("b", INPUT, 6, kernel_size=(5, 1)), Layer("it", "add", (slot(0), slot(1)))), {0: KEPT, 1: KEPT}, KEPT,
    ),
    "map": ((conv("b", 0, 1), Layer("it", "add", (slot(1), slot(0)))), {0: KEPT}, KEPT),
    "select": (attached("select", runs=[(4, 6), (0, 3)]), {0: KEPT}, [1, 2, 4]),
    "repeat": (attached("select", runs=[(0, 2), (0, 2), (5, 6)]), {0: KEPT}, [0, 2, 4]),
    "shuffle": (attached("select", runs=[(n, n + 1) for n in (0, 3, 1, 4, 2, 5)]), {0: [1, 2, 3]}, [1, 2, 4]),
    "zeros": (
        (Layer("zeros", "zeros", (slot(0),), 3), Layer("it", "concat", (slot(1), slot(0), slot(1)))),
        {0: KEPT, 1: [0, 2]}, [0, 2, 3, 5, 8, 9, 11],
    ),
    "pad": (attached("pad", sizes=(1, 0, -1, 2), mode="replicate"), {0: KEPT}, KEPT),
    "upsample": (attached("upsample", size=(7, 3), mode="bilinear"), {0: KEPT}, KEPT),
    "adaptive_max_pool": (attached("adaptive_max_pool", output_size=2), {0: KEPT}, KEPT),
    "stochastic_depth": (attached("stochastic_depth", p=0.5), {0: KEPT}, KEPT),
}  # fmt: skip


@pytest.mark.parametrize("case", BETWEEN)
def test_each_kind_passes_on_what_is_kept(case: str) -> None:
    """The student computes what the teacher does if the head does not look at the channels that were dropped."""
    between, chosen, seen = BETWEEN[case]
    head = conv("head", len(between), 3)
    teacher = net(conv("a", INPUT, 6), *between, head)
    keep = {index: np.array(positions) for index, positions in chosen.items()}
    student = shrink(teacher, keep)
    assert kept(student.layers[-1]) == (None, seen)
    weights = weights_of(teacher)
    mask = torch.zeros_like(weights["head.weight"])
    mask[:, seen] = 1
    blind = weights | {"head.weight": weights["head.weight"] * mask}
    if case == "gate":
        blind["excite.weight"] = blind["excite.weight"] * torch.tensor([0, 1, 0, 1])[None, :, None, None]
        blind["squeeze.weight"] = blind["squeeze.weight"] * torch.tensor([1, 0, 1, 0, 0, 1])[None, :, None, None]
    if case == "map":
        blind["b.weight"] = blind["b.weight"] * torch.tensor([1, 0, 1, 0, 0, 1])[None, :, None, None]
    expected = build(teacher, blind).eval()(images(teacher))
    torch.testing.assert_close(build(student, inherit(weights, student)).eval()(images(teacher)), expected)
    assert_shrunk_is_masked(teacher, student, keep)


@pytest.mark.parametrize("kind", ["layer_norm", "group_norm"])
def test_norms_over_channels_see_those_that_are_left(kind: str) -> None:
    teacher = net(
        conv("a", INPUT, 6), *attached(kind, **({"groups": 2} if kind == "group_norm" else {})), conv("b", 1, 3)
    )
    keep = {0: np.array([0, 1, 3, 5])}
    student = shrink(teacher, keep)
    assert kept(student.layers[1]) == ([0, 1, 3, 5], [0, 1, 3, 5])
    assert_shrunk_is_masked(teacher, student, keep)
    if kind == "group_norm":
        with pytest.raises(ArchitectureError, match=r"layer 'it': 3 channels in 2 groups"):
            shrink(teacher, {0: np.array(KEPT)})


def test_joins_of_different_channels_are_refused() -> None:
    graph = net(conv("a", INPUT, 6), *JOINED, conv("b2", 2, 3))
    with pytest.raises(ArchitectureError, match="'it' would join maps of which different channels were kept"):
        shrink(graph, {0: np.array([0, 1]), 1: np.array([0, 2])})
    with pytest.raises(ArchitectureError, match="'it' would join maps of which different channels were kept"):
        shrink(graph, {0: np.array([0, 1])})


def test_a_selection_of_nothing_that_is_left_is_refused() -> None:
    graph = net(conv("a", INPUT, 6), *attached("select", runs=[(1, 3)]), conv("b", 1, 3))
    with pytest.raises(ArchitectureError, match="layer 'it' would select none of the channels that are left"):
        shrink(graph, {0: np.array([0, 3])})


def test_all_channels_kept_is_nothing_shrunk() -> None:
    """Wherever they go: next to the input in a concat, through a selection, into a sum with the input."""
    layers = (
        Layer("zeros", "zeros", (slot(INPUT),), 2), Layer("cat", "concat", (slot(INPUT), slot(0))),
        Layer("first", "select", (slot(1),), attrs={"runs": [(0, 4)]}), conv("head", slot(INPUT, 2), 3),
    )  # fmt: skip
    graph = net(*layers)
    assert shrink(graph, {0: np.arange(2)}) == graph


def test_zeros_cannot_be_removed_and_joins_neither() -> None:
    graph = net(conv("a", INPUT, 6), *JOINED, Layer("zeros", "zeros", (slot(2),), 6), conv("c", slot(2, 3), 6))
    assert [is_removable(graph, i) for i in range(5)] == [False, False, False, False, True]
    with pytest.raises(ArchitectureError, match="no skip connection can join layers 0 and 2"):
        add_skips(graph, [(0, 2)])


def every_way_of_channels() -> Architecture:
    """Aligned groups, depthwise with a multiplier, shuffles, concats of sums, two flattens."""
    layers = (
        conv("stem", INPUT, 12, **SAME), Layer("bn", "batch_norm", (slot(0),)), conv("grouped", 1, 12, groups=3),
        Layer("s1", "channel_shuffle", (slot(2),), attrs={"groups": 3}),
        conv("depthwise", 3, 24, groups=12, stride=2, **SAME), Layer("sigmoid", "sigmoid", (slot(4),)),
        conv("a", 5, 8, bias=False), conv("b", 5, 8), conv("c", slot(6, 7), 8), relu("d", 6, 6, 7, 8),
        Layer("pool", "avg_pool", (slot(9),), attrs={"kernel_size": 3, "stride": 1, "padding": 1}),
        Layer("cat", "concat", (slot(10, 6), slot(5), slot(10))),
        Layer("s2", "channel_shuffle", (slot(11),), attrs={"groups": 4}),
        Layer("max", "max_pool", (slot(12),), attrs={"kernel_size": 2, "stride": 2, "ceil_mode": True}),
        Layer("bn2", "batch_norm", (slot(13),)), conv("last", 14, 6, groups=2), Layer("flat", "flatten", (slot(15),)),
        Layer("fc", "linear", (slot(16),), 7), relu("hidden", 17), Layer("fc2", "linear", (slot(18),), 3),
        Layer("flat2", "flatten", (slot(14),)), Layer("fc3", "linear", (slot(20),), 3),
    )  # fmt: skip
    return Architecture(layers, (3, 5, 5), slot(19, 21))


def test_every_way_of_channels_by_any_filters() -> None:
    """Not only the first filters: any, as long as the groups divide them."""
    teacher = every_way_of_channels()
    rng = np.random.default_rng(0)

    def some(of: int, count: int) -> np.ndarray:
        return np.sort(rng.permutation(of)[:count])

    for _ in range(20):
        branch = some(8, 4)
        keep = {
            0: some(12, 3 * int(rng.integers(1, 4))), 2: some(12, 6), 6: branch, 7: branch, 8: branch,
            15: some(6, 2 * int(rng.integers(1, 3))), 17: some(7, int(rng.integers(1, 8))),
        }  # fmt: skip
        assert_shrunk_is_masked(teacher, shrink(teacher, keep), keep)


def test_aligned_groups_keep_the_teachers_connections() -> None:
    """With as many filters of each group left, a grouped convolution is the teacher's with channels masked."""
    chain = net(conv("a", INPUT, 6), relu("r", 0), conv("b", 1, 8, groups=2), conv("c", 2, 4))
    keep = {0: np.array([0, 2, 3, 4]), 2: np.array([1, 3, 4, 6])}
    small = shrink(chain, keep)
    weights, x = weights_of(chain), images(chain)
    masked = dict(weights)
    for name, index in (("a", 0), ("b", 2)):
        for parameter in ("weight", "bias"):
            mask = torch.zeros_like(weights[f"{name}.{parameter}"])
            mask[keep[index]] = 1
            masked[f"{name}.{parameter}"] = weights[f"{name}.{parameter}"] * mask
    expected = build(chain, masked)(x)
    torch.testing.assert_close(build(small, inherit(weights, small))(x), expected)


@given(architectures(grouped=False), st.data())
@settings(max_examples=80)
def test_inheriting_twice_is_inheriting_at_once(teacher: Architecture, data: st.DataObject) -> None:
    """A student's student cut from the teacher's weights, or from the student's: the same tensors."""

    def draw(architecture: Architecture) -> dict[int, np.ndarray]:
        keep: dict[int, list[np.ndarray]] = {}
        for group in SearchSpace(architecture, ("shrink",)).groups:
            for index, positions in group.keep(data.draw(st.sampled_from((0.0, 0.3, 0.6)))).items():
                keep.setdefault(index, []).append(positions)
        return {i: np.sort(np.concatenate(parts)) for i, parts in keep.items()}

    first = shrink(teacher, draw(teacher))
    keep = draw(first)
    at_once = shrink(first, keep)
    fresh = tuple(replace(layer, origin=None, kept_out=None, kept_in=None) for layer in first.layers)
    stepwise = shrink(Architecture(fresh, first.input_shape, first.output), keep)
    assert at_once == stepwise
    weights = weights_of(teacher)
    a, b = inherit(weights, at_once), inherit(inherit(weights, first), stepwise)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(architectures(), st.data())
@settings(max_examples=50)
def test_operators_leave_their_argument_alone(graph: Architecture, data: st.DataObject) -> None:
    space = SearchSpace(graph)
    student = space.apply(space.sample(np.random.default_rng(data.draw(st.integers(0, 9)))))
    before = student.to_json()
    removable = [i for i in range(len(student.layers)) if is_removable(student, i)]
    remove(student, removable)
    for group in SearchSpace(student).groups:
        shrink(student, group.keep(0.5))
    assert student.to_json() == before
