"""Outlines against the architectures that they stand for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from graphs import architectures
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.tracing import trace
from esnac_lib.seeding import make_rng
from esnac_lib.space.candidates import BUILT, Candidate, CandidateMaker
from esnac_lib.space.channel_groups import GROUPINGS
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import OPERATORS, SAMPLINGS, SearchSpace
from esnac_lib.teachers import teacher


@cache
def traced(name: str) -> Architecture:
    return trace(teacher(name, 10, 3, 32, seed=0), torch.zeros(1, 3, 32, 32))[0]


def space_of(name: str, operators: tuple[str, ...] = OPERATORS, grouping: str = "dimension") -> SearchSpace:
    return SearchSpace(traced(name), operators, grouping)


def check(space: SearchSpace, maker: CandidateMaker, decisions: Decisions) -> Candidate:
    student, outline = space.apply(decisions), maker.make(decisions)
    assert outline.order == student.canonical_order
    assert outline.arch_id == student.arch_id
    for max_edge in (128, 3):
        expected = encode(student, max_edge) if max_edge == 128 else Candidate.of(student).encode(max_edge)
        np.testing.assert_array_equal(outline.encode(max_edge), expected)
    assert outline.key == Candidate.of(student).key
    assert outline.num_params == student.num_params == Candidate.of(student).num_params
    assert outline.macs == student.macs == Candidate.of(student).macs
    assert (outline.rows.dtype, outline.encode().dtype) == (np.float32, np.float32)
    return outline


@pytest.mark.parametrize("name", ["vgg19", "resnet18", "resnet34", "shufflenet", "shufflenet_1.0x_g3", "cnn4"])
def test_an_outline_is_the_architecture(name: str) -> None:
    space = space_of(name)
    maker, rng = CandidateMaker(space), make_rng(0, "test", 0)
    check(space, maker, space.nothing)
    decisions = [space.sample(rng) for _ in range(8)]
    decisions += [space.mutate(decisions[0], rng), space.cross(decisions[1], decisions[2], rng)]
    outlines = [check(space, maker, item) for item in decisions]
    assert len({outline.key for outline in outlines}) == len(outlines)


@pytest.mark.parametrize("grouping", ["dimension", "dependency"])
@pytest.mark.parametrize("operators", [("remove",), ("shrink",), ("skip", "shrink")])
def test_fewer_operators_and_other_groups(operators: tuple[str, ...], grouping: str) -> None:
    space = space_of("resnet18", operators, grouping)
    maker, rng = CandidateMaker(space), make_rng(0, "test", 1)
    for _ in range(3):
        check(space, maker, space.sample(rng))


def test_sums_of_what_removed_layers_read() -> None:
    """Emptied blocks, x + x, and skips out of and beside removed layers."""
    space = space_of("resnet18")
    maker = CandidateMaker(space)
    gone = frozenset(space.removable)
    student = check(space, maker, space.normalise(Decisions(gone, space.nothing.ratios, frozenset())))
    assert any(count > 1 for parts in student.graph.inputs for part in parts for _, count in part)
    pairs = frozenset(space.connectable[::7])
    check(space, maker, space.normalise(Decisions(frozenset(sorted(gone)[::2]), (0.5,) * 4, pairs)))


def test_depthwise_groups_follow_the_channels() -> None:
    space = space_of("shufflenet")
    outline = check(
        space, CandidateMaker(space), space.normalise(Decisions(frozenset(), (0.6, 0.5, 0.3, 0.1), frozenset()))
    )
    depthwise = [
        (channels, dict(attrs)["groups"])
        for kind, channels, attrs in outline.graph.natures
        if kind == "conv" and dict(attrs)["groups"] > 2
    ]
    assert len(depthwise) == 16
    assert all(channels == groups for channels, groups in depthwise)


@settings(max_examples=100, deadline=None)
@given(architectures(), st.sampled_from(GROUPINGS), st.integers(0, 2**32))
def test_every_kind_of_layer(network: Architecture, grouping: str, seed: int) -> None:
    space, rng = SearchSpace(network, grouping=grouping), make_rng(seed, "test")
    maker = CandidateMaker(space)
    for sampling in SAMPLINGS:
        space.sampling = sampling
        check(space, maker, space.mutate(space.sample(rng), rng))


def test_an_opaque_layer_stays_as_it_is() -> None:
    attrs = {"what": "cumsum", "inputs": [(4, 8, 8)], "output": (4, 8, 8), "tensors": []}
    conv = {"kernel_size": 3, "padding": 1}
    layers = (
        Layer("a", "conv", (slot(INPUT),), 6, conv),
        Layer("b", "conv", (slot(0),), 4, conv),
        Layer("opaque", "opaque", (slot(1),), attrs=attrs),
        Layer("c", "conv", (slot(2),), 3, conv),
    )
    space = SearchSpace(Architecture(layers, (3, 8, 8), slot(3)))
    check(space, CandidateMaker(space), space.normalise(Decisions(frozenset(), (0.5,), frozenset())))


@pytest.mark.parametrize("built", BUILT)
def test_what_a_ratio_changes_otherwise_is_built(built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (
        Layer("conv", "conv", (slot(INPUT),), 6, {"kernel_size": 1}),
        Layer("built", built, (slot(0),), attrs={"runs": [(2, 5), (0, 1)]}),
        Layer("last", "conv", (slot(1),), 4, {"kernel_size": 1}),
    )
    space = SearchSpace(Architecture(layers, (3, 8, 8), slot(2)))
    applied: list[Decisions] = []
    apply = space.apply
    monkeypatch.setattr(space, "apply", lambda decisions: applied.append(decisions) or apply(decisions))
    decisions = space.sample(make_rng(0, "test", 2))
    assert CandidateMaker(space).make(decisions).arch_id == apply(decisions).arch_id
    assert applied == [decisions]


def test_an_architecture_without_edges() -> None:
    layer = Layer("c", "conv", (slot(INPUT),), 4, {"kernel_size": 3, "padding": 1})
    alone = Architecture((layer,), (3, 8, 8), slot(0))
    assert Candidate.of(alone).edges.shape == (0, 2)
    np.testing.assert_array_equal(Candidate.of(alone).encode(5), encode(alone, 5))
