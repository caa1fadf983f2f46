"""The search space: the paper's counts, sampling, the one form of decisions, and the way back from architectures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from graphs import architectures
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import SpaceError
from esnac_lib.seeding import make_rng
from esnac_lib.space.channel_dependencies import kept_count
from esnac_lib.space.channel_groups import MAX_RATIO_IN_GROUPS
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.space.operators.skip import add_skips, sources
from esnac_lib.space.registry import OPERATORS
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import TEACHERS

REMOVAL_RATES, SKIP_RATES = (OPERATORS[name].rates["paper"] for name in ("remove", "skip"))


@cache
def architecture_of(name: str) -> Architecture:
    with torch.random.fork_rng(devices=[]):
        return trace(TEACHERS[name].build(10, 3, 32), torch.rand(1, 3, 32, 32))[0]


@cache
def space_of(name: str, operators: tuple[str, ...] = OPERATORS, grouping: str = "dimension") -> SearchSpace:
    return SearchSpace(architecture_of(name), operators, grouping)


def conv(name: str, source: int, channels: int = 4, **attrs: Any) -> Layer:
    return Layer(name, "conv", (slot(source),), channels, {"kernel_size": 1, "bias": False} | attrs)


def relu(name: str, *sources: int) -> Layer:
    return Layer(name, "relu", (slot(*sources),))


def residual() -> SearchSpace:
    """stem -> block of conv and relu with a ReLU after the sum -> two more ReLUs -> head."""
    layers = (
        conv("stem", INPUT, 8), conv("main", 0, 8), relu("inner", 1), relu("end", 0, 2), relu("p", 3), relu("q", 4),
        Layer("flatten", "flatten", (slot(5),)), Layer("linear", "linear", (slot(6),), 10),
    )  # fmt: skip
    return SearchSpace(Architecture(layers, (3, 4, 4), slot(7)))


STEM, MAIN, INNER, END, P, Q = range(6)


def decide(
    space: SearchSpace, removed: tuple[int, ...] = (), skips: tuple[tuple[int, int], ...] = (), ratio: float = 0.0
) -> Decisions:
    return Decisions(frozenset(removed), (ratio,) * len(space.groups), frozenset(skips))


# -- counts of the paper -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "without", "with_skips"), [("resnet18", 64, 529), ("resnet34", 112, 1717)])
def test_decisions_as_the_paper_counts_them(name: str, without: int, with_skips: int) -> None:
    """ESNAC §6.4."""
    assert space_of(name, ("remove", "shrink")).num_decisions == without
    assert space_of(name).num_decisions == with_skips
    layers = len(architecture_of(name).layers)
    assert space_of(name, ("remove",)).num_decisions == layers
    assert space_of(name, ("shrink",)).num_decisions == 4
    assert len(space_of(name).connectable) == with_skips - without


def test_connectable_pairs_against_two_loops() -> None:
    """A ResNet's maps have different sizes in different stages, so that equal shapes are all there is to it."""
    space = space_of("resnet18")
    net = space.teacher
    pairs = [
        (i, j)
        for i in range(len(net.layers))
        for j in range(i + 1, len(net.layers))
        if len(net.layers[j].inputs) == 1 and net.shapes[i] == net.in_shapes[j][0]
    ]
    assert list(space.connectable) == pairs
    assert set(net.edges()) <= set(pairs)


def test_only_layers_that_are_alike_at_every_ratio_are_removable() -> None:
    """8 to 8 channels, but one of them in the group of the block and the other by chance."""
    layers = (
        conv("stem", INPUT, 16), conv("middle", 0, 8), Layer("end", "conv", (slot(1),), 16, {"kernel_size": 1}),
        conv("eight", 0, 8), conv("same", 3, 8), Layer("cat", "concat", (slot(4), slot(0, 2))),
        Layer("flatten", "flatten", (slot(5),)), Layer("linear", "linear", (slot(6),), 10),
    )  # fmt: skip
    space = SearchSpace(Architecture(layers, (3, 4, 4), slot(7)))
    assert [group.name for group in space.groups] == ["16 (stem)", "8 (eight)"]
    assert [layers[i].name for i in space.removable] == ["same"]
    assert (1, 4) not in space.connectable and (3, 4) in space.connectable  # the block's middle is another 8


