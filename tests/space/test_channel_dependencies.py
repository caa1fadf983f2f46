"""Channel groups: which filters are shrunk together in the paper's teachers and in hand-made graphs, and how far."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
import torch
from graphs import architectures
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.channel_routing import is_depthwise
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import ArchitectureError
from esnac_lib.space.channel_dependencies import Segment, kept_count, trace_channels
from esnac_lib.space.channel_groups import ChannelGroup
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import TEACHERS

SAME = {"kernel_size": 3, "padding": 1}


@cache
def space_of(name: str, grouping: str = "dimension") -> SearchSpace:
    """A teacher's space for 10 classes, its weights not drawn."""
    with torch.random.fork_rng(devices=[]):
        architecture, _ = trace(TEACHERS[name].build(10, 3, 32), torch.rand(1, 3, 32, 32))
    return SearchSpace(architecture, grouping=grouping)


def conv(name: str, source: int | Slot, channels: int, **attrs: Any) -> Layer:
    part = slot(source) if isinstance(source, int) else source
    return Layer(name, "conv", (part,), channels, {"kernel_size": 1, "bias": False} | attrs)


def with_head(*layers: Layer, shape: tuple[int, int, int] = (3, 4, 4)) -> Architecture:
    """The layers, then flatten and linear on the last of them."""
    n = len(layers)
    head = (Layer("flatten", "flatten", (slot(n - 1),)), Layer("linear", "linear", (slot(n),), 10))
    return Architecture((*layers, *head), shape, slot(n + 1))


def groups_of(architecture: Architecture, grouping: str = "dimension") -> list[set[str]]:
    """The names of the layers that each group shrinks."""
    space = SearchSpace(architecture, grouping=grouping)
    return [{architecture.layers[i].name for s in group.segments for i in s.positions} for group in space.groups]


def counts(space: SearchSpace, group: ChannelGroup, ratio: float) -> dict[str, int]:
    return {space.teacher.layers[i].name: len(positions) for i, positions in group.keep(ratio).items()}


# -- how many filters stay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "ratio", "multiple", "kept"),
    [
        (64, 0.0, 1, 64), (64, 0.5, 1, 32), (64, 0.51, 1, 31), (64, 0.99, 1, 1), (64, 0.999999, 1, 1),
        (20, 0.9, 1, 2),  # (1 - 0.9)·20 is 1.9999999999999996 in binary
        (20, 0.7, 2, 6),  # (1 - 0.7)·20 is 6.000000000000001
        (10, 0.4, 1, 6), (1, 0.3, 1, 1), (3, 0.34, 1, 1),
        (200, 0.0, 2, 200), (200, 0.5, 2, 100), (200, 0.501, 2, 100), (200, 0.51, 2, 98), (200, 0.9, 2, 20),
        (24, 0.9, 2, 4), (10, 0.9, 2, 2), (10, 0.99, 2, 2), (9, 0.1, 3, 9), (9, 0.4, 3, 6),
        (4, 0.5, 8, 4),  # never more than there are
    ],
)  # fmt: skip
def test_kept_filters_by_hand(width: int, ratio: float, multiple: int, kept: int) -> None:
    assert kept_count(width, ratio, multiple) == kept


@given(st.integers(1, 1024), st.sampled_from([2, 3, 10, 32, 64, 1000]), st.data(), st.sampled_from([1, 2, 3, 4, 8]))
@settings(max_examples=500)
def test_kept_filters_against_fractions(width: int, parts: int, data: st.DataObject, multiple: int) -> None:
    """SPEC §1: max(1, ⌊(1 − r)·F⌋), or rounded up to a multiple; exact arithmetic as the twin."""
    part = data.draw(st.integers(0, parts - 1))
    exact = (1 - Fraction(part, parts)) * width
    found = kept_count(width, part / parts, multiple)
    if multiple == 1:
        assert found == max(1, floor(exact))
    else:
        assert found == min(width, ceil(exact / multiple) * multiple)
    assert 1 <= found <= width


