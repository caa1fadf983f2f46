"""Networks against a naive evaluation of the graph; inherited weights against one loop per weight."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES
from esnac_lib.architecture.network import Network, build, inherit, layer_name, module_name, weight_shapes
from esnac_lib.errors import ArchitectureError


def every_kind() -> Architecture:
    """The kinds of the paper's teachers, sums with multiplicity, a sum that holds the input, and a summed output."""
    half = {"kernel_size": (3, 1), "stride": (2, 1), "padding": (1, 0)}
    layers = (
        Layer("a.conv", "conv", (slot(INPUT),), 4, {"kernel_size": 3, "padding": 2, "dilation": 2}),
        Layer("a.bn", "batch_norm", (slot(0),), attrs={"eps": 1e-3, "momentum": 0.2}),
        Layer("a.relu", "relu", (slot(INPUT, 1, 1),)),
        Layer("b/conv", "conv", (slot(0, 2),), 8, {"kernel_size": 1, "groups": 2, "bias": False}),
        Layer("shuffle", "channel_shuffle", (slot(3),), attrs={"groups": 4}),
        Layer("sigmoid", "sigmoid", (slot(3, 4, 4, 4),)),
        Layer("concat", "concat", (slot(5), slot(0, 1, 1), slot(4))),
        Layer("dropout", "dropout", (slot(6),), attrs={"p": 0.3}),
        Layer("max", "max_pool", (slot(7),), attrs={"kernel_size": 2, "stride": 2, "ceil_mode": True}),
        Layer("avg", "avg_pool", (slot(8),), attrs={**half, "count_include_pad": False}),
        Layer("bare", "batch_norm", (slot(9),), attrs={"affine": False}),
        Layer("adaptive", "adaptive_avg_pool", (slot(10),), attrs={"output_size": (2, 1)}),
        Layer("flatten", "flatten", (slot(11),)),
        Layer("fc", "linear", (slot(12),), 5),
        Layer("fc2", "linear", (slot(13),), 5, {"bias": False}),
    )
    return Architecture(layers, (4, 9, 7), slot(13, 13, 14))


class Mixed(nn.Module):
    """What no table knows: two inputs, a parameter, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cumsum(a, 1) * self.weight[:, None, None] + b.roll(1, 2) + self.offset


MIXED = {"what": "cumsum", "inputs": [(4, 9, 7), (4, 9, 7)], "output": (4, 9, 7),
         "tensors": [("weight", (4,), True), ("offset", (), False)]}  # fmt: skip


def every_other_kind() -> Architecture:
    """All other kinds, with sums in the slots of a product and in front of a selection."""
    layers = (
        Layer("act", "activation", (slot(INPUT),), attrs={"function": "leaky_relu", "arguments": (0.2,)}),
        Layer("prelu", "prelu", (slot(INPUT, 0),)),
        Layer("ln", "layer_norm", (slot(1, 1),), attrs={"eps": 0.1}),
        Layer("gn", "group_norm", (slot(2),), attrs={"groups": 2, "eps": 0.1}),
        Layer("in", "instance_norm", (slot(3),), attrs={"affine": True, "eps": 0.1}),
        Layer("mix", "opaque", (slot(4), slot(1, 2)), attrs=MIXED, code=Mixed()),
        Layer("scale", "scale", (slot(5),), attrs={"bias": True}),
        Layer("affine", "affine", (slot(6),), attrs={"factor": 0.5, "offset": -1}),
        Layer("drop", "stochastic_depth", (slot(7),), attrs={"p": 0.5}),
        Layer("pool", "adaptive_max_pool", (slot(8),), attrs={"output_size": 1}),
        Layer("flat", "flatten", (slot(9),)),
        Layer("ln2", "layer_norm", (slot(10),), attrs={"weight": False}),
        Layer("bn", "batch_norm", (slot(11),)),
        Layer("back", "unflatten", (slot(12),)),
        Layer("product", "multiply", (slot(13, 9), slot(8, 8, INPUT))),
        Layer("sum", "add", (slot(14), slot(13))),
        Layer("pick", "select", (slot(15, 8),), attrs={"runs": [(2, 4), (0, 3)]}),
        Layer("zeros", "zeros", (slot(16),), 2),
        Layer("cat", "concat", (slot(17), slot(16))),
        Layer("pad", "pad", (slot(18),), attrs={"sizes": (1, -1, 2, 0), "mode": "circular"}),
        Layer("up", "upsample", (slot(19),), attrs={"size": (6, 15), "mode": "nearest"}),
        Layer("rms", "rms_norm", (slot(20),), attrs={"eps": 0.1}),
        Layer("map", "broadcast", (slot(21),), attrs={"operation": "subtract", "channels": True, "height": True}),
    )
    return Architecture(layers, (4, 9, 7), slot(22))


BOTH = pytest.mark.parametrize("make", [every_kind, every_other_kind])


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator) + 0.5
        if name.endswith("running_var")
        else torch.randn(shape, generator=generator)
        for name, shape in weight_shapes(architecture).items()
    }


def naive(architecture: Architecture, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The output in eval mode, layer by layer with plain functions, sums term by term."""
    outputs: list[Tensor] = []

    def read(part: tuple[tuple[int, int], ...]) -> Tensor:
        terms = [x if i == INPUT else outputs[i] for i, times in part for _ in range(times)]
        return torch.stack(terms).sum(0)

    for layer in architecture.layers:
        mine = {key.rpartition(".")[2]: w for key, w in weights.items() if key.rpartition(".")[0] == layer.name}
        a = dict(layer.attrs) | {"channels": layer.channels}
        outputs.append(naive_layer(layer.kind, a, mine, [read(part) for part in layer.inputs]))
    return read(architecture.output)