def test_a_family_of_parts_is_not_alike_to_one_of_the_same_width() -> None:
    """Of 2 + 2 channels at least 1 + 1 stay, of 4 at least 1: so the last convolution cannot be removed."""
    layers = (
        conv("a", INPUT, 2), conv("b", INPUT, 2), Layer("cat", "concat", (slot(0), slot(1))), conv("c", 2, 4),
        relu("sum", 2, 3), conv("d", 4, 4), conv("e", 5, 4), Layer("flatten", "flatten", (slot(6),)),
        Layer("linear", "linear", (slot(7),), 10),
    )  # fmt: skip
    space = SearchSpace(Architecture(layers, (3, 4, 4), slot(8)))
    assert len(space.groups) == 1 and [layers[i].name for i in space.removable] == ["c", "sum", "e"]
    student = space.apply(Decisions(frozenset(space.removable), (0.9,), frozenset(space.connectable)))
    assert student.shapes[student.index("cat")] == (2, 4, 4) and student.shapes[student.index("d")] == (1, 4, 4)


def test_the_second_part_of_a_family_is_not_alike_to_the_first() -> None:
    """Of 3 + 3 channels half is 1 + 2."""
    layers = (
        conv("a", INPUT, 3), conv("b", 0, 3), Layer("cat", "concat", (slot(0), slot(1))), conv("c", 2, 6),
        relu("sum", 2, 3), Layer("flatten", "flatten", (slot(4),)), Layer("linear", "linear", (slot(5),), 10),
    )  # fmt: skip
    space = SearchSpace(Architecture(layers, (3, 4, 4), slot(6)))
    assert [layers[i].name for i in space.removable] == ["c", "sum"]
    assert [shape[0] for shape in space.apply(Decisions(frozenset(), (0.5,), frozenset())).shapes[:4]] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("operators", "grouping", "text"),
    [
        ((), "dimension", "allowed are one or more of remove, shrink, skip"),
        (("remove", "grow"), "dimension", "'grow'"),
        (("remove",), "width", "grouping = 'width': allowed are dimension and dependency"),
    ],
)
def test_unknown_operators_and_groupings_are_refused(operators: tuple[str, ...], grouping: str, text: str) -> None:
    with pytest.raises(SpaceError, match=text) as caught:
        SearchSpace(residual().teacher, operators, grouping)
    assert "\n" not in str(caught.value)


def test_operators_have_one_order() -> None:
    assert SearchSpace(residual().teacher, ["skip", "remove"]).operators == ("remove", "skip")
    assert repr(residual()) == (
        "SearchSpace(31 decisions: 5 of 8 layers removable, 1 channel groups, 22 pairs connectable)"
    )


# -- one form of decisions ---------------------------------------------------------------------------------------------


def test_a_removal_of_a_layer_that_must_stay_is_dropped() -> None:
    space = residual()
    assert space.normalise(decide(space, removed=(STEM, INNER, 6, 7, 99))) == decide(space, removed=(INNER,))


def test_a_skip_into_a_removed_layer_is_dropped() -> None:
    space = residual()
    assert space.normalise(decide(space, (P,), ((STEM, P), (MAIN, Q)))) == decide(space, (P,), ((MAIN, Q),))


def test_a_skip_out_of_a_removed_layer_starts_at_its_inputs() -> None:
    space = residual()
    assert space.normalise(decide(space, (INNER,), ((INNER, Q),))) == decide(space, (INNER,), ((MAIN, Q),))
    # of a removed sum there are two inputs; of a removed chain the inputs of its first layer
    assert space.normalise(decide(space, (END,), ((END, Q),))) == decide(space, (END,), ((STEM, Q), (INNER, Q)))
    both = decide(space, (MAIN, INNER), ((INNER, Q), (MAIN, P)))
    assert space.normalise(both) == decide(space, (MAIN, INNER), ((STEM, Q), (STEM, P)))