# -- the paper's teachers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "widths"), [
    ("vgg19", [64, 128, 256, 512]), ("resnet18", [64, 128, 256, 512]), ("resnet34", [64, 128, 256, 512]),
    ("shufflenet", [24, 200, 400, 800]), ("conv7", [32, 64, 128, 256]), ("conv10", [64, 256, 1024]), ("cnn4", [32, 64]),
])  # fmt: skip
def test_groups_of_the_teachers(name: str, widths: list[int]) -> None:
    space = space_of(name)
    assert [int(group.name.split()[0]) for group in space.groups] == widths
    assert [group.multiple for group in space.groups] == [2 if name == "shufflenet" else 1] * len(widths)
    assert [group.max_ratio for group in space.groups] == [0.9 if name == "shufflenet" else 1.0] * len(widths)
    shrunk = [i for group in space.groups for segment in group.segments for i in segment.positions]
    own = {
        i
        for i, (layer, shapes) in enumerate(zip(space.teacher.layers, space.teacher.in_shapes, strict=True))
        if layer.has_filters and layer.name != "linear" and not is_depthwise(layer, shapes[0][0])
    }
    assert set(shrunk) == own  # every convolution with filters of its own belongs to a group


@pytest.mark.parametrize("name", ["vgg19", "resnet18", "resnet34", "conv7", "conv10", "cnn4"])
def test_a_group_holds_all_convolutions_of_one_width(name: str) -> None:
    space = space_of(name)
    for group in space.groups:
        width = int(group.name.split()[0])
        layers = {i for segment in group.segments for i in segment.positions}
        same = {i for i, layer in enumerate(space.teacher.layers) if layer.kind == "conv" and layer.channels == width}
        assert layers == same
        assert set(counts(space, group, 0.3).values()) == {floor(0.7 * width)}
        assert all(np.array_equal(p, np.arange(floor(0.7 * width))) for p in group.keep(0.3).values())  # the first ones


def test_shufflenet_has_one_group_for_the_stem_and_one_a_stage() -> None:
    space = space_of("shufflenet")
    members = [
        {space.teacher.layers[i].name for segment in group.segments for i in segment.positions}
        for group in space.groups
    ]
    assert members[0] == {"conv"}
    for stage, units in ((1, 4), (2, 8), (3, 4)):
        expected = {f"stages.stage{stage}.{unit}.{name}" for unit in range(units) for name in ("conv1", "conv3")}
        assert members[stage] == expected | {f"stages.stage{stage}.0.shortcut.inserted"}


@pytest.mark.parametrize("ratio", [0.0, 0.013, 0.25, 0.5, 0.777, 0.9])
def test_a_shortcut_gets_the_stages_width_less_the_branchs(ratio: float) -> None:
    """Stage 1: 200 = 176 + 24; stage 2: 400 = 200 + 200; stage 3: 800 = 400 + 400. All rounded up to even numbers."""
    space = space_of("shufflenet")

    def even(width: int) -> int:
        return ceil(Fraction((1 - Fraction(str(ratio))) * width) / 2) * 2

    for stage, (branch, width) in enumerate(((176, 200), (200, 400), (400, 800)), start=1):
        found = counts(space, space.groups[stage], ratio)
        prefix = f"stages.stage{stage}"
        assert found[f"{prefix}.0.conv3"] == even(branch)
        assert found[f"{prefix}.0.shortcut.inserted"] == even(width) - even(branch)
        assert found[f"{prefix}.1.conv3"] == even(width)
        middle = {1: (44, 50), 2: (50, 100), 3: (100, 200)}[stage]
        assert (found[f"{prefix}.0.conv1"], found[f"{prefix}.1.conv1"]) == (even(middle[0]), even(middle[1]))
        assert all(count % 2 == 0 for count in found.values())
    # a stage's later units keep the first of the branch's channels and the first of the shortcut's
    kept = space.groups[1].keep(ratio)[space.teacher.index("stages.stage1.1.conv3")]
    assert kept.tolist() == [*range(even(176)), *range(176, 176 + even(200) - even(176))]