def normalised(x: Tensor, over: tuple[int, ...], a: dict[str, Any], w: dict[str, Any]) -> Tensor:
    columns = {key: tensor.view(-1, *[1] * (x.ndim - 2)) for key, tensor in w.items()}
    centred = x - x.mean(over, keepdim=True)
    x = centred / (centred.square().mean(over, keepdim=True) + a["eps"]).sqrt()
    return x * columns.get("weight", 1) + columns.get("bias", 0)


def naive_layer(kind: str, a: dict[str, Any], w: dict[str, Any], inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match kind:
        case "activation":
            return torch.where(x < 0, 0.2 * x, x)
        case "prelu":
            return torch.where(x < 0, w["weight"][:, None, None] * x, x)
        case "layer_norm":
            return normalised(x, (1,), a, w)
        case "instance_norm":
            return normalised(x, (2, 3), a, w)
        case "group_norm":
            halves = [normalised(half, (1, 2, 3), a, {}) for half in x.chunk(2, 1)]
            return torch.cat(halves, 1) * w["weight"][:, None, None] + w["bias"][:, None, None]
        case "opaque":
            sums = torch.stack([x[:, : i + 1].sum(1) for i in range(4)], 1)
            return sums * w["weight"][:, None, None] + inputs[1][:, :, [8, *range(8)]] + w["offset"]
        case "scale":
            return x * w["weight"][:, None, None] + w["bias"][:, None, None]
        case "rms_norm":
            return x / (x.square().mean(1, keepdim=True) + a["eps"]).sqrt() * w["weight"][:, None, None]
        case "broadcast":
            return x - w["weight"]
        case "affine":
            return a["factor"] * x + a["offset"]
        case "stochastic_depth":
            return x
        case "adaptive_max_pool":
            return x.amax((2, 3), keepdim=True)
        case "unflatten":
            return x.view(*x.shape, 1, 1)
        case "multiply":
            return torch.mul(*torch.broadcast_tensors(*inputs))
        case "add":
            return torch.stack(torch.broadcast_tensors(*inputs)).sum(0)
        case "select":
            return torch.cat([x[:, start:stop] for start, stop in a["runs"]], 1)
        case "zeros":
            return torch.zeros(len(x), a["channels"], *x.shape[2:])
        case "pad":  # of rows the last two come first; of columns the last is cut, then the first goes before
            x = torch.cat([x[:, :, -2:], x], 2)[:, :, :, :-1]
            return torch.cat([x[:, :, :, -1:], x], 3)
        case "upsample":
            rows, columns = (torch.arange(n) * old // n for n, old in zip(a["size"], x.shape[2:], strict=True))
            return x[:, :, rows][:, :, :, columns]
        case "conv":
            return F.conv2d(x, w["weight"], w.get("bias"), a["stride"], a["padding"], a["dilation"], a["groups"])
        case "linear":
            return x @ w["weight"].T + w.get("bias", 0)
        case "batch_norm":
            columns = {key: tensor.view(-1, *[1] * (x.ndim - 2)) for key, tensor in w.items()}
            x = (x - columns["running_mean"]) / (columns["running_var"] + a["eps"]).sqrt()
            return x * columns.get("weight", 1) + columns.get("bias", 0)
        case "relu":
            return x.clamp(min=0)
        case "sigmoid":
            return 1 / (1 + torch.exp(-x))
        case "dropout":
            return x
        case "max_pool":
            return F.max_pool2d(x, a["kernel_size"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
        case "avg_pool":
            window = a["kernel_size"], a["stride"], a["padding"]
            return F.avg_pool2d(x, *window, ceil_mode=a["ceil_mode"], count_include_pad=a["count_include_pad"])
        case "adaptive_avg_pool":
            return F.adaptive_avg_pool2d(x, a["output_size"])
        case "flatten":
            return x.reshape(len(x), -1)
        case "concat":
            return torch.cat(inputs, 1)
        case "channel_shuffle":  # ShuffleNet §3.1
            return x.unflatten(1, (a["groups"], -1)).transpose(1, 2).flatten(1, 2)
    raise AssertionError(kind)


def test_the_two_networks_hold_every_kind() -> None:
    assert {layer.kind for make in (every_kind, every_other_kind) for layer in make().layers} == set(LAYER_TYPES)


@BOTH
def test_network_agrees_with_the_naive_evaluation(make: Callable[[], Architecture]) -> None:
    architecture = make()
    weights = random_weights(architecture)
    x = torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(1))
    network = build(architecture, weights).eval()
    expected = naive(architecture, weights, x)
    assert expected.shape == (3, *architecture.output_shape)
    torch.testing.assert_close(network(x), expected)
    for layer, shape, seen in zip(architecture.layers, architecture.shapes, _seen(network, x), strict=True):
        assert seen == shape, layer.name


def _seen(network: Network, x: Tensor) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for module in network.layers.children():
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(x)
    return shapes


def test_nothing_is_changed_in_place() -> None:
    layers = (Layer("r", "relu", (slot(INPUT),)), Layer("s", "relu", (slot(INPUT, 0),)))
    x = torch.tensor([[[[-1.0, 2.0]]]])
    kept = x.clone()
    assert torch.equal(build(Architecture(layers, (1, 1, 2), slot(0, 1, INPUT)))(x), torch.tensor([[[[-1.0, 8.0]]]]))
    assert torch.equal(x, kept)


@BOTH
def test_gradients_reach_all_weights(make: Callable[[], Architecture]) -> None:
    network = build(make())
    network(torch.randn(4, 4, 9, 7)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_tensors_are_dropped_when_nobody_needs_them() -> None:
    chain = [Layer(f"r{i}", "relu", (slot(i - 1),)) for i in range(6)]
    chain[5] = Layer("r5", "relu", (slot(1, 4),))  # layer 1 is needed until the end
    network = build(Architecture(tuple(chain), (2, 4, 4), slot(5)))
    alive: list[weakref.ref[Tensor]] = []
    counts: list[list[bool]] = []
    for module in network.layers.children():
        module.register_forward_pre_hook(lambda *_: counts.append([ref() is not None for ref in alive]))
        module.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))
    with torch.no_grad():
        network(torch.randn(1, 2, 4, 4))
    assert counts[3] == [False, True, True]
    assert counts[4] == [False, True, False, True]


@BOTH
def test_a_copied_network_runs_its_own_layers(make: Callable[[], Architecture]) -> None:
    network = build(make(), random_weights(make())).eval()
    copied = copy.deepcopy(network)
    x = torch.randn(2, 4, 9, 7)
    before = network(x)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(network(x), before)
    assert not torch.equal(copied(x), before)


def test_opaque_code_is_copied_from_its_teacher() -> None:
    """A student from JSON has no code until its teacher gives it back; its weights are the student's."""
    teacher = every_other_kind()
    student = Architecture.from_json(teacher.to_json())
    weights = random_weights(student)
    assert student == teacher and student.arch_id == teacher.arch_id
    with pytest.raises(ArchitectureError, match="layer 'mix' is opaque"):
        build(student, weights)
    network = build(student.with_code_of(teacher), weights)
    assert torch.equal(network.weights()["mix.weight"], weights["mix.weight"])
    code = next(layer.code for layer in teacher.layers if layer.kind == "opaque")
    assert not code.weight.detach().any() and not code.offset.any()
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_running_statistics_of_features_move_too() -> None:
    network = build(every_other_kind())
    network(torch.randn(6, 4, 9, 7))
    assert network.weights()["bn.running_mean"].any()


# -- names and weights -----------------------------------------------------------------------------------------------


@given(st.text(alphabet="ab./~01_", min_size=1))
def test_module_names_are_reversible(name: str) -> None:
    assert "." not in module_name(name)
    assert layer_name(module_name(name)) == name


def test_awkward_layer_names() -> None:
    names = ["type", "forward", "layers", "a", "a.b", "a/b", "a~1b", "training", "0", "weight"]
    layers = tuple(
        Layer(name, "conv", (slot(i - 1),), 2, {"kernel_size": 1, "bias": False}) for i, name in enumerate(names)
    )
    network = build(Architecture(layers, (2, 3, 3), slot(len(names) - 1)))
    assert list(network.weights()) == [f"{name}.weight" for name in names]
    keys = [layer_name(key.removeprefix("layers.").removesuffix(".weight")) for key in network.state_dict()]
    assert keys == names


@BOTH
def test_weights_are_all_there_is(make: Callable[[], Architecture]) -> None:
    network = build(make())
    assert {name: tuple(tensor.shape) for name, tensor in network.weights().items()} == weight_shapes(make())
    assert len(network.state_dict()) == len(network.weights())
    assert all(tensor.is_floating_point() for tensor in network.weights().values())
    assert sum(parameter.numel() for parameter in network.parameters()) == make().num_params


@BOTH
def test_state_dict_round_trip_through_a_plain_dict(make: Callable[[], Architecture]) -> None:
    first, second = build(make()), build(make())
    second.load_state_dict(dict(first.state_dict().items()))
    assert all(torch.equal(a, b) for a, b in zip(first.weights().values(), second.weights().values(), strict=True))


def test_weights_is_a_copy_and_load_weights_the_way_back() -> None:
    network = build(every_kind())
    saved = network.weights()
    x = torch.randn(8, 4, 9, 7)
    network(x).sum().backward()  # moves the running statistics
    torch.optim.SGD(network.parameters(), 0.1).step()
    assert not any(torch.equal(saved[name], network.weights()[name]) for name in ("a.bn.running_mean", "fc.weight"))
    parameter = next(network.parameters())
    network.load_weights(saved)
    assert next(network.parameters()) is parameter
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.weights().items())


def test_running_statistics_move_with_the_momentum_and_can_be_reset() -> None:
    architecture = Architecture(
        (Layer("bn", "batch_norm", (slot(INPUT),), attrs={"momentum": 0.25}),), (1, 1, 2), slot(0)
    )
    network = build(architecture)
    network(torch.tensor([[[[1.0, 3.0]]]]))
    found = {name: round(float(tensor), 6) for name, tensor in network.weights().items()}
    assert found == {"bn.weight": 1, "bn.bias": 0, "bn.running_mean": 0.5, "bn.running_var": 1.25}
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).reset_running_stats()
    assert (float(network.weights()["bn.running_mean"]), float(network.weights()["bn.running_var"])) == (0, 1)


