"""Movement: each class against a slow twin, which runs the layers that were read off the index."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from esnac_lib.architecture.graph import Architecture, Layer, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape
from esnac_lib.architecture.modules import module_of
from esnac_lib.architecture.tracing.movement import (
    CHANNELS,
    SPACE,
    Reading,
    classify,
    is_one_to_one,
    numbered,
    present,
    presented,
    restore,
)

MAP: Shape = (6, 4, 5)
FEATURES: Shape = (7,)
PIXEL: Shape = (6, 1, 1)
Move = Callable[[Tensor], Tensor]


def twin(reading: Reading, x: Tensor) -> Tensor:
    """What the layers of a reading make of a map, as its layout presents it."""
    for kind, attrs in reading.steps:
        x = module_of(Layer("layer", kind, (slot(-1),), attrs=attrs), tuple(x.shape[1:]))(x)
    assert tuple(x.shape[1:]) == reading.shape
    return present(x, reading.layout)


KNOWN: list[tuple[Shape, Move, list[str], str]] = [
    # natural
    (MAP, lambda x: x.view(x.shape), [], "chw"),
    (MAP, lambda x: x.flatten(1).view(-1, *MAP).permute(0, 3, 2, 1).transpose(1, 3), [], "chw"),
    (FEATURES, lambda x: x.unsqueeze(1).squeeze(1), [], "f"),
    # channels
    (MAP, lambda x: x[:, 2:5], ["select"], "chw"),
    (MAP, lambda x: x[:, [4, 0, 1]], ["select"], "chw"),
    (MAP, lambda x: x[:, 1].unsqueeze(1), ["select"], "chw"),
    (MAP, lambda x: x.chunk(4, 1)[2], ["select"], "chw"),
    (MAP, lambda x: x.flip(1), ["select"], "chw"),
    (MAP, lambda x: x.view(-1, 3, 2, 4, 5).transpose(1, 2).reshape(-1, *MAP), ["select"], "chw"),
    (FEATURES, lambda x: x[:, 3:], ["select"], "f"),
    # rows and columns
    (MAP, lambda x: x[:, :, 1:, :-2], ["pad"], "chw"),
    (MAP, lambda x: x[..., ::2, ::3], ["max_pool"], "chw"),
    (MAP, lambda x: x[..., 1::2, :4:2], ["pad", "max_pool"], "chw"),
    (MAP, lambda x: x[:, 1:3, 3:, 2:3], ["select", "pad"], "chw"),
    # rows of numbers
    (MAP, lambda x: x.flatten(1), ["flatten"], "f"),
    (MAP, lambda x: x[:, :3].reshape(len(x), -1), ["select", "flatten"], "f"),
    (MAP, lambda x: x[:, :, 1, 2], ["pad", "flatten"], "f"),
    (PIXEL, lambda x: x[..., 0, 0], ["flatten"], "f"),
    (FEATURES, lambda x: x[:, :, None, None], ["unflatten"], "chw"),
    (FEATURES, lambda x: x.view(-1, 1, 1, 7), ["unflatten"], "hwc"),
    # presentations
    (MAP, lambda x: x.permute(0, 2, 3, 1), [], "hwc"),
    (MAP, lambda x: x.movedim(1, -1)[..., :2], ["select"], "hwc"),
    (MAP, lambda x: x.flatten(2), [], "cn"),
    (MAP, lambda x: x.flatten(2).transpose(1, 2), [], "nc"),
    (MAP, lambda x: x.view(-1, 2, 3, 20)[:, 1].mT, ["select"], "nc"),
    # repeated
    (PIXEL, lambda x: x.expand(-1, -1, 3, 2), [], "chw"),
    (FEATURES, lambda x: x[:, None, None].expand(-1, 2, 2, -1), ["unflatten"], "hwc"),
    (MAP, lambda x: x[:, :1].expand(-1, 6, -1, -1), ["select"], "chw"),
]


@pytest.mark.parametrize("index", range(len(KNOWN)))
@pytest.mark.parametrize("batch", [2, 3])
def test_what_is_known_is_what_the_layers_make(index: int, batch: int) -> None:
    shape, move, kinds, layout = KNOWN[index]
    reading = classify(move(numbered(shape, batch)), shape)
    assert reading is not None
    assert ([kind for kind, _ in reading.steps], reading.layout) == (kinds, layout)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    moved = move(x)
    assert torch.equal(twin(reading, x).expand(moved.shape), moved)


UNKNOWN: list[tuple[Shape, Move]] = [
    (MAP, lambda x: x.flip(2)),
    (MAP, lambda x: x.transpose(2, 3)),
    (MAP, lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    (MAP, lambda x: x.roll(1, 3)),
    (MAP, lambda x: x.repeat(1, 2, 1, 1)),
    (MAP, lambda x: x.view(-1, 3, 2, 4, 5)),
    (MAP, lambda x: x.view(-1, 6, 2, 10)),
    (MAP, lambda x: x[:, :, [0, 3, 1]]),
    (MAP, lambda x: x.view(-1, 30, 2, 2)),
    (FEATURES, lambda x: x.view(-1, 1, 7, 1)),
    # the batch
    (MAP, lambda x: x.flip(0)),
    (MAP, lambda x: x.transpose(0, 1)),
    (MAP, lambda x: x.flatten(0, 1)[:, None]),
    (MAP, lambda x: x[:1].expand(2, -1, -1, -1)),
    (MAP, lambda x: torch.stack([x[0], x[1].flip(0)])),
    (MAP, lambda x: x.view(4, 3, 4, 5)),
]


@pytest.mark.parametrize("index", range(len(UNKNOWN)))
def test_what_is_not_known_is_not_guessed(index: int) -> None:
    shape, move = UNKNOWN[index]
    assert classify(move(numbered(shape, 2)), shape) is None


def test_readings_give_the_shapes_that_layers_are_said_to_have() -> None:
    for shape, move, _, _ in KNOWN:
        reading = classify(move(numbered(shape, 2)), shape)
        assert reading is not None
        for kind, attrs in reading.steps:
            layer = Layer("layer", kind, (slot(-1),), attrs=attrs)
            shape = LAYER_TYPES[kind].shape(0, dict(layer.attrs), [shape])
        assert shape == reading.shape


@pytest.mark.parametrize("layout", CHANNELS)
def test_layouts_can_be_taken_back(layout: str) -> None:
    shape = FEATURES if layout == "f" else MAP
    x = torch.randn(2, *shape)
    shown = present(x, layout)
    assert torch.equal(restore(shown, layout, shape[1:]), x)
    assert presented(shape, layout) == tuple(shown.shape[1:])
    assert shown.shape[CHANNELS[layout]] == shape[0]
    assert [shown.shape[dim] for dim in SPACE[layout]] in ([], [20], [4, 5])


def test_one_to_one() -> None:
    index = numbered(MAP, 2)
    assert is_one_to_one(index, MAP) and is_one_to_one(index.flip(2).flatten(1), MAP)
    for other in (index[:, :5], index.repeat(1, 2, 1, 1), index.flip(0), index[:, [0, 0, 1, 2, 3, 4]]):
        assert not is_one_to_one(other, MAP)


def test_a_selection_of_all_channels_in_order_is_no_layer() -> None:
    reading = classify(numbered(MAP, 2)[:, list(range(6))], MAP)
    assert reading == Reading((), MAP, "chw")
    identity = Architecture((), MAP, slot(-1))
    assert identity.output_shape == reading.shape