def test_a_skip_where_there_is_an_edge_anyway_is_dropped() -> None:
    space = residual()
    assert space.normalise(decide(space, (), ((STEM, MAIN), (INNER, END), (STEM, END)))) == space.nothing
    # with p removed, q reads end; without end too, q reads what end read
    assert space.normalise(decide(space, (P,), ((END, Q),))) == decide(space, (P,))
    assert space.normalise(decide(space, (END, P), ((STEM, Q), (P, Q), (MAIN, Q)))) == decide(
        space, (END, P), ((MAIN, Q),)
    )
    assert space.apply(decide(space, (END, P), ((STEM, Q),))) == space.apply(decide(space, (END, P)))


def test_a_skip_may_come_to_start_at_the_networks_input() -> None:
    """If the first layers are removed; such a skip is known, also when it is normalised again."""
    layers = (
        relu("a", INPUT), relu("b", 0), relu("c", 1), relu("d", 2), Layer("flatten", "flatten", (slot(3),)),
        Layer("linear", "linear", (slot(4),), 10),
    )  # fmt: skip
    space = SearchSpace(Architecture(layers, (3, 4, 4), slot(5)))
    decisions = space.normalise(decide(space, (0,), ((0, 2),)))
    assert decisions == decide(space, (0,), ((INPUT, 2),)) == space.normalise(decisions)
    student = space.apply(decisions)
    assert student.layers[1].inputs == (slot(INPUT, 0),)
    assert space.decisions_of(student) == decisions


def test_what_an_operator_did_not_decide_is_dropped() -> None:
    teacher = residual().teacher
    full = decide(residual(), (INNER,), ((STEM, P),), 0.5)
    assert SearchSpace(teacher, ("remove",)).normalise(full) == decide(residual(), (INNER,))
    assert SearchSpace(teacher, ("shrink",)).normalise(full) == decide(residual(), ratio=0.5)
    assert SearchSpace(teacher, ("skip",)).normalise(full) == decide(residual(), (), ((STEM, P),))


@pytest.mark.parametrize(
    ("decisions", "text"),
    [
        (Decisions(frozenset(), (), frozenset()), "this space has 1 groups, each in"),
        (Decisions(frozenset(), (0.1, 0.1), frozenset()), "this space has 1 groups"),
        (Decisions(frozenset(), (1.0,), frozenset()), r"\(1.0,\)"),
        (Decisions(frozenset(), (-0.1,), frozenset()), r"\(-0.1,\)"),
        (Decisions(frozenset(), (float("nan"),), frozenset()), "nan"),
        (Decisions(frozenset(), (0.0,), frozenset({(INPUT, MAIN)})), r"a skip \(-1, 1\) does not join equal shapes"),
        (Decisions(frozenset(), (0.0,), frozenset({(Q, P)})), r"a skip \(5, 4\)"),
        (Decisions(frozenset(), (0.0,), frozenset({(STEM, 7)})), r"a skip \(0, 7\)"),
        (Decisions(frozenset(), (0.0,), frozenset({(STEM, 80)})), r"a skip \(0, 80\)"),
    ],
)
def test_decisions_of_another_space_are_refused(decisions: Decisions, text: str) -> None:
    space = residual()
    for act in (space.normalise, space.apply):
        with pytest.raises(SpaceError, match=text) as caught:
            act(decisions)
        assert "\n" not in str(caught.value)


def test_json_of_decisions() -> None:
    decisions = Decisions(frozenset({7, 3}), (0.1, 1 / 3, 0.0), frozenset({(INPUT, 5), (2, 4)}))
    assert (
        decisions.to_json()
        == '{"removed": [3, 7], "ratios": [0.1, 0.3333333333333333, 0.0], "skips": [[-1, 5], [2, 4]]}'
    )
    assert Decisions.from_json(decisions.to_json()) == decisions
    space = space_of("shufflenet")
    for k in range(20):
        drawn = space.sample(make_rng(0, "json", k))
        assert Decisions.from_json(drawn.to_json()) == drawn


@pytest.mark.parametrize("text", [
    "", "[]", "{}", "null", "7", '{"removed": [], "ratios"', '{"removed": 1, "ratios": [], "skips": []}',
    '{"removed": [], "ratios": ["x"], "skips": []}', '{"removed": [], "ratios": [], "skips": [[1]]}',
    '{"removed": [], "ratios": [], "skips": [1]}',
])  # fmt: skip
def test_damaged_json_of_decisions_is_refused(text: str) -> None:
    with pytest.raises(SpaceError, match="not decisions in JSON") as caught:
        Decisions.from_json(text)
    assert "\n" not in str(caught.value)