def test_the_inserted_convolutions_stay() -> None:
    """Their input has the stem's or the former stage's channels, their output the stage's: 24 to 24, yet not alike."""
    space = space_of("shufflenet")
    inserted = [space.teacher.index(f"stages.stage{stage}.0.shortcut.inserted") for stage in (1, 2, 3)]
    assert all(space.teacher.in_shapes[i][0] == space.teacher.shapes[i] for i in inserted)
    assert not set(inserted) & set(space.removable)
    assert not any(space.teacher.layers[j].kind == "concat" for _, j in space.connectable)


@pytest.mark.parametrize("name", [name for name in TEACHERS if name.startswith("shufflenet_")])
def test_original_shufflenets_shrink_at_any_ratio(name: str) -> None:
    """Without the inserted convolutions everything up to the last stage is one family of channels."""
    space = space_of(name)
    assert len(space.groups) == 1 and space.groups[0].multiple == int(name[-1])
    sizes = [shrink(space.teacher, space.groups[0].keep(ratio)).num_params for ratio in np.linspace(0, 0.9, 19)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == space.teacher.num_params > 3 * sizes[-1]


# -- grouping by dependency --------------------------------------------------------------------------------------------


def test_grouping_by_dependency() -> None:
    space = space_of("resnet18", "dependency")
    members = [
        {space.teacher.layers[i].name for segment in group.segments for i in segment.positions}
        for group in space.groups
    ]
    assert members[0] == {"conv", "stages.stage1.0.conv2", "stages.stage1.1.conv2"}
    assert {"stages.stage1.0.conv1"} in members and {"stages.stage1.1.conv1"} in members
    stage2 = {"stages.stage2.0.conv2", "stages.stage2.0.shortcut.conv", "stages.stage2.1.conv2"}
    assert stage2 in members
    assert len(members) == 4 + 8  # a stage's sum each, and the middle of each of the 8 blocks
    assert len(space_of("vgg19", "dependency").groups) == 16
    names = [group.name for group in space_of("shufflenet", "dependency").groups]
    assert names[0] == "24 (conv)" and "200 (stages.stage1.0.conv3)" in names and "44 (stages.stage1.0.conv1)" in names


# -- hand-made graphs --------------------------------------------------------------------------------------------------


def test_sums_tie_and_widths_group() -> None:
    net = with_head(
        conv("a", INPUT, 8), conv("b", 0, 8), conv("c", 1, 8), conv("d", slot(0, 2), 6), conv("e", 3, 8),
        conv("f", 4, 5),
    )  # fmt: skip
    assert groups_of(net) == [{"a", "b", "c", "e"}, {"d"}, {"f"}]
    assert groups_of(net, "dependency") == [{"a", "c"}, {"b"}, {"d"}, {"e"}, {"f"}]


def test_what_is_tied_to_the_input_or_the_output_is_frozen() -> None:
    layers = (
        conv("a", INPUT, 3), Layer("r", "relu", (slot(INPUT, 0),)), conv("b", 1, 3), conv("c", 2, 4),
        Layer("shuffle", "channel_shuffle", (slot(3),), attrs={"groups": 2}),
    )  # fmt: skip
    net = Architecture(layers, (3, 4, 4), slot(4))
    assert groups_of(net) == [{"b"}]
    frozen = {i for segment in trace_channels(net).segments if segment.frozen for i in segment.positions}
    assert {net.layers[i].name for i in frozen} == {"a", "c"}


def test_depthwise_convolutions_follow() -> None:
    net = with_head(
        conv("a", INPUT, 6), conv("depthwise", 0, 12, groups=6), conv("b", 1, 4),
    )  # fmt: skip
    assert groups_of(net) == [{"a"}, {"b"}]
    space = SearchSpace(net)
    small = shrink(net, space.groups[0].keep(0.5))
    assert [layer.channels for layer in small.layers[:3]] == [3, 6, 4] and small.layers[1]["groups"] == 3


def test_a_depthwise_convolution_summed_with_an_ordinary_one() -> None:
    """Each of a's channels becomes two; the sum ties each pair of b's channels to one of a's."""
    net = with_head(
        conv("a", INPUT, 3), conv("depthwise", 0, 6, groups=3), conv("b", 0, 6), Layer("r", "relu", (slot(1, 2),))
    )
    [group] = SearchSpace(net).groups
    kept = {net.layers[i].name: positions.tolist() for i, positions in group.keep(0.4).items()}
    assert kept == {"a": [0], "b": [0, 1]}
    assert shrink(net, group.keep(0.4)).shapes[3] == (2, 4, 4)


def test_a_concat_and_what_is_summed_with_it_are_one_family() -> None:
    """12 = 8 + 4: at a third, 8 of 12 stay, 5 of the 8, and the other 3 of the 4."""
    net = with_head(
        conv("a", INPUT, 8), conv("b", INPUT, 4), Layer("cat", "concat", (slot(0), slot(1))), conv("c", 2, 12),
        Layer("r", "relu", (slot(2, 3),)),
    )  # fmt: skip
    [group] = SearchSpace(net).groups
    assert group.name == "12 (a)"
    kept = {net.layers[i].name: positions.tolist() for i, positions in group.keep(1 / 3).items()}
    assert kept == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2], "c": [0, 1, 2, 3, 4, 8, 9, 10]}
    assert shrink(net, group.keep(1 / 3)).shapes[2] == (8, 4, 4)
    tiny = group.keep(0.99)
    assert {net.layers[i].name: positions.tolist() for i, positions in tiny.items()} == {
        "a": [0],
        "b": [0],
        "c": [0, 8],
    }