@BOTH
def test_build_copies_keeps_the_dtype_and_draws_nothing(make: Callable[[], Architecture]) -> None:
    architecture = make()
    weights = {name: tensor.double() for name, tensor in random_weights(architecture).items()}
    before = torch.get_rng_state()
    network = build(architecture, weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training and all(p.requires_grad and p.dtype == torch.float64 for p in network.parameters())
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(tensor.any() for tensor in weights.values())
    assert all(tensor.dtype == torch.float32 for tensor in build(architecture).weights().values())


def _without(weights: dict[str, Tensor]) -> None:
    del weights["fc.bias"]


def _with_another(weights: dict[str, Tensor]) -> None:
    weights["fc3.weight"] = torch.zeros(1)


def _reshaped(weights: dict[str, Tensor]) -> None:
    weights["a.conv.weight"] = torch.zeros(4, 4, 1, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_without, "lack 'fc.bias'"),
        (_with_another, "hold 'fc3.weight'"),
        (_reshaped, r"'a.conv.weight' has shape \(4, 4, 1, 1\): it must be \(4, 4, 3, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Callable[[dict[str, Tensor]], None], text: str) -> None:
    weights = random_weights(every_kind())
    change(weights)
    network = build(every_kind())
    before = network.weights()
    for act in (lambda: build(every_kind(), weights), lambda: network.load_weights(weights)):
        with pytest.raises(ArchitectureError, match=text) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.weights().items())


# -- inheriting ------------------------------------------------------------------------------------------------------


@BOTH
def test_doing_nothing_gives_the_same_tensors(make: Callable[[], Architecture]) -> None:
    weights = random_weights(make())
    inherited = inherit(weights, make())
    assert list(inherited) == list(weights)
    assert all(inherited[name] is weights[name] for name in weights)


def conv_layer(inputs: int, outputs: int, groups: int = 1, **kept: Any) -> Architecture:
    attrs = {"kernel_size": (2, 1), "groups": groups}
    layer = Layer("student", "conv", (slot(INPUT),), outputs, attrs, origin="teacher", **kept)
    return Architecture((layer,), (inputs, 4, 4), slot(0))


def subset(draw: Any, size: int, count: int) -> np.ndarray:
    return np.array(sorted(draw(st.permutations(range(size)))[:count]))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_inherited_convolutions_against_one_loop_per_weight(data: Any) -> None:
    """Where the teacher connects an output and an input, the student has that very weight; elsewhere, as documented."""
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    ipg, opg = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    inputs, outputs = groups * ipg, groups * opg
    depthwise = groups > 1 and ipg == 1
    if depthwise:  # its channels follow its input
        kept_in = subset(draw, inputs, draw(st.integers(1, inputs)))
        kept_out = (kept_in[:, None] * opg + np.arange(opg)).ravel()
        student_groups = len(kept_in)
    else:
        kept_in = subset(draw, inputs, groups * draw(st.integers(1, ipg)))
        kept_out = subset(draw, outputs, groups * draw(st.integers(1, opg)))
        student_groups = groups
    teacher = random_weights(conv_layer(inputs, outputs, groups), draw(st.integers(0, 5)))
    teacher = {name.replace("student", "teacher"): tensor for name, tensor in teacher.items()}
    student = conv_layer(len(kept_in), len(kept_out), student_groups, kept_in=kept_in, kept_out=kept_out)
    found = inherit(teacher, student)
    student_ipg, student_opg = len(kept_in) // student_groups, len(kept_out) // student_groups
    assert found["student.weight"].shape == (len(kept_out), student_ipg, 2, 1)
    for o in range(len(kept_out)):
        assert found["student.bias"][o] == teacher["teacher.bias"][kept_out[o]]
        for position in range(student_ipg):
            i = kept_in[o // student_opg * student_ipg + position]
            connected = i // ipg == kept_out[o] // opg
            place = i - kept_out[o] // opg * ipg if connected else i % ipg
            expected = teacher["teacher.weight"][kept_out[o], place]
            assert torch.equal(found["student.weight"][o, position], expected)


def test_depthwise_convolution_shrunk_to_one_channel() -> None:
    """It looks like an ordinary convolution then, but its filters still have one input each."""
    teacher = {"teacher.weight": torch.arange(6.0).view(3, 1, 2, 1), "teacher.bias": torch.arange(3.0)}
    student = conv_layer(1, 1, 1, kept_in=np.array([2]), kept_out=np.array([2]))
    assert inherit(teacher, student)["student.weight"].flatten().tolist() == [4, 5]


def test_a_student_computes_what_the_teacher_does_on_the_channels_that_are_kept() -> None:
    """Conv, batch norm, flatten and linear: dropping channels is the same as zeroing what reads them."""
    names = ("conv", "bn", "flat", "fc")

    def network(channels: int, **kept: Any) -> Architecture:
        features = kept.get("features")
        layers = (
            Layer("conv", "conv", (slot(INPUT),), channels, {"kernel_size": 3}, "conv", kept.get("kept")),
            Layer("bn", "batch_norm", (slot(0),), 0, {}, "bn", kept.get("kept"), kept.get("kept")),
            Layer("flat", "flatten", (slot(1),), 0, {}, "flat"),
            Layer("fc", "linear", (slot(2),), 3, {}, "fc", None, features),
        )
        return Architecture(layers, (2, 4, 4), slot(3))

    teacher = network(6)
    assert tuple(layer.name for layer in teacher.layers) == names
    weights = random_weights(teacher)
    kept = np.array([1, 2, 5])
    features = (kept[:, None] * 4 + np.arange(4)).ravel()
    student = network(3, kept=kept, features=features)
    zeroed = dict(weights)
    mask = torch.zeros(24)
    mask[torch.from_numpy(features)] = 1
    zeroed["fc.weight"] = weights["fc.weight"] * mask
    x = torch.randn(4, 2, 4, 4)
    expected = build(teacher, zeroed).eval()(x)
    torch.testing.assert_close(build(student, inherit(weights, student)).eval()(x), expected)


def test_a_layer_without_origin_inherits_by_its_name() -> None:
    architecture = every_kind()
    assert all(layer.origin is None for layer in architecture.layers)
    weights = random_weights(architecture)
    assert inherit(weights, architecture)["fc.weight"] is weights["fc.weight"]


@pytest.mark.parametrize(
    ("student", "text"),
    [
        (conv_layer(2, 4), "'student' needs a weight of shape"),
        (conv_layer(4, 2), "'student' needs a weight of shape"),
        (conv_layer(4, 2, kept_out=np.array([0, 4])), "keeps channels that 'teacher' does not have"),
        (conv_layer(1, 4, kept_in=np.array([7])), "keeps channels that 'teacher' does not have"),
        (conv_layer(1, 4, kept_in=np.array([0, 1])), "'student' needs a weight of shape"),
    ],
)
def test_inheriting_what_is_not_there_is_refused(student: Architecture, text: str) -> None:
    weights = {"teacher.weight": torch.zeros(4, 4, 2, 1), "teacher.bias": torch.zeros(4)}
    with pytest.raises(ArchitectureError, match=text) as caught:
        inherit(weights, student)
    assert "\n" not in str(caught.value)


def test_unknown_origin_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"layer 'student' cannot inherit.*'teacher.weight'"):
        inherit({"student.weight": torch.zeros(4, 4, 2, 1)}, conv_layer(4, 4))


def test_shapes_of_weights_by_hand() -> None:
    shapes = weight_shapes(conv_layer(4, 6, 2))
    assert shapes == {"student.weight": (6, 2, 2, 1), "student.bias": (6,)}
    assert sum(map(prod, shapes.values())) == 30