# -- applying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg19", "resnet18", "resnet34", "shufflenet", "conv7", "conv10", "cnn4"])
def test_doing_nothing_gives_the_teacher(name: str) -> None:
    space = space_of(name)
    assert space.apply(space.nothing) == space.teacher
    assert space.decisions_of(space.teacher) == space.nothing


def test_apply_by_hand() -> None:
    space = residual()
    student = space.apply(decide(space, (INNER, P), ((MAIN, Q), (STEM, Q)), 0.5))
    assert [layer.name for layer in student.layers] == ["stem", "main", "end", "q", "flatten", "linear"]
    assert [layer.inputs for layer in student.layers[:4]] == [
        (slot(INPUT),),
        (slot(0),),
        (slot(0, 1),),
        (slot(0, 1, 2),),
    ]
    assert [layer.channels for layer in student.layers] == [4, 4, 0, 0, 0, 10]
    assert student.num_params == 4 * 3 + 4 * 4 + 64 * 10 + 10
    assert student.macs == 16 * (4 * 3 + 4 * 4) + 640
    emptied = space.apply(decide(space, (MAIN, INNER, END)))
    assert emptied.layers[1].inputs == (slot(0, 0),)


def test_the_same_student_by_other_decisions_has_the_same_id() -> None:
    """Of two equal ReLUs in a row it does not matter which is removed."""
    space = residual()
    one, other = space.apply(decide(space, (P,))), space.apply(decide(space, (Q,)))
    assert one.arch_id == other.arch_id and one != other
    assert space.decisions_of(one) == decide(space, (P,)) and space.decisions_of(other) == decide(space, (Q,))


def test_applying_is_shrinking_removing_and_adding() -> None:
    space = space_of("resnet18")
    decisions = space.sample(make_rng(3, "apply"))
    keep = {i: p for g, r in zip(space.groups, decisions.ratios, strict=True) for i, p in g.keep(r).items()}
    student = space.apply(decisions)
    shrunk = shrink(space.teacher, keep)
    for layer in student.layers:
        source = shrunk.layers[shrunk.index(layer.name)]
        assert (layer.channels, layer.attrs) == (source.channels, source.attrs)
    assert len(student.layers) == len(shrunk.layers) - len(decisions.removed)


# -- sampling ----------------------------------------------------------------------------------------------------------