def test_a_flatten_that_is_summed_with_features() -> None:
    """Each channel's 4 pixels become 4 features, which are tied to as many of the linear layer's."""
    layers = (
        conv("a", INPUT, 3), Layer("flatten", "flatten", (slot(0),)), Layer("hidden", "linear", (slot(1),), 12),
        Layer("sum", "relu", (slot(1, 2),)), Layer("linear", "linear", (slot(3),), 10),
    )  # fmt: skip
    net = Architecture(layers, (3, 2, 2), slot(4))
    [group] = SearchSpace(net).groups
    kept = {net.layers[i].name: positions.tolist() for i, positions in group.keep(0.5).items()}
    assert kept == {"a": [0], "hidden": [0, 1, 2, 3]}
    assert shrink(net, group.keep(0.3)).shapes[3] == (8,)


def test_a_shuffle_permutes_the_channels() -> None:
    shuffle = Layer("shuffle", "channel_shuffle", (slot(0),), attrs={"groups": 2})
    flow = trace_channels(with_head(conv("a", INPUT, 6), shuffle))
    first = flow.out_atoms[0]
    assert flow.out_atoms[1].tolist() == first[[0, 3, 1, 4, 2, 5]].tolist()


def test_a_bottleneck_counts_as_its_block() -> None:
    """The middle of a block has the block's ratio; so has a plain layer of the block's width, but not one of the
    middle's."""
    net = with_head(
        conv("stem", INPUT, 16), conv("middle", 0, 4), conv("end", 1, 16), conv("plain", slot(0, 2), 16),
        conv("narrow", 3, 4),
    )  # fmt: skip
    assert groups_of(net) == [{"stem", "middle", "end", "plain"}, {"narrow"}]
    assert groups_of(net, "dependency") == [{"stem", "end"}, {"middle"}, {"plain"}, {"narrow"}]
    space = SearchSpace(net)
    assert [group.name for group in space.groups] == ["16 (stem)", "4 (narrow)"]
    assert counts(space, space.groups[0], 0.5) == {"stem": 8, "middle": 2, "end": 8, "plain": 8}


def test_a_branch_beside_the_input_is_no_block() -> None:
    """The concat has the input's channels too: its width is nobody's to shrink by."""
    net = with_head(conv("middle", INPUT, 4), conv("end", 0, 8), Layer("cat", "concat", (slot(INPUT), slot(1))))
    assert groups_of(net) == [{"middle"}, {"end"}]


