"""Architectures as sequences: both ways, what is refused and why, and the repair of what a decoder puts out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.network import build
from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import ArchitectureError
from esnac_lib.latent_descent.random_architectures import draw, random_sequence, sequence_around
from esnac_lib.latent_descent.repair import repair
from esnac_lib.latent_descent.sequence import (
    AVG_POOL,
    BATCH_NORM,
    CONV,
    DROPOUT,
    LINEAR,
    MAX_POOL,
    RELU,
    SIGMOID,
    InvalidSequence,
    Item,
    Items,
    SequenceSpace,
)
from esnac_lib.seeding import make_rng
from esnac_lib.teachers import teacher

SPACE = SequenceSpace((1, 8, 8), 10)
CLASSES = Item(LINEAR, 0, 10, 0, 0)
CONV4 = Item(CONV, 3, 4, 1, 1)
TEACHERS = [
    ("conv7", 10, 1, 28, 24, 708_458),
    ("conv10", 10, 3, 32, 36, 24_356_234),
    ("conv10", 100, 3, 32, 36, 24_448_484),
    ("vgg19", 10, 3, 32, 54, 20_040_522),
    ("cnn4", 10, 1, 8, 16, 65_834),
]


def traced(name: str, classes: int, channels: int, size: int) -> Architecture:
    return trace(teacher(name, classes, channels, size, seed=0), torch.zeros(1, channels, size, size))[0]


@pytest.mark.parametrize("name, classes, channels, size, layers, params", TEACHERS)
def test_teachers_that_are_sequences_come_back_exactly(
    name: str, classes: int, channels: int, size: int, layers: int, params: int
) -> None:
    architecture = traced(name, classes, channels, size)
    space = SequenceSpace.around(architecture)
    items = space.to_sequence(architecture)
    again = space.to_architecture(items)
    assert len(items) == layers  # the flatten is no item
    assert (again.num_params, again.arch_id, again.macs) == (params, architecture.arch_id, architecture.macs)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet"])
def test_a_teacher_with_branches_is_refused_with_the_layer(name: str) -> None:
    with pytest.raises(InvalidSequence, match=r"not plain: .*'stages\.stage1\.0"):
        SequenceSpace.around(traced(name, 10, 3, 32))


def chain(*layers: tuple[str, int, dict[str, object]]) -> Architecture:
    made = [
        Layer(f"{kind}{index}", kind, (slot(index - 1 if index else INPUT),), channels, attrs)
        for index, (kind, channels, attrs) in enumerate(layers)
    ]
    return Architecture(tuple(made), (1, 8, 8), slot(len(made) - 1))


HEAD = (("flatten", 0, {}), ("linear", 10, {}))


@pytest.mark.parametrize(
    "layers, named",
    [
        ([("conv", 4, {"kernel_size": 3, "dilation": 2}), *HEAD], "dilation = (2, 2)"),
        ([("conv", 4, {"kernel_size": (3, 1)}), *HEAD], "(3, 1) that is not square"),
        ([("conv", 4, {"kernel_size": 3}), ("dropout", 0, {"p": 0.25}), *HEAD], "p = 0.25"),
        ([("conv", 4, {"kernel_size": 3}), ("batch_norm", 0, {"eps": 1e-3}), *HEAD], "eps = 0.001"),
        ([("conv", 4, {"kernel_size": 3}), ("flatten", 0, {}), ("relu", 0, {}), ("linear", 10, {})], "before a linear"),
        ([("conv", 4, {"kernel_size": 3}), ("adaptive_avg_pool", 0, {"output_size": 1}), *HEAD], "is none of conv"),
        ([("conv", 4, {"kernel_size": 3}), ("flatten", 0, {}), ("linear", 10, {"bias": False})], "bias = False"),
    ],
)
def test_what_five_numbers_cannot_say_is_refused(layers: list[tuple[str, int, dict[str, object]]], named: str) -> None:
    with pytest.raises(InvalidSequence) as caught:
        SPACE.to_sequence(chain(*layers))
    assert named in str(caught.value)


def test_convolutions_with_and_without_bias_are_no_space() -> None:
    mixed = chain(("conv", 4, {"kernel_size": 3}), ("conv", 4, {"kernel_size": 3, "bias": False}), *HEAD)
    with pytest.raises(InvalidSequence, match="all need the same"):
        SequenceSpace.around(mixed)


@pytest.mark.parametrize(
    "items, reason",
    [
        ([CLASSES], "length"),
        ([CONV4, Item(RELU, 0, 4, 0, 0)], "no classifier"),
        ([CONV4, Item(LINEAR, 0, 9, 0, 0)], "no classifier"),
        ([Item(RELU, 0, 1, 0, 0), CLASSES], "no convolution"),
        ([CONV4, Item(RELU, 0, 4, 0, 0), Item(SIGMOID, 0, 4, 0, 0), CLASSES], "activations in a row"),
        ([CONV4, Item(MAX_POOL, 2, 4, 2, 1), CLASSES], "pool reduces nothing"),
        ([CONV4, Item(MAX_POOL, 1, 4, 1, 0), CLASSES], "pool reduces nothing"),
        ([Item(CONV, 9, 4, 1, 0), CLASSES], "map too small"),
        ([CONV4, Item(AVG_POOL, 9, 4, 1, 0), CLASSES], "map too small"),
        ([CONV4, Item(LINEAR, 0, 8, 0, 0), Item(CONV, 1, 8, 1, 0), CLASSES], "image layer after linear"),
        ([CONV4, Item(RELU, 0, 5, 0, 0), CLASSES], "not canonical"),
        ([CONV4, Item(BATCH_NORM, 1, 4, 0, 0), CLASSES], "not canonical"),
        ([Item(CONV, 3, 6, 1, 1), CLASSES], "width"),
        ([Item(CONV, 0, 4, 1, 1), CLASSES], "window"),
        ([Item(CONV, 3, 4, 0, 1), CLASSES], "window"),
        ([CONV4, Item(9, 0, 4, 0, 0), CLASSES], "unknown type"),
        ([CONV4] * 20 + [CLASSES], "too many MACs"),
    ],
)
def test_an_invalid_sequence_is_refused_with_its_reason(items: list[Item], reason: str) -> None:
    space = SequenceSpace((1, 8, 8), 10, width_step=4, max_macs=100_000)
    with pytest.raises(InvalidSequence) as caught:
        space.to_architecture(items)
    assert caught.value.reason == reason
    assert isinstance(caught.value, ArchitectureError) and "\n" not in str(caught.value)


def test_the_assumptions_can_be_relaxed() -> None:
    items = [CONV4, Item(RELU, 0, 4, 0, 0), Item(RELU, 0, 4, 0, 0), Item(MAX_POOL, 1, 4, 1, 0), CLASSES]
    with pytest.raises(InvalidSequence):
        SPACE.check(items)
    assert replace(SPACE, enforced=False).to_architecture(items).num_params == 40 + 2570


def valid(kind: str, index: int) -> tuple[SequenceSpace, Items]:
    """A random member of a space; kind: the distribution."""
    cnn4 = traced_cnn4()
    space = replace(SequenceSpace.around(cnn4), max_macs=2_000_000, width_step=4, enforced=bool(index % 2))
    items = SequenceSpace.around(cnn4).to_sequence(cnn4)
    sample = partial(random_sequence, space) if kind == "random" else partial(sequence_around, space, items)
    return space, draw(space, sample, make_rng(0, kind, index)).items


_CNN4: list[Architecture] = []


def traced_cnn4() -> Architecture:
    if not _CNN4:
        _CNN4.append(traced("cnn4", 10, 1, 8))
    return _CNN4[0]


@given(st.sampled_from(["random", "around"]), st.integers(0, 10**6))
@settings(max_examples=60)
def test_random_sequences_come_back_exactly(kind: str, index: int) -> None:
    space, items = valid(kind, index)
    architecture = space.to_architecture(items)
    assert space.to_sequence(architecture) == items
    shapes = [shape for layer, shape in zip(architecture.layers, architecture.shapes, strict=True)
              if layer.kind != "flatten"]  # fmt: skip
    assert space.check(items) == shapes
    assert 0 < architecture.macs <= space.max_macs
    assert repair(space, items).items == items and not repair(space, items).repairs


@pytest.mark.parametrize("kind", ["random", "around"])
def test_random_architectures_run_and_have_the_parameters_that_are_counted(kind: str) -> None:
    for index in range(4):
        space, items = valid(kind, index)
        network = build(space.to_architecture(items)).eval()
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        assert sum(p.numel() for p in network.parameters()) == network.architecture.num_params


# -- repair ------------------------------------------------------------------------------------------------------------

numbers = st.integers(0, 12)
decoded_items = st.builds(Item, st.integers(0, 9), numbers, st.integers(0, 60), numbers, numbers)


@given(st.lists(decoded_items, max_size=20), st.booleans())
@settings(max_examples=300)
def test_whatever_is_decoded_becomes_valid_or_is_refused(decoded: list[Item], enforced: bool) -> None:
    space = SequenceSpace((1, 8, 8), 10, enforced=enforced, max_length=16, width_step=4)
    try:
        found = repair(space, decoded)
    except InvalidSequence as error:
        assert error.reason in ("no convolution", "map too small", "length")
        return
    space.check(found.items)
    assert repair(space, found.items).items == found.items
    assert len(found.items) <= 16


@pytest.mark.parametrize(
    "decoded, items, repairs",
    [
        ([CONV4, Item(0, 0, 0, 0, 0), CONV4], [CONV4, CLASSES], {"classifier added": 1}),
        ([CONV4, Item(LINEAR, 0, 13, 0, 0)], [CONV4, CLASSES], {}),
        ([CONV4, Item(RELU, 2, 9, 1, 0), CLASSES], [CONV4, Item(RELU, 0, 4, 0, 0), CLASSES], {"entries": 1}),
        ([Item(CONV, 0, 5, 0, 2), CLASSES], [Item(CONV, 1, 4, 1, 2), CLASSES], {"entries": 1}),
        ([Item(CONV, 12, 4, 1, 1), CLASSES], [Item(CONV, 10, 4, 1, 1), CLASSES], {"entries": 1}),
        ([Item(LINEAR, 0, 8, 0, 0), CONV4, CLASSES], [CONV4, CLASSES], {"linear layer in between": 1}),
        (
            [CONV4, Item(RELU, 0, 4, 0, 0), Item(SIGMOID, 0, 4, 0, 0), CLASSES],
            [CONV4, Item(RELU, 0, 4, 0, 0), CLASSES],
            {"second activation": 1},
        ),
        ([CONV4, Item(MAX_POOL, 1, 4, 1, 0), CLASSES], [CONV4, CLASSES], {"pool that reduces nothing": 1}),
        ([CONV4, Item(MAX_POOL, 2, 4, 2, 3), CLASSES], [CONV4, Item(MAX_POOL, 2, 4, 2, 0), CLASSES], {"entries": 1}),
        ([CONV4, Item(DROPOUT, 3, 7, 1, 5), CLASSES], [CONV4, Item(DROPOUT, 0, 4, 0, 5), CLASSES], {"entries": 1}),
    ],
)
def test_each_rule_of_the_repair(decoded: list[Item], items: list[Item], repairs: dict[str, int]) -> None:
    found = repair(replace(SPACE, width_step=4), decoded)
    assert (list(found.items), found.repairs) == (items, repairs)