class Recorder:
    """A generator that notes what is drawn."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.choices, self.drawn = rng, [], []

    def choice(self, options: Any) -> Any:
        self.choices.append((tuple(options), float(self.rng.choice(options))))
        return self.choices[-1][1]

    def random(self, size: int | None = None) -> Any:
        self.drawn.append(self.rng.random(size))
        return self.drawn[-1]


@pytest.mark.parametrize("name", ["resnet18", "shufflenet"])
def test_samples_are_what_was_drawn(name: str) -> None:
    """SPEC §1: one removal and one skip probability a network, a uniform ratio a group (ShuffleNet: at most 0.9)."""
    space = space_of(name)
    top = 0.9 if name == "shufflenet" else 1.0
    seen: Counter[tuple[tuple[float, ...], float]] = Counter()
    for k in range(40):
        recorder = Recorder(make_rng(0, "recorded", k))
        decisions = space.sample(recorder)  # type: ignore[arg-type]
        (p_remove, p_skip), (removals, skips, ratios) = recorder.choices, recorder.drawn
        seen.update((p_remove, p_skip))
        assert decisions.removed == {i for i, u in zip(space.removable, removals, strict=True) if u < p_remove[1]}
        assert decisions.ratios == tuple(float(u) * top for u in ratios)
        wanted = {pair for pair, u in zip(space.connectable, skips, strict=True) if u < p_skip[1]}
        assert decisions == space.normalise(replace(decisions, skips=frozenset(wanted)))
    assert seen.keys() == {(p, v) for p in (REMOVAL_RATES, SKIP_RATES) for v in p}
    assert REMOVAL_RATES == (0.3, 0.4, 0.5, 0.6, 0.7) and SKIP_RATES == (0.003, 0.005, 0.01, 0.03, 0.05)
    assert MAX_RATIO_IN_GROUPS == 0.9


def test_distribution_of_samples() -> None:
    """500 samples: what is removed, what is left of each width, how many skips are wanted."""
    space = space_of("resnet18")
    samples = [space.sample(make_rng(1, "distribution", k)) for k in range(500)]
    share = np.array([len(d.removed) for d in samples]) / len(space.removable)
    assert abs(share.mean() - 0.5) < 0.03
    assert 0.12 < share.std() < 0.2  # one probability a network: √(0.02 + 0.25/50) = 0.157, not √(0.25/50) = 0.07
    ratios = np.array([d.ratios for d in samples])
    assert ratios.shape == (500, 4) and ratios.min() >= 0 and ratios.max() < 1
    assert np.abs(ratios.mean(0) - 0.5).max() < 0.05 and abs(np.corrcoef(ratios.T)[0, 1]) < 0.15
    for decisions in samples[:50]:
        student = space.apply(decisions)
        for layer in student.layers:
            if layer.kind == "conv":
                width = space.teacher.layers[space.teacher.index(layer.name)].channels
                ratio = decisions.ratios[(64, 128, 256, 512).index(width)]
                assert layer.channels == max(1, floor((1 - ratio) * width))


def test_distribution_of_mild_samples() -> None:
    """Most layers stay, ratios lie around a common centre, and some samples are uniformly narrowed teachers."""
    space = SearchSpace(architecture_of("resnet18"), sampling="mild")
    samples = [space.sample(make_rng(1, "mild", k)) for k in range(500)]
    share = np.array([len(d.removed) for d in samples]) / len(space.removable)
    assert abs(share.mean() - np.mean(OPERATORS["remove"].rates["mild"])) < 0.01 and share.max() < 0.5
    ratios = np.array([d.ratios for d in samples])
    assert ratios.min() >= 0 and ratios.max() < 1 and abs(ratios.mean() - 0.5) < 0.05
    assert np.corrcoef(ratios.T)[0, 1] > 0.8
    exact = [d for d in samples if not d.removed and np.ptp(d.ratios) == 0]
    assert abs(len(exact) / 500 - 1 / 5 * 1 / 4) < 0.04 and len({d.ratios for d in exact}) == len(exact)
    assert all(space.contains(space.apply(decisions)) for decisions in samples[:20])


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(SpaceError, match="sampling = 'wild': allowed are paper and mild"):
        SearchSpace(residual().teacher, sampling="wild")


def test_shufflenets_ratios_and_widths() -> None:
    space = space_of("shufflenet")
    samples = [space.sample(make_rng(2, "shufflenet", k)) for k in range(200)]
    assert 0.85 < max(max(d.ratios) for d in samples) < 0.9
    for decisions in samples[:10]:
        student = space.apply(decisions)
        widths = [layer.channels for layer in student.layers if layer.kind == "conv"]
        assert all(width % 2 == 0 for width in widths)
        stem, *stages = (kept_count(w, r, 2) for w, r in zip((24, 200, 400, 800), decisions.ratios, strict=True))
        assert student.layers[0].channels == stem
        concats = [
            shape[0] for layer, shape in zip(student.layers, student.shapes, strict=True) if layer.kind == "concat"
        ]
        assert concats == stages


def test_a_sample_depends_on_its_generator_alone() -> None:
    space = residual()
    a, b = (space.sample(make_rng(0, "same")) for _ in range(2))
    assert a == b
    assert len({space.sample(make_rng(0, "other", k)) for k in range(20)}) > 15


@pytest.mark.parametrize("operators", [("remove",), ("shrink",), ("skip",), ("remove", "skip"), ("shrink", "skip")])
def test_samples_and_mutants_use_the_operators_only(operators: tuple[str, ...]) -> None:
    space = SearchSpace(architecture_of("resnet18"), operators)
    rng = make_rng(4, "operators")
    used: set[str] = set()
    decisions = space.nothing
    for k in range(60):
        decisions = space.mutate(decisions, rng) if k % 2 else space.sample(rng)
        parts = zip(OPERATORS, (decisions.removed, any(decisions.ratios), decisions.skips), strict=True)
        used |= {name for name, part in parts if part}
    assert used == set(operators)


# -- mutation and crossover --------------------------------------------------------------------------------------------


def test_mutation_can_undo_a_removal_and_a_skip_and_move_a_ratio() -> None:
    space = residual()
    start = space.normalise(decide(space, (INNER,), ((STEM, P),), 0.5))
    seen: Counter[str] = Counter()
    for k in range(300):
        after = space.mutate(start, make_rng(5, "mutate", k))
        seen["undone"] += not after.removed
        seen["removed"] += len(after.removed) > 1
        seen["skip gone"] += not after.skips
        seen["skip added"] += len(after.skips) > 1
        seen["wider"] += after.ratios[0] < 0.5
        seen["narrower"] += after.ratios[0] > 0.5
        seen["same"] += after == start
        differ = len(after.removed ^ start.removed) + (after.ratios != start.ratios) + len(after.skips ^ start.skips)
        seen["one"] += differ == 1
        assert 0 <= after.ratios[0] < 1
    assert all(seen[what] >= 5 for what in ("undone", "removed", "skip gone", "skip added", "wider", "narrower"))
    assert seen["one"] > 90 and seen["same"] < 100


def test_mutation_reaches_every_decision() -> None:
    """A long walk over a small space removes every layer, adds every pair that is no edge, and comes to all widths."""
    space = residual()
    removed: set[int] = set()
    skips: set[tuple[int, int]] = set()
    widths: set[int] = set()
    decisions = space.nothing
    for k in range(1500):
        decisions = space.mutate(decisions, make_rng(6, "walk", k))
        removed |= decisions.removed
        skips |= decisions.skips
        widths.add(space.groups[0].keep(decisions.ratios[0])[STEM].size)
    assert removed == set(space.removable) and widths == set(range(1, 9))
    assert skips == set(space.connectable) - set(space.teacher.edges())


def test_where_nothing_can_be_decided_mutation_changes_nothing() -> None:
    space = SearchSpace(Architecture((), (3, 4, 4), slot(INPUT)))
    assert (space.num_decisions, space.groups, space.removable, space.connectable) == (0, (), (), ())
    assert space.sample(make_rng(0, "a")) == space.mutate(space.nothing, make_rng(0, "b")) == space.nothing
    assert space.apply(space.nothing) == space.teacher and space.contains(space.teacher)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet"])
def test_a_child_takes_from_its_parents_only(name: str) -> None:
    space = space_of(name)
    from_a: list[float] = []
    for k in range(60):
        rng = make_rng(7, "cross", k)
        a, b = space.sample(rng), space.sample(rng)
        child = space.cross(a, b, rng)
        assert a.removed & b.removed <= child.removed <= a.removed | b.removed
        assert all(r in pair for r, *pair in zip(child.ratios, a.ratios, b.ratios, strict=True))
        # a skip is one of a parent's; or one of a parent's starts at a layer that came to be removed
        for i, j in child.skips - (a.skips | b.skips):
            assert any(t == j and i in sources(space.teacher, s, child.removed) for s, t in a.skips | b.skips)
        assert space.normalise(child) == child
        differ = a.removed ^ b.removed
        from_a.append(len(differ & child.removed & a.removed) + len((differ & b.removed) - child.removed))
        from_a[-1] /= len(differ)
    assert 0.4 < np.mean(from_a) < 0.6
    one = space.sample(make_rng(8, "one"))
    assert space.cross(one, one, make_rng(0, "self")) == one


# -- from architectures to decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", ["dimension", "dependency"])
@pytest.mark.parametrize("name", ["resnet18", "shufflenet", "shufflenet_0.5x_g8", "cnn4"])
def test_what_was_applied_is_contained(name: str, grouping: str) -> None:
    space = space_of(name, grouping=grouping)
    for k in range(15):
        decisions = space.sample(make_rng(9, "contains", k))
        student = Architecture.from_json(space.apply(decisions).to_json())
        found = space.decisions_of(student)
        assert found is not None and space.contains(student)
        assert (found.removed, found.skips) == (decisions.removed, decisions.skips)
        assert space.apply(found) == student


def test_foreign_architectures_are_not_contained() -> None:
    space = residual()
    student = space.apply(decide(space, (P,), ((MAIN, Q),), 0.5))
    assert space.contains(student)

    def changed(which: str, **what: Any) -> Architecture:
        layers = tuple(replace(layer, **what) if layer.name == which else layer for layer in student.layers)
        return Architecture(layers, student.input_shape, student.output)

    def wider(extra: int, *names: str) -> Architecture:
        layers = tuple(
            replace(layer, channels=layer.channels + extra) if layer.name in names else layer
            for layer in student.layers
        )
        return Architecture(layers, student.input_shape, student.output)

    place = {layer.name: i for i, layer in enumerate(student.layers)}
    assert space.contains(wider(4, "stem", "main")) and not space.contains(wider(5, "stem", "main"))
    assert not space.contains(wider(1, "linear"))
    assert not space.contains(changed("main", attrs={"kernel_size": 3, "padding": 1, "bias": False}))
    assert not space.contains(changed("q", kind="sigmoid"))
    assert not space.contains(changed("q", origin="another teacher's"))
    assert not space.contains(changed("q", origin="end"))  # two layers of one origin
    assert not space.contains(changed("q", inputs=(slot(place["main"], place["main"], place["end"]),)))
    assert space.contains(changed("q", inputs=(slot(place["main"], place["end"], place["stem"]),)))
    assert not space.contains(changed("end", inputs=(slot(place["inner"]),)))  # an edge less
    skipped = Architecture(student.layers, (4, 4, 4), student.output)
    assert not space.contains(skipped)  # another input
    assert not space.contains(Architecture(student.layers[:4], student.input_shape, slot(3)))  # a layer that must stay
    assert space.contains(changed("q", name="another name", origin="q"))  # its origin tells
    assert not SearchSpace(space.teacher, ("shrink", "skip")).contains(student)
    assert not SearchSpace(space.teacher, ("remove", "skip")).contains(student)
    assert not SearchSpace(space.teacher, ("remove", "shrink")).contains(student)


def test_one_width_that_the_ratio_does_not_give_is_not_contained() -> None:
    """conv and bn of one layer narrower than the others of its group."""
    space = space_of("cnn4")
    student = space.apply(space.nothing)
    keep = {student.index("conv3"): np.arange(20)}
    assert space.contains(shrink(student, keep | {student.index("conv4"): np.arange(20)}))
    assert not space.contains(shrink(student, keep))
    assert space_of("cnn4", grouping="dependency").contains(shrink(student, keep))


def test_an_edge_that_no_skip_makes_is_not_contained() -> None:
    """conv1's output has the shape of bn2's input by width, but not in the space of another ratio."""
    space = space_of("resnet18")
    i, j = space.teacher.index("relu"), space.teacher.index("stages.stage1.1.bn2")
    assert (i, j) in space.connectable and space.contains(add_skips(space.teacher, [(i, j)]))
    own = residual()
    from_input = Architecture(
        (
            conv("stem", INPUT, 3), relu("a", 0), relu("b", 1),
            Layer("flatten", "flatten", (slot(2),)), Layer("linear", "linear", (slot(3),), 2),
        ),
        (3, 4, 4), slot(4),
    )  # fmt: skip
    space = SearchSpace(from_input)
    assert not space.contains(add_skips(from_input, [(INPUT, 1)]))  # the stem could be shrunk, the input cannot
    assert space.contains(add_skips(from_input, [(0, 2)]))
    assert not space.contains(own.teacher)


def test_other_teachers_students_are_not_contained() -> None:
    students = {
        name: space_of(name).apply(space_of(name).sample(make_rng(0, "x")))
        for name in ("resnet18", "resnet34", "vgg19")
    }
    for name in students:
        assert [other for other, student in students.items() if space_of(name).contains(student)] == [name]


@given(architectures(), st.integers(0, 9), st.sampled_from(["dimension", "dependency"]))
@settings(max_examples=200)
def test_random_teachers(teacher: Architecture, seed: int, grouping: str) -> None:
    """Samples, mutants and children of any teacher: valid, not larger, in one form, contained."""
    space, rng = SearchSpace(teacher, grouping=grouping), np.random.default_rng(seed)
    assert space.apply(space.nothing) == teacher
    a, b = space.sample(rng), space.sample(rng)
    for decisions in (a, b, space.mutate(a, rng), space.mutate(space.mutate(b, rng), rng), space.cross(a, b, rng)):
        student = space.apply(decisions)
        assert space.normalise(decisions) == decisions == Decisions.from_json(decisions.to_json())
        assert student.num_params <= teacher.num_params and student.output_shape == teacher.output_shape
        assert space.contains(Architecture.from_json(student.to_json()))


def test_equal_counts_of_other_filters_are_read_back() -> None:
    """A group of two segments keeps 1 + 3 filters at one ratio and 2 + 2 at another: which of them, the layer says."""
    attrs = {"bias": True, "dilation": (1, 1), "groups": 1, "kernel_size": (1, 1), "padding": (0, 0), "stride": (1, 1)}
    teacher = Architecture(
        (
            Layer("conv", "conv", (slot(INPUT),), 12, attrs),
            Layer("first", "select", (slot(0),), 0, {"runs": ((0, 5),)}),
            Layer("flat", "flatten", (slot(1),), 0, {}),
            Layer("last", "linear", (slot(2),), 5, {"bias": True}),
        ),
        (1, 2, 2),
        ((3, 1),),
    )
    space = SearchSpace(teacher)
    assert [len(segment.positions[0]) for segment in space.groups[0].segments] == [5, 7]
    found = set()
    for ratio in np.linspace(0, 0.999, 200):
        decisions = Decisions(frozenset(), (float(ratio),), frozenset())
        student = space.apply(decisions)
        found.add((student.layers[0].channels, student.layers[1]["runs"]))
        assert space.apply(space.decisions_of(student)).arch_id == student.arch_id
    assert {(4, ((0, 1),)), (4, ((0, 2),))} <= found


# -- narrowing without a search ----------------------------------------------------------------------------------------


def test_narrow_is_the_nearest_of_all_ratios() -> None:
    """Slow twin: every ratio at which a width changes (the widths are 32 and 64), and the teacher itself."""
    space = space_of("cnn4")
    sizes = {
        space.apply(decide(space, ratio=min(1 - k / 64 + 1e-6, 1 - 1e-6))).num_params for k in range(65)
    } | {space.teacher.num_params}  # fmt: skip
    for params in (0, 500, 5_000, 20_000, 41_234, space.teacher.num_params - 1, space.teacher.num_params, 10**9):
        decisions = space.narrow(params)
        assert len(set(decisions.ratios)) == 1 and not decisions.removed and not decisions.skips
        found = space.apply(decisions).num_params
        assert abs(found - params) == min(abs(size - params) for size in sizes)
    assert space.narrow(10**9) == space.nothing


@pytest.mark.parametrize("name", ["resnet18", "shufflenet", "conv7"])
def test_narrow_is_monotone_and_near(name: str) -> None:
    space = space_of(name)
    goals = [int(space.teacher.num_params / times) for times in (1, 1.5, 2, 4, 7.63, 16)]
    found = [space.apply(space.narrow(goal)).num_params for goal in goals]
    assert found == sorted(found, reverse=True) and found[0] == goals[0]
    assert all(abs(size - goal) < 0.03 * goal for size, goal in zip(found, goals, strict=True))


def test_without_shrinking_nothing_is_narrowed() -> None:
    with pytest.raises(SpaceError, match=r'make a SearchSpace\(teacher, \("shrink",\)\)') as caught:
        space_of("cnn4", ("remove", "skip")).narrow(1000)
    assert "\n" not in str(caught.value)


def test_a_ratio_that_few_others_equal_is_read_back() -> None:
    """Of 17 widths that one group serves, each rounded by itself, only ratios of a narrow interval keep the same."""
    space = SearchSpace(architecture_of("shufflenet_1.0x_g3"))
    decisions = space.normalise(Decisions(frozenset(), (0.24369704944317375,) * len(space.groups), frozenset()))
    assert space.contains(space.apply(decisions))