def test_the_middle_of_a_frozen_block_counts_for_itself() -> None:
    net = Architecture((conv("middle", INPUT, 4), conv("end", 0, 3)), (3, 4, 4), slot(INPUT, 1))
    assert groups_of(net) == [{"middle"}]
    assert SearchSpace(net).groups[0].name == "4 (middle)"


def test_groups_must_divide_what_they_produce_and_read() -> None:
    net = with_head(
        conv("a", INPUT, 12), conv("b", 0, 24, groups=4), Layer("r", "relu", (slot(1),)),
        Layer("shuffle", "channel_shuffle", (slot(2),), attrs={"groups": 3}), conv("c", 3, 8),
    )  # fmt: skip
    assert [(group.name, group.multiple) for group in SearchSpace(net).groups] == [
        ("12 (a)", 4),
        ("24 (b)", 12),
        ("8 (c)", 1),
    ]


def test_channels_that_no_rounding_divides_into_groups_are_frozen() -> None:
    """A concat of 2 and 4 channels is read in 3 groups: neither part can be rounded to a multiple of 3."""
    cat = Layer("cat", "concat", (slot(0), slot(1)))
    shuffle = Layer("shuffle", "channel_shuffle", (slot(2),), attrs={"groups": 3})
    assert groups_of(with_head(conv("a", INPUT, 2), conv("b", INPUT, 4), cat, shuffle, conv("c", 3, 5))) == [{"c"}]
    fine = with_head(conv("a", INPUT, 3), conv("b", INPUT, 9), cat, shuffle, conv("c", 3, 5))
    assert groups_of(fine) == [{"a"}, {"b"}, {"c"}]


def test_channels_that_are_summed_with_a_shuffle_are_frozen() -> None:
    """Of fewer channels a shuffle makes another order, so that the sum would join others than the teacher's."""
    shuffle = Layer("shuffle", "channel_shuffle", (slot(0),), attrs={"groups": 2})
    summed = with_head(conv("a", INPUT, 4), shuffle, Layer("r", "relu", (slot(1),)), conv("b", slot(0, 2), 6))
    assert groups_of(summed) == [{"b"}]
    apart = with_head(conv("a", INPUT, 4), shuffle, Layer("r", "relu", (slot(1),)), conv("b", slot(2), 6))
    assert groups_of(apart) == [{"a"}, {"b"}]
    filtered = with_head(conv("a", INPUT, 4), shuffle, conv("again", 1, 4), conv("b", slot(0, 2), 6))
    assert groups_of(filtered) == [{"a", "again"}, {"b"}]
    depthwise = with_head(conv("a", INPUT, 4), shuffle, conv("again", 1, 4, groups=4), conv("b", slot(0, 2), 6))
    assert groups_of(depthwise) == [{"b"}]


# -- products, selections, zeros, norms, opaque code -------------------------------------------------------------------


def gate(source: int, first: int, width: int) -> list[Layer]:
    """Squeeze and excitation of a layer, as the layers `first` to `first` + 3."""
    return [
        Layer(f"pool{first}", "adaptive_avg_pool", (slot(source),), attrs={"output_size": 1}),
        conv(f"squeeze{first}", first, 2),
        conv(f"excite{first}", first + 1, width),
        Layer(f"gated{first}", "multiply", (slot(first + 2), slot(source))),
    ]


def test_a_gate_is_tied_to_what_it_gates() -> None:
    net = with_head(conv("a", INPUT, 8), *gate(0, 1, 8), conv("b", 4, 6))
    assert groups_of(net, "dependency") == [{"a", "excite1"}, {"squeeze1"}, {"b"}]
    [group, *_] = SearchSpace(net, grouping="dependency").groups
    small = shrink(net, group.keep(0.5))
    assert [small.layers[i].channels for i in (0, 2, 3, 5)] == [4, 2, 4, 6]
    assert small.in_shapes[4] == ((4, 1, 1), (4, 4, 4))


