"""The table of kinds: its shapes, tensors and costs against the modules that run, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import ACTIVATIONS, LAYER_TYPES, OPERATIONS, Shape, normalise_attrs
from esnac_lib.architecture.modules import module_of
from esnac_lib.errors import ArchitectureError

IMAGE, FEATURES = (4, 5, 6), (6,)
RUNS = [(3, 4), (0, 2), (1, 3)]
CODE = nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2))
OPAQUE = {
    "what": "a block",
    "inputs": [IMAGE],
    "output": (2, 3, 4),
    "tensors": [
        ("0.weight", (2, 4, 3, 3), True), ("1.weight", (2,), True), ("1.bias", (2,), True),
        ("1.running_mean", (2,), False), ("1.running_var", (2,), False), ("1.num_batches_tracked", (), False),
    ],
    "macs": 2 * 3 * 4 * 4 * 9,
}  # fmt: skip

# kind, channels, attributes, shapes of its inputs, shape of its output
CASES: list[tuple[str, int, dict[str, Any], list[Shape], Shape]] = [
    ("conv", 6, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "groups": 2}, [IMAGE], (6, 2, 7)),
    ("linear", 3, {"bias": False}, [FEATURES], (3,)),
    ("batch_norm", 0, {}, [IMAGE], IMAGE), ("batch_norm", 0, {"affine": False}, [FEATURES], FEATURES),
    ("relu", 0, {}, [FEATURES], FEATURES), ("sigmoid", 0, {}, [IMAGE], IMAGE), ("dropout", 0, {}, [IMAGE], IMAGE),
    ("max_pool", 0, {"kernel_size": 2, "stride": 2, "ceil_mode": True}, [IMAGE], (4, 3, 3)),
    ("avg_pool", 0, {"kernel_size": 3, "stride": 2, "padding": 1}, [IMAGE], (4, 3, 3)),
    ("adaptive_avg_pool", 0, {"output_size": (2, 1)}, [IMAGE], (4, 2, 1)),
    ("flatten", 0, {}, [IMAGE], (120,)), ("concat", 0, {}, [IMAGE, (1, 5, 6), IMAGE], (9, 5, 6)),
    ("channel_shuffle", 0, {"groups": 2}, [IMAGE], IMAGE),
    *(("activation", 0, {"function": f, "arguments": (0.5, 1)[:n]}, [IMAGE], IMAGE) for f, n in ACTIVATIONS.items()),
    *(("prelu", 0, {"shared": shared}, [shape], shape) for shared in (0, 1) for shape in (IMAGE, FEATURES)),
    *(("layer_norm", 0, {"weight": w, "bias": b}, [s], s) for w in (0, 1) for b in (0, 1) for s in (IMAGE, FEATURES)),
    *(("group_norm", 0, {"groups": 2, "affine": affine}, [IMAGE], IMAGE) for affine in (0, 1)),
    *(("instance_norm", 0, {"affine": affine}, [IMAGE], IMAGE) for affine in (0, 1)),
    *(("scale", 0, {"weight": w, "bias": b}, [s], s) for w in (0, 1) for b in (0, 1) for s in (IMAGE, FEATURES)),
    ("affine", 0, {"factor": -1, "offset": 0.5}, [FEATURES], FEATURES),
    *((kind, 0, {}, [IMAGE, other], IMAGE) for kind in ("multiply", "add")
      for other in (IMAGE, (4, 1, 1), (1, 5, 6), (1, 1, 1), (4, 5, 1))),
    *((kind, 0, {}, [(4, 1, 1), (1, 5, 6)], IMAGE) for kind in ("multiply", "add")),
    *((kind, 0, {}, [(1,), FEATURES], FEATURES) for kind in ("multiply", "add")),
    ("select", 0, {"runs": [(1, 3)]}, [IMAGE], (2, 5, 6)), ("select", 0, {"runs": RUNS}, [IMAGE], (5, 5, 6)),
    ("select", 0, {"runs": RUNS}, [FEATURES], (5,)), ("unflatten", 0, {}, [FEATURES], (6, 1, 1)),
    *(("upsample", 0, {"size": (9, 2), "mode": mode}, [IMAGE], (4, 9, 2))
      for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
    *(("pad", 0, {"sizes": (1, -2, 3, 0), "mode": mode}, [IMAGE], (4, 8, 5))
      for mode in ("constant", "reflect", "replicate", "circular")),
    ("adaptive_max_pool", 0, {"output_size": (2, 1)}, [IMAGE], (4, 2, 1)),
    ("stochastic_depth", 0, {"p": 0.5}, [FEATURES], FEATURES), ("zeros", 3, {}, [IMAGE], (3, 5, 6)),
    ("opaque", 0, OPAQUE, [IMAGE], (2, 3, 4)),
    *(("broadcast", 0, {"operation": operation}, [IMAGE], IMAGE) for operation in OPERATIONS),
    ("broadcast", 0, {"operation": "add", "channels": True, "height": True, "width": True}, [IMAGE], IMAGE),
    ("broadcast", 0, {"operation": "multiply", "width": True, "trained": False}, [IMAGE], IMAGE),
    ("broadcast", 0, {"operation": "divide", "channels": True}, [FEATURES], FEATURES),
    *(("rms_norm", 0, {"weight": weight}, [shape], shape) for weight in (0, 1) for shape in (IMAGE, FEATURES)),
]  # fmt: skip


def test_every_kind_is_among_them() -> None:
    assert list(dict.fromkeys(case[0] for case in CASES)) == list(LAYER_TYPES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_table_says_what_the_module_does(case: Any) -> None:
    kind, channels, attrs, shapes, expected = case
    layer = Layer("it", kind, (slot(INPUT),) * len(shapes), channels, attrs, code=CODE if kind == "opaque" else None)
    rules, known = LAYER_TYPES[kind], dict(layer.attrs)
    assert rules.shape(channels, known, shapes) == expected
    module = module_of(layer, shapes[0])
    with FlopCounterMode(display=False) as counter:
        out = module(*(torch.rand(2, *shape) for shape in shapes))
    assert out.shape == (2, *expected)
    assert 2 * 2 * rules.macs(channels, known, shapes[0], expected) == counter.get_total_flops()
    tensors = rules.tensors(channels, known, shapes[0])
    assert tensors == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert rules.params(channels, known, shapes[0]) == sum(p.numel() for p in module.parameters())


def test_parameters_by_hand() -> None:
    """Running statistics, and buffers of opaque code, are none."""
    found = {(kind, len(shapes[0])): [] for kind, _, _, shapes, _ in CASES}
    for kind, channels, attrs, shapes, _ in CASES:
        rules = LAYER_TYPES[kind]
        params = rules.params(channels, dict(normalise_attrs(kind, attrs)), shapes[0])
        found[kind, len(shapes[0])].append(params)
    assert found["prelu", 3] == [4, 1] and found["prelu", 1] == [6, 1]
    assert found["layer_norm", 3] == found["scale", 3] == [0, 4, 4, 8]
    assert found["layer_norm", 1] == found["scale", 1] == [0, 6, 6, 12]
    assert found["group_norm", 3] == found["instance_norm", 3] == [0, 8]
    assert found["batch_norm", 3] == [8] and found["batch_norm", 1] == [0]
    assert found["opaque", 3] == [2 * 4 * 9 + 4]
    assert found["broadcast", 3] == [1, 1, 1, 1, 120, 0] and found["broadcast", 1] == [6]
    assert found["rms_norm", 3] == [0, 4] and found["rms_norm", 1] == [0, 6]
    none = set(LAYER_TYPES) - {"conv", "linear", "batch_norm", "prelu", "layer_norm", "group_norm", "instance_norm",
                               "scale", "opaque", "broadcast", "rms_norm"}  # fmt: skip
    assert not any(sum(params) for (kind, _), params in found.items() if kind in none)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_borders_are_refused_where_pytorch_refuses_them(mode: str) -> None:
    """Or where no pixel would be left, or a circular border is longer than what it repeats, so that gaps are left."""
    x = torch.arange(1.0, 4.0).view(1, 1, 3, 1)
    for before, after in product(range(-4, 5), range(-4, 5)):
        layer = Layer("it", "pad", (slot(INPUT),), attrs={"sizes": (0, 0, before, after), "mode": mode})
        found: Shape | None
        try:
            out = module_of(layer, (1, 3, 1))(x)
            found = tuple(out.shape[1:]) if out.numel() else None
        except (RuntimeError, ValueError):
            found = None
        left = x.flatten().numpy()[max(-before, 0) : 3 - max(-after, 0)]
        if found and mode == "circular":
            border = (max(before, 0), max(after, 0))
            found = found if len(left) and np.array_equal(np.pad(left, border, "wrap"), out.flatten().numpy()) else None
        try:
            said = LAYER_TYPES["pad"].shape(0, dict(layer.attrs), [(1, 3, 1)])
        except ArchitectureError:
            said = None
        assert said == found, (before, after)


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("activation", {}, "needs the attribute 'function'"),
    ("activation", {"function": "relu"}, "function = 'relu': it must be one of relu6, silu"),
    ("activation", {"function": ["silu"]}, "one of relu6"),
    ("activation", {"function": "silu", "arguments": (1,)}, r"silu with arguments \(1.0,\): it takes 0"),
    ("activation", {"function": "elu"}, r"elu with arguments \(\): it takes 1"),
    ("activation", {"function": "hardtanh", "arguments": (0, float("inf"))}, "it must be a number"),
    ("activation", {"function": "elu", "arguments": 1.0}, "it must be a sequence of numbers"),
    ("activation", {"function": "elu", "arguments": "1"}, "it must be a sequence of numbers"),
    ("prelu", {"shared": 2}, "shared = 2: it must be True or False"),
    ("prelu", {"num_parameters": 2}, "has no attribute 'num_parameters': it has shared"),
    ("layer_norm", {"eps": -1}, "eps = -1: it must be a number of at least 0"),
    ("layer_norm", {"weight": None}, "True or False"), ("layer_norm", {"affine": True}, "no attribute 'affine'"),
    ("group_norm", {}, "needs the attribute 'groups'"), ("group_norm", {"groups": 0}, "an integer of at least 1"),
    ("group_norm", {"groups": 2.0}, "an integer of at least 1"), ("instance_norm", {"momentum": 0.1}, "no attribute"),
    ("scale", {"bias": "yes"}, "True or False"), ("affine", {"factor": "2"}, "it must be a number"),
    ("affine", {"offset": float("nan")}, "it must be a number"), ("multiply", {"x": 1}, "it has none"),
    ("select", {}, "needs the attribute 'runs'"), ("select", {"runs": []}, "one or more runs"),
    ("select", {"runs": [(2, 2)]}, "one or more runs"), ("select", {"runs": [(0, 3), (2, 1)]}, "start < stop"),
    ("select", {"runs": 3}, "one or more runs"), ("select", {"runs": [(-1, 3)]}, "at least 0"),
    ("select", {"runs": [(0, 1, 2)]}, "runs ="), ("select", {"runs": [("a", "b")]}, "at least 0"),
    ("upsample", {}, "needs the attribute 'size'"), ("upsample", {"size": 0}, "one or two integers of at least 1"),
    ("upsample", {"size": 4, "mode": "linear"}, "one of nearest, nearest-exact, bilinear, bicubic, area"),
    ("upsample", {"size": 4, "scale_factor": 2}, "no attribute"), ("upsample", {"size": (1, 2, 3)}, "size ="),
    ("pad", {"sizes": (1, 1)}, "four integers: left, right, top, bottom"), ("pad", {"sizes": 1}, "four integers"),
    ("pad", {"sizes": (1, 1, 1, 0.5)}, "four integers"), ("pad", {"sizes": [0] * 4, "mode": "edge"}, "one of constant"),
    ("pad", {"sizes": [0] * 4, "value": None}, "it must be a number"), ("zeros", {"channels": 2}, "no attribute"),
    ("adaptive_max_pool", {"output_size": (0, 1)}, "at least 1"),
    ("stochastic_depth", {}, "needs the attribute 'p'"), ("stochastic_depth", {"p": 1.5}, "at least 0 and at most 1"),
    ("stochastic_depth", {"p": 0.5, "mode": "channel"}, "one of row, batch"),
    ("opaque", {"what": ""}, "a text that is not empty"), ("opaque", OPAQUE | {"inputs": []}, "one or more shapes"),
    ("opaque", OPAQUE | {"inputs": [(1, 2)]}, r"a shape \(channels, height, width\) or \(features,\)"),
    ("opaque", OPAQUE | {"output": (0,)}, "at least 1"), ("opaque", OPAQUE | {"macs": -1}, "at least 0"),
    ("opaque", OPAQUE | {"tensors": [("a", (2,))]}, r"\(name, shape, trainable\) of each tensor"),
    ("opaque", OPAQUE | {"tensors": 3}, "of each tensor"),
    ("opaque", OPAQUE | {"tensors": [(1, (2,), True)]}, "of each tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attrs", "text"), WRONG)
def test_wrong_attributes_are_refused_in_one_line(kind: str, attrs: dict[str, Any], text: str) -> None:
    with pytest.raises(ArchitectureError, match=text) as caught:
        Layer("it", kind, (slot(INPUT),), attrs=attrs)
    assert "\n" not in str(caught.value)


MISFITS: list[tuple[str, dict[str, Any], list[Shape], str]] = [
    ("group_norm", {"groups": 3}, [IMAGE], "4 channels in 3 groups"),
    ("group_norm", {"groups": 2}, [FEATURES], r"\(channels, height, width\) is needed"),
    ("instance_norm", {}, [FEATURES], r"\(channels, height, width\) is needed"),
    ("instance_norm", {}, [(4, 1, 1)], "maps of one pixel"),
    ("multiply", {}, [IMAGE, (3, 5, 6)], "each size must be equal, or 1 on one side"),
    ("add", {}, [IMAGE, (2, 1, 1)], "each size must be equal, or 1 on one side"),
    ("multiply", {}, [IMAGE, (4,)], "each size must be equal"),
    ("select", {"runs": [(3, 5)]}, [IMAGE], "a selection of channel 4 of 4"),
    ("unflatten", {}, [IMAGE], r"\(features,\) is needed"), ("upsample", {"size": 3}, [FEATURES], "is needed"),
    ("pad", {"sizes": (0, 0, 0, 0)}, [FEATURES], "is needed"), ("zeros", {}, [FEATURES], "is needed"),
    ("pad", {"sizes": (6, 0, 0, 0), "mode": "reflect"}, [IMAGE], "a reflect border of 6 and 0 on a side of 6 pixels"),
    ("pad", {"sizes": (0, 0, -3, -2)}, [IMAGE], "a border of -3 and -2 leaves nothing of a side of 5 pixels"),
    ("adaptive_max_pool", {"output_size": 1}, [FEATURES], "is needed"),
    ("opaque", OPAQUE, [(4, 5, 5)], r"a block is not understood: it was seen with inputs of shapes \(\(4, 5, 6\),\)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attrs", "shapes", "text"), MISFITS)
def test_inputs_that_do_not_fit_are_refused_in_one_line(
    kind: str, attrs: dict[str, Any], shapes: list[Shape], text: str
) -> None:
    layer = Layer("it", kind, (slot(INPUT),) * len(shapes), int(kind == "zeros"), attrs)
    with pytest.raises(ArchitectureError, match=text) as caught:
        LAYER_TYPES[kind].shape(layer.channels, dict(layer.attrs), shapes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["multiply", "add", "select", "zeros"])
def test_the_number_of_slots_is_checked(kind: str) -> None:
    wrong = 1 if LAYER_TYPES[kind].slots == 2 else 2
    layer = Layer("it", kind, (slot(INPUT),) * wrong, int(kind == "zeros"), {"runs": RUNS} if kind == "select" else {})
    with pytest.raises(ArchitectureError, match=f"{kind} 'it' has {wrong} inputs"):
        Architecture((layer,), IMAGE, slot(0))


# -- one form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("activation", {"function": "elu", "arguments": [1]}, {"function": "elu", "arguments": (1.0,)}),
        ("select", {"runs": [(0, 1), (1, 2), [2, 4]]}, {"runs": ((0, 4),)}),
        ("select", {"runs": [(2, 3), (np.int64(3), 4), (0, 1)]}, {"runs": [(2, 4), (0, 1)]}),
        ("upsample", {"size": 4}, {"size": [4, 4], "mode": "nearest", "align_corners": 0}),
        ("pad", {"sizes": [1, 0, np.int32(0), 2]}, {"sizes": (1, 0, 0, 2), "value": 0}),
        ("affine", {"factor": 1}, {"offset": 0}), ("scale", {}, {"weight": 1, "bias": False}),
        ("stochastic_depth", {"p": 1}, {"p": np.float32(1)}), ("layer_norm", {}, {"eps": 1e-5}),
        ("opaque", OPAQUE, {**OPAQUE, "inputs": (list(IMAGE),), "tensors": tuple(map(list, OPAQUE["tensors"]))}),
    ],
)  # fmt: skip
def test_equal_attributes_have_one_form(kind: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert normalise_attrs(kind, one) == normalise_attrs(kind, other)
    assert hash(normalise_attrs(kind, one)) == hash(normalise_attrs(kind, other))
    assert normalise_attrs(kind, normalise_attrs(kind, one)) == normalise_attrs(kind, one)


def test_runs_that_go_back_stay_apart() -> None:
    assert dict(normalise_attrs("select", {"runs": [(2, 4), (0, 2), (0, 1)]}))["runs"] == ((2, 4), (0, 2), (0, 1))