def test_one_map_for_all_channels_is_tied_to_nothing() -> None:
    """Of 1×4×4; nor is a sum with it, nor with one number an image."""
    net = with_head(
        conv("a", INPUT, 8), conv("map", 0, 1), Layer("product", "multiply", (slot(1), slot(0))),
        conv("one", 0, 1, kernel_size=4), Layer("sum", "add", (slot(2), slot(3))), conv("b", 4, 6),
    )  # fmt: skip
    assert groups_of(net, "dependency") == [{"a"}, {"map"}, {"one"}, {"b"}]
    [group, *_] = SearchSpace(net, grouping="dependency").groups
    assert shrink(net, group.keep(0.9)).shapes[4] == (1, 4, 4)  # one channel is left, and shapes still fit


def test_maps_joined_with_the_input_are_frozen() -> None:
    net = with_head(conv("a", INPUT, 3), Layer("product", "multiply", (slot(INPUT), slot(0))), conv("b", 1, 6))
    assert groups_of(net) == [{"b"}]
    beside = with_head(conv("a", INPUT, 1), Layer("product", "multiply", (slot(INPUT), slot(0))), conv("b", 1, 6))
    assert groups_of(beside) == [{"a"}, {"b"}]
    assert shrink(beside, {0: np.array([0]), 2: np.array([1])}).shapes[1] == (3, 4, 4)


def halves(*runs: list[tuple[int, int]]) -> Architecture:
    """A convolution of 8 channels, selections of it, and a convolution after each."""
    layers = [conv("a", INPUT, 8)]
    layers += [Layer(f"select{n}", "select", (slot(0),), attrs={"runs": run}) for n, run in enumerate(runs)]
    layers += [conv(f"b{n}", n + 1, 4) for n in range(len(runs))]
    return with_head(*layers, Layer("cat", "concat", tuple(slot(len(runs) + 1 + n) for n in range(len(runs)))))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99])
def test_what_different_selections_pick_never_goes_entirely(ratio: float) -> None:
    net = halves([(0, 2)], [(2, 5)], [(4, 8)])
    flow = trace_channels(net)
    [cut] = [family for family in range(len(flow.multiples)) if flow.family_width(family) == 8]
    parts = sorted(s.positions[0].tolist() for s in flow.segments if s.family == cut)
    assert parts == [[0, 1], [2, 3], [4], [5, 6, 7]]
    group = next(g for g in SearchSpace(net, grouping="dependency").groups if 0 in g.keep(0.5))
    kept = set(group.keep(ratio)[0].tolist())
    assert all(kept & set(part) for part in parts)
    small = shrink(net, group.keep(ratio))
    for n, picked in enumerate(({0, 1}, {2, 3, 4}, {4, 5, 6, 7})):
        left = sorted(kept)
        runs = small.layers[1 + n]["runs"]
        assert [left[p] for start, stop in runs for p in range(start, stop)] == sorted(picked & kept)


def test_a_permutation_is_followed_exactly() -> None:
    """A shuffle written as a selection ties channels to the right ones, and freezes nothing."""
    order = Layer("shuffle", "select", (slot(0),), attrs={"runs": [(n, n + 1) for n in (0, 3, 1, 4, 2, 5)]})
    net = with_head(conv("a", INPUT, 6), order, conv("b", INPUT, 6), Layer("r", "relu", (slot(1, 2),)))
    [group] = SearchSpace(net, grouping="dependency").groups
    kept = {net.layers[i].name: positions.tolist() for i, positions in group.keep(0.5).items()}
    assert sorted(np.array([0, 3, 1, 4, 2, 5])[kept["b"]].tolist()) == kept["a"] and len(kept["a"]) == 3
    assert shrink(net, group.keep(0.5)).shapes[3] == (3, 4, 4)


def test_features_that_selections_pick_unequally_are_not_one_segment() -> None:
    """Of the 4 pixels of each of 3 channels one selection picks 4, 2 and 0, the other 2, 4 and 0."""
    layers = (
        conv("a", INPUT, 3), Layer("flatten", "flatten", (slot(0),)),
        Layer("s1", "select", (slot(1),), attrs={"runs": [(0, 6)]}),
        Layer("s2", "select", (slot(1),), attrs={"runs": [(2, 8)]}), Layer("r", "relu", (slot(3),)),
        Layer("cat", "concat", (slot(2), slot(4))), Layer("linear", "linear", (slot(5),), 10),
    )  # fmt: skip
    net = Architecture(layers, (3, 2, 2), slot(6))
    assert sorted(s.positions[0].tolist() for s in trace_channels(net).segments if 0 in s.positions) == [[0], [1], [2]]
    assert (2, 4) not in SearchSpace(net, grouping="dependency").connectable


def test_zeros_shrink_with_what_they_are_summed_with() -> None:
    """A shortcut that is padded with zeros: 4 channels of the stem and 4 of zeros beside 8 of a branch."""
    net = with_head(
        conv("stem", INPUT, 4), Layer("zeros", "zeros", (slot(0),), 4), Layer("cat", "concat", (slot(0), slot(1))),
        conv("branch", 0, 8), Layer("r", "relu", (slot(2, 3),)), conv("b", 4, 5),
    )  # fmt: skip
    assert groups_of(net, "dependency") == [{"stem", "zeros", "branch"}, {"b"}]
    [group, _] = SearchSpace(net, grouping="dependency").groups
    kept = {net.layers[i].name: positions.tolist() for i, positions in group.keep(0.5).items()}
    assert kept == {"stem": [0, 1], "zeros": [0, 1], "branch": [0, 1, 4, 5]}
    small = shrink(net, group.keep(0.5))
    assert small.layers[1].channels == 2 and small.shapes[4] == (4, 4, 4)


def test_zeros_ask_their_input_for_its_size_only() -> None:
    """Of what they read, the channels are free."""
    net = with_head(
        conv("a", INPUT, 6), Layer("zeros", "zeros", (slot(0),), 2), conv("b", 0, 3),
        Layer("cat", "concat", (slot(2), slot(1))),
    )  # fmt: skip
    assert groups_of(net, "dependency") == [{"a"}, {"zeros"}, {"b"}]
    small = shrink(net, {0: np.array([5])})
    assert small.layers[1].kept_in is None and small.shapes[3] == (5, 4, 4)


def test_a_group_norm_has_its_groups() -> None:
    norm = Layer("norm", "group_norm", (slot(0),), attrs={"groups": 4})
    space = SearchSpace(with_head(conv("a", INPUT, 12), norm, conv("b", 1, 6)), grouping="dependency")
    assert [(group.name, group.multiple) for group in space.groups] == [("12 (a)", 4), ("6 (b)", 1)]
    assert shrink(space.teacher, space.groups[0].keep(0.9)).shapes[1] == (4, 4, 4)
    after = Layer("norm", "group_norm", (slot(2),), attrs={"groups": 3})
    cat = Layer("cat", "concat", (slot(0), slot(1)))
    assert groups_of(with_head(conv("a", INPUT, 2), conv("b", INPUT, 4), cat, after, conv("c", 3, 5))) == [{"c"}]


@pytest.mark.parametrize("kind", ["layer_norm", "prelu", "scale", "instance_norm", "pad", "upsample", "affine"])
def test_what_works_channel_by_channel_passes_them_on(kind: str) -> None:
    attrs: dict[str, Any] = {"pad": {"sizes": (1, 0, 0, 1)}, "upsample": {"size": 6}}.get(kind, {})
    net = with_head(conv("a", INPUT, 6), Layer("it", kind, (slot(0),), attrs=attrs), conv("b", 1, 4))
    flow = trace_channels(net)
    assert np.array_equal(flow.out_atoms[0], flow.out_atoms[1])
    assert groups_of(net, "dependency") == [{"a"}, {"b"}]


def test_opaque_code_freezes_what_it_reads_and_puts_out() -> None:
    attrs = {"what": "roll", "inputs": [(6, 4, 4), (5, 4, 4)], "output": (6, 4, 4)}
    net = with_head(
        conv("a", INPUT, 6), conv("b", INPUT, 5), conv("free", 0, 4), conv("c", 2, 6),
        Layer("mix", "opaque", (slot(3), slot(1)), attrs=attrs), conv("d", slot(0, 4), 7),
    )  # fmt: skip
    assert groups_of(net, "dependency") == [{"free"}, {"d"}]
    frozen = {i for segment in trace_channels(net).segments if segment.frozen for i in segment.positions}
    assert {net.layers[i].name for i in frozen} >= {"a", "b", "c"}
    with pytest.raises(ArchitectureError, match="layer 'mix' is opaque: the channels that it reads cannot be shrunk"):
        shrink(net, {1: np.arange(4)})
    assert shrink(net, {2: np.arange(2), 5: np.arange(3)}).shapes[4] == (6, 4, 4)


def test_a_segment() -> None:
    segment = Segment({3: np.arange(10, 14), 5: np.array([0, 1, 2, 3, 4, 5, 6, 7])}, 0, 2, 6, False)
    assert segment.width == 4
    first = segment.first(3)
    assert (first[3].tolist(), first[5].tolist()) == ([10, 11, 12], [0, 1, 2, 3, 4, 5])  # two channels each in layer 5


def test_there_may_be_nothing_to_shrink() -> None:
    net = Architecture((Layer("r", "relu", (slot(INPUT),)),), (3, 4, 4), slot(0))
    assert SearchSpace(net).groups == ()


# -- random graphs -----------------------------------------------------------------------------------------------------


@given(architectures(), st.sampled_from(["dimension", "dependency"]))
@settings(max_examples=150)
def test_segments_partition_the_filters(net: Architecture, grouping: str) -> None:
    flow = trace_channels(net)
    seen: dict[int, list[int]] = {}
    for segment in flow.segments:
        assert 0 <= segment.lower < segment.upper
        for index, positions in segment.positions.items():
            seen.setdefault(index, []).extend(positions.tolist())
            assert len(positions) % segment.width == 0
    for index, positions in seen.items():
        assert sorted(positions) == list(range(net.layers[index].channels))
    for family in range(len(flow.multiples)):
        parts = sorted((s.lower, s.upper) for s in flow.segments if s.family == family)
        assert [p[0] for p in parts] == [0, *(p[1] for p in parts[:-1])]  # side by side
        assert flow.family_width(family) == parts[-1][1]
    space = SearchSpace(net, grouping=grouping)
    families = [{segment.family for segment in group.segments} for group in space.groups]
    assert sum(map(len, families)) == len(set().union(*families)) == len(flow.multiples) - len(flow.fixed)


@given(architectures(), st.floats(0, 0.999), st.sampled_from(["dimension", "dependency"]))
@settings(max_examples=250)
def test_every_group_shrinks_by_itself_at_any_ratio(net: Architecture, ratio: float, grouping: str) -> None:
    before = net.num_params
    for group in SearchSpace(net, grouping=grouping).groups:
        small = shrink(net, group.keep(ratio))
        assert small.num_params <= before
        assert small.output_shape == net.output_shape


def test_a_concat_of_one_map_encloses_nothing() -> None:
    """Its map is its own family's: following what encloses it must end."""
    conv = Layer("conv", "conv", (slot(INPUT),), channels=6, attrs={"kernel_size": 3, "padding": 1})
    rest = [
        Layer("cat", "concat", (slot(0),)),
        Layer("flat", "flatten", (slot(1),)),
        Layer("fc", "linear", (slot(2),), 3),
    ]
    architecture = Architecture((conv, *rest), (1, 4, 4), slot(3))
    assert trace_channels(architecture).enclosing == {}
    assert [group.name for group in SearchSpace(architecture).groups] == ["6 (conv)"]
