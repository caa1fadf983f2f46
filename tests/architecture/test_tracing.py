"""Tracing: what is understood, what is refused, and that nothing passes silently."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from esnac_lib.architecture import tracing
from esnac_lib.architecture.graph import INPUT, Architecture, slot
from esnac_lib.architecture.network import Weights, build
from esnac_lib.architecture.tracing import draft, trace
from esnac_lib.errors import TraceError
from esnac_lib.teachers import teacher

Pair = tuple[int, int]

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A module whose forward is the given function of (module, input)."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(inputs: int = 4, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=options.pop("padding", 1), **options)


def attributes(module: nn.Module, example: Tensor = X) -> list[tuple[str, dict[str, Any]]]:
    architecture, _ = trace(module, example)
    return [(layer.kind, dict(layer.attrs)) for layer in architecture.layers]


# -- teachers --------------------------------------------------------------------------------------------------------

TEACHERS = {
    **{"vgg19": (3, 32, 55), "resnet18": (3, 32, 60), "resnet34": (3, 32, 108), "shufflenet": (3, 32, 159)},
    **{"shufflenet_0.5x_g8": (3, 32, 156), "conv7": (1, 28, 25), "conv10": (3, 32, 37), "cnn4": (1, 8, 17)},
}


@cache
def traced(name: str) -> tuple[nn.Module, Tensor, Architecture, Weights]:
    channels, size, _ = TEACHERS[name]
    x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    module = teacher(name, 10, channels, size, seed=0)
    with torch.no_grad():  # running statistics that are not those of a fresh batch norm
        module(x)
    return module.eval(), x, *trace(module, x)


@pytest.mark.parametrize("name", TEACHERS)
def test_teachers_are_traced_rebuilt_and_counted_exactly(name: str) -> None:
    module, x, architecture, weights = traced(name)
    assert len(architecture.layers) == TEACHERS[name][2]
    rebuilt = build(architecture, weights).eval()
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(x), module(x), rtol=1e-5, atol=1e-5)
    assert architecture.num_params == sum(parameter.numel() for parameter in module.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        module(x[:1])
    assert architecture.macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", TEACHERS)
def test_a_rebuilt_teacher_is_traced_to_the_same_architecture(name: str) -> None:
    _, x, architecture, weights = traced(name)
    again, same = trace(build(architecture, weights), x[:1])
    assert again.arch_id == architecture.arch_id
    assert again == architecture  # names and order too
    assert list(same) == list(weights) and all(torch.equal(same[key], weights[key]) for key in same)


# -- what is understood ----------------------------------------------------------------------------------------------


def test_names_origins_and_weights() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.bn(self.conv(x))) + x

    module = nn.Sequential(Block(), nn.Sequential(Block(), nn.Identity()))
    architecture, weights = trace(module, X)
    names = ["0.conv", "0.bn", "relu", "1.0.conv", "1.0.bn", "relu_1"]
    assert [layer.name for layer in architecture.layers] == names
    assert [layer.origin for layer in architecture.layers] == names
    assert all(layer.kept_out is None and layer.kept_in is None for layer in architecture.layers)
    assert architecture.layers[3].inputs == (slot(2, INPUT),)
    assert list(weights)[:5] == ["0.conv.weight", "0.bn.weight", "0.bn.bias", "0.bn.running_mean", "0.bn.running_var"]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert weights["0.conv.weight"].any() and not weights["0.conv.weight"].requires_grad


def geometry(kernel_size: Pair, stride: Pair, padding: Pair) -> dict[str, Any]:
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding}


def test_all_attributes_of_modules_are_kept() -> None:
    bn = nn.BatchNorm2d(6, eps=1e-3, momentum=0.3, affine=False)
    bn.running_mean = torch.arange(6.0)
    module = nn.Sequential(
        nn.Conv2d(4, 6, (3, 1), (2, 1), (2, 0), (2, 1), groups=2, bias=False),
        bn,
        nn.Dropout(0.25),
        nn.MaxPool2d((2, 3), (1, 2), (0, 1), (1, 2), ceil_mode=True),
        nn.AvgPool2d((2, 1), None, (1, 0), ceil_mode=True, count_include_pad=False),
        nn.ChannelShuffle(3),
        nn.AdaptiveAvgPool2d((2, None)),
        nn.Sigmoid(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 2, bias=False),
    )
    assert attributes(module) == [
        ("conv", geometry((3, 1), (2, 1), (2, 0)) | {"dilation": (2, 1), "groups": 2, "bias": False}),
        ("batch_norm", {"eps": 1e-3, "momentum": 0.3, "affine": False}),
        ("dropout", {"p": 0.25}),
        ("max_pool", geometry((2, 3), (1, 2), (0, 1)) | {"dilation": (1, 2), "ceil_mode": True}),
        ("avg_pool", geometry((2, 1), (2, 1), (1, 0)) | {"ceil_mode": True, "count_include_pad": False}),
        ("channel_shuffle", {"groups": 3}),
        ("adaptive_avg_pool", {"output_size": (2, 4)}),
        ("sigmoid", {}),
        ("relu", {}),
        ("flatten", {}),
        ("linear", {"bias": False}),
    ]


@pytest.mark.parametrize(("padding", "expected"), [("same", (2, 1)), ("valid", (0, 0))])
def test_padding_in_words(padding: str, expected: tuple[int, int]) -> None:
    found = attributes(nn.Sequential(nn.Conv2d(4, 4, (5, 3), padding=padding)))
    assert found[0][1]["padding"] == expected


MAX = geometry((3, 3), (2, 2), (1, 1)) | {"dilation": (1, 1), "ceil_mode": True}
AVERAGE = geometry((2, 2), (2, 2), (1, 1)) | {"ceil_mode": False, "count_include_pad": False}
FUNCTIONS: list[tuple[Callable[[Tensor], Tensor], str, dict[str, Any]]] = [
    (lambda x: F.relu(x), "relu", {}),
    (lambda x: F.relu(x, inplace=True), "relu", {}),
    (lambda x: torch.relu(x), "relu", {}),
    (lambda x: x.relu(), "relu", {}),
    (lambda x: x.relu_(), "relu", {}),
    (lambda x: torch.sigmoid(x), "sigmoid", {}),
    (lambda x: F.sigmoid(x), "sigmoid", {}),
    (lambda x: x.sigmoid(), "sigmoid", {}),
    (lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True), "max_pool", MAX),
    (lambda x: torch.max_pool2d(x, 3, 2, 1, 1, True), "max_pool", MAX),
    (lambda x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False), "avg_pool", AVERAGE),
    (lambda x: F.avg_pool2d(x, kernel_size=2, stride=2, padding=1, count_include_pad=False), "avg_pool", AVERAGE),
    (lambda x: F.adaptive_avg_pool2d(x, 2), "adaptive_avg_pool", {"output_size": (2, 2)}),
    (lambda x: F.adaptive_avg_pool2d(x, (None, 2)), "adaptive_avg_pool", {"output_size": (8, 2)}),
    (lambda x: F.channel_shuffle(x, 2), "channel_shuffle", {"groups": 2}),
    (lambda x: torch.flatten(x, 1), "flatten", {}),
    (lambda x: torch.flatten(x, start_dim=1, end_dim=3), "flatten", {}),
    (lambda x: x.flatten(1), "flatten", {}),
    (lambda x: x.flatten(-3), "flatten", {}),
    (lambda x: x.view(x.size(0), -1), "flatten", {}),
    (lambda x: x.view(x.shape[0], -1), "flatten", {}),
    (lambda x: x.view(x.size()[0], 256), "flatten", {}),
    (lambda x: x.view((len(X) and -1, 256)), "flatten", {}),
    (lambda x: x.reshape(x.size(0), -1), "flatten", {}),
    (lambda x: torch.reshape(x, (x.size(0), -1)), "flatten", {}),
    (lambda x: torch.reshape(x, shape=(-1, 256)), "flatten", {}),
]


@pytest.mark.parametrize("index", range(len(FUNCTIONS)))
def test_functions(index: int) -> None:
    function, kind, attrs = FUNCTIONS[index]
    # the convolution keeps in-place functions off the example input
    assert attributes(Of(lambda m, x: function(m.conv(x)), conv=conv()))[1:] == [(kind, attrs)]


def test_unpacked_sizes() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 1)
        batch, channels, _, _ = x.size()
        return x.view(batch, channels)

    assert [kind for kind, _ in attributes(Of(forward))] == ["adaptive_avg_pool", "flatten"]


def _iadd(module: Any, x: Tensor) -> Tensor:
    y = module.a(x)
    y += x
    return y


SUMS: list[tuple[Callable[[Any, Tensor], Any], tuple[Pair, ...]]] = [
    (lambda m, x: m.a(x) + x, slot(INPUT, 0)),
    (lambda m, x: x + m.a(x) + x, slot(INPUT, INPUT, 0)),
    (_iadd, slot(INPUT, 0)),
    (lambda m, x: torch.add(m.a(x), x), slot(INPUT, 0)),
    (lambda m, x: torch.add(m.a(x), other=x, alpha=3), slot(INPUT, INPUT, INPUT, 0)),
    (lambda m, x: m.a(x).add(x), slot(INPUT, 0)),
    (lambda m, x: m.a(x).add_(x), slot(INPUT, 0)),
    (lambda m, x: sum([m.a(x), x]), slot(INPUT, 0)),
    (lambda m, x: (lambda y: y + y)(m.a(x) + x), slot(INPUT, INPUT, 0, 0)),
    (lambda m, x: m.a(x) * 2 + 3 * x, slot(INPUT, INPUT, INPUT, 0, 0)),
]


@pytest.mark.parametrize("index", range(len(SUMS)))
def test_sums_are_slots_and_keep_their_multiplicity(index: int) -> None:
    forward, expected = SUMS[index]
    architecture, _ = trace(Of(lambda m, x: m.b(forward(m, x)), a=conv(), b=conv()), X)
    assert [layer.name for layer in architecture.layers] == ["a", "b"]
    assert architecture.layers[1].inputs == (expected,)
    bare, _ = trace(Of(forward, a=conv()), X)
    assert bare.output == expected


def test_concat_keeps_its_order_and_takes_sums() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        y = module.a(x)
        return torch.cat([x + y, y, x], dim=1)

    architecture, _ = trace(Of(forward, a=conv()), X)
    assert architecture.layers[1].name == "cat"
    assert architecture.layers[1].inputs == (slot(INPUT, 0), slot(0), slot(INPUT))
    again, _ = trace(build(architecture), X)
    assert again == architecture
    flat, _ = trace(Of(lambda m, x: torch.concat((x.flatten(1), x.flatten(1)), -1)), X)
    assert flat.output_shape == (512,)


def test_a_module_without_weights_may_be_called_again() -> None:
    module = Of(lambda m, x: m.relu(m.b(m.relu(m.a(x)))), a=conv(), b=conv(), relu=nn.ReLU())
    architecture, _ = trace(module, X)
    assert [layer.name for layer in architecture.layers] == ["a", "relu", "b", "relu_1"]


def test_a_modules_path_is_never_taken_by_a_function() -> None:
    module = Of(lambda m, x: m.relu_1(m.relu(F.relu(F.relu(x)))), relu=conv(), relu_1=conv())
    names = [layer.name for layer in trace(module, X)[0].layers]
    assert names[2:] == ["relu", "relu_1"] and len(set(names)) == 4


def test_a_subclass_that_runs_the_same_code_is_known() -> None:
    class Three(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 3, padding=1)

    assert [kind for kind, _ in attributes(nn.Sequential(Three()))] == ["conv"]


def shaken(module: nn.Module) -> nn.Module:
    """The module in eval mode with all parameters and statistics drawn, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.2)
    return module.eval()


def kinds(module: nn.Module, example: Tensor = X) -> list[str]:
    """The kinds of the layers; the function of an activation. The outputs are compared once more, on other images."""
    architecture, weights = trace(shaken(module), example)
    other = torch.randn(5, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(build(architecture, weights).eval()(other), module(other), rtol=1e-4, atol=1e-4)
    assert architecture.num_params == sum(parameter.numel() for parameter in module.parameters())
    return [layer["function"] if layer.kind == "activation" else layer.kind for layer in architecture.layers]


ACTIVATIONS: dict[str, tuple[tuple[Any, ...], tuple[float, ...]]] = {
    "relu6": ((F.relu6,), ()),
    "silu": ((F.silu, nn.SiLU(inplace=True)), ()),
    "gelu": ((F.gelu, nn.GELU()), ()),
    "gelu_tanh": ((lambda x: F.gelu(x, approximate="tanh"), nn.GELU("tanh")), ()),
    "hardswish": ((F.hardswish, nn.Hardswish()), ()),
    "hardsigmoid": ((F.hardsigmoid, nn.Hardsigmoid()), ()),
    "elu": ((lambda x: F.elu(x, 0.5), nn.ELU(0.5)), (0.5,)),
    "celu": ((lambda x: F.celu(x, 0.5), nn.CELU(0.5), lambda x: torch.celu(x, 0.5)), (0.5,)),
    "selu": ((F.selu, nn.SELU()), ()),
    "leaky_relu": ((lambda x: F.leaky_relu(x, 0.2, inplace=True), nn.LeakyReLU(0.2)), (0.2,)),
    "mish": ((F.mish, nn.Mish()), ()),
    "tanh": ((torch.tanh, F.tanh, Tensor.tanh_, nn.Tanh()), ()),
    "softplus": ((lambda x: F.softplus(x, 2.0, 10.0), nn.Softplus(2.0, 10.0)), (2.0, 10.0)),
    "softsign": ((F.softsign, nn.Softsign()), ()),
    "hardtanh": (
        (lambda x: F.hardtanh(x, 0.0, 6.0), nn.ReLU6(), nn.Hardtanh(0.0, 6.0), lambda x: x.clamp(0, 6), lambda x:
         torch.clip(x, min=0, max=6)), (0.0, 6.0),
    ),
    "logsigmoid": ((F.logsigmoid, nn.LogSigmoid()), ()),
    "square": ((torch.square, lambda x: x**2, lambda x: x.pow(2)), ()),
    "abs": ((torch.abs, abs, Tensor.abs_), ()),
}  # fmt: skip


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_as_functions_methods_and_modules(function: str) -> None:
    forms, arguments = ACTIVATIONS[function]
    for form in forms:
        found = attributes(Of(lambda m, x, form=form: form(m.conv(x)), conv=conv()))[1:]
        assert found == [("activation", {"function": function, "arguments": arguments})]
        if isinstance(form, nn.Module):
            assert [layer.name for layer in trace(nn.Sequential(conv(), form), X)[0].layers] == ["0", "1"]


def _se_of_convolutions(module: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(module.b(F.relu(module.a(x.mean((2, 3), keepdim=True)))))


def _se_of_linear_layers(module: Any, x: Tensor) -> Tensor:
    batch, channels, _, _ = x.shape
    gate = F.adaptive_avg_pool2d(x, 1).view(batch, channels)
    gate = module.b(module.a(gate).relu()).sigmoid().view(batch, channels, 1, 1)
    return x * gate.expand_as(x)


def _convnext(module: Any, x: Tensor) -> Tensor:
    y = module.norm(module.a(x).permute(0, 2, 3, 1))
    y = module.scale.weight * module.c(F.gelu(module.b(y)))
    return x + y.permute(0, 3, 1, 2)


def _tokens(module: Any, x: Tensor) -> Tensor:
    y = module.norm(x.flatten(2).transpose(1, 2))
    y = y + F.silu(module.b(y))
    return module.c(torch.cat([y, y], 2)).mean(1)


def _channel_shuffle(module: Any, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    a, b = x.chunk(2, dim=1)
    x = torch.cat((a, module.a(b)), dim=1)
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)


def _option_a(module: Any, x: Tensor) -> Tensor:
    return module.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))


def _zeros(module: Any, x: Tensor) -> Tensor:
    rest = torch.zeros(x.size(0), 4, x.size(2), x.size(3))
    return module.a(x) + torch.cat([x, rest], 1)


def _same_padding(module: Any, x: Tensor) -> Tensor:
    """As TensorFlow pads: so that the map has ceil(size / stride) pixels."""
    missing = [max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:]]
    height, width = missing
    return module.a(F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2]))


def _option_a_block() -> nn.Module:
    return Of(_option_a, a=nn.Conv2d(4, 8, 3, 2, 1))


class LayerScale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 4, 1, 1))
        self.register_buffer("std", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


SE = ["adaptive_avg_pool", "conv", "relu", "conv", "sigmoid", "multiply"]
SE_LINEAR = ["adaptive_avg_pool", "flatten", "linear", "relu", "linear", "sigmoid", "unflatten", "multiply"]
CONVNEXT = ["conv", "layer_norm", "conv", "gelu", "conv", "scale"]


def _pair_of(kind: type[nn.Module], *, last: int = 4) -> dict[str, nn.Module]:
    return {"a": kind(4, 8, 1), "b": kind(8, last, 1)} if kind is nn.Conv2d else {"a": kind(4, 8), "b": kind(8, last)}


def _next() -> dict[str, nn.Module]:
    parts = {"a": conv(groups=4), "norm": nn.LayerNorm(4), "b": nn.Linear(4, 8), "c": nn.Linear(8, 4)}
    return parts | {"scale": LayerScale(4)}


UNDERSTOOD: list[tuple[Callable[[], nn.Module], list[str]]] = [
    # norms
    (lambda: nn.Sequential(nn.GroupNorm(2, 4, 1e-3)), ["group_norm"]),
    (lambda: nn.Sequential(nn.InstanceNorm2d(4, affine=True)), ["instance_norm"]),
    (lambda: nn.Sequential(nn.InstanceNorm2d(4)), ["instance_norm"]),
    (lambda: Of(lambda m, x: F.group_norm(x, 2, m.scale.weight), scale=LayerScale(4)), ["group_norm", "scale"]),
    (lambda: nn.Sequential(nn.PReLU(), nn.PReLU(4)), ["prelu", "prelu"]),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.BatchNorm1d(6), nn.LayerNorm(6, bias=False)),
     ["flatten", "linear", "batch_norm", "layer_norm"]),
    (lambda: Of(lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)), ["layer_norm"]),
    (lambda: Of(lambda m, x: F.batch_norm(x, m.a.running_mean, m.a.running_var, m.a.weight, m.a.bias, False, 0.2, 1e-3),
                a=nn.BatchNorm2d(4)), ["broadcast", "broadcast", "scale"]),  # in training, too, with these statistics
    (lambda: Of(lambda m, x: F.batch_norm(x, m.a.running_mean, m.a.running_var, m.a.weight, m.a.bias, m.training, 0.2,
                                          1e-3), a=nn.BatchNorm2d(4)), ["batch_norm"]),
    # borders and sizes
    (lambda: nn.Sequential(conv(padding_mode="reflect")), ["pad", "conv"]),
    (lambda: nn.Sequential(conv(padding_mode="circular")), ["pad", "conv"]),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, (2, 4), padding="same")), ["pad", "conv"]),
    (lambda: nn.Sequential(nn.ZeroPad2d((1, 0, 2, 0)), nn.ReflectionPad2d(1), nn.ReplicationPad2d(2)), ["pad"] * 3),
    (lambda: nn.Sequential(nn.ConstantPad2d((1, -2, 0, 0), 0.5), nn.CircularPad2d(1)), ["pad", "pad"]),
    (lambda: Of(lambda m, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2)), ["pad", "max_pool"]),
    (lambda: Of(_same_padding, a=nn.Conv2d(4, 4, 3, 2)), ["pad", "conv"]),
    (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample((5, 7), mode="bilinear", align_corners=True)),
     ["upsample", "upsample"]),
    (lambda: Of(lambda m, x: F.interpolate(x, size=x.shape[-1] * 2, mode="bicubic")), ["upsample"]),
    (lambda: nn.Sequential(nn.AdaptiveMaxPool2d((2, None))), ["adaptive_max_pool"]),
    (lambda: Of(lambda m, x: F.adaptive_max_pool2d(x, 3)), ["adaptive_max_pool"]),
    (lambda: Of(lambda m, x: F.avg_pool2d(x, x.size()[2:])), ["avg_pool"]),
    # averages
    (lambda: Of(lambda m, x: x.mean((2, 3))), ["adaptive_avg_pool", "flatten"]),
    (lambda: Of(lambda m, x: x.mean([-1, -2], keepdim=True)), ["adaptive_avg_pool"]),
    (lambda: Of(lambda m, x: x.mean(3).mean(2)), ["adaptive_avg_pool", "adaptive_avg_pool", "flatten"]),
    (lambda: Of(lambda m, x: x.flatten(2).mean(-1)), ["adaptive_avg_pool", "flatten"]),
    (lambda: Of(lambda m, x: torch.sum(x, dim=(2, 3))), ["adaptive_avg_pool", "affine", "flatten"]),
    (lambda: Of(lambda m, x: x.amax((2, 3), keepdim=True)), ["adaptive_max_pool"]),
    (lambda: Of(lambda m, x: x.permute(0, 2, 3, 1).mean((1, 2))), ["adaptive_avg_pool", "flatten"]),
    # arithmetic
    (lambda: Of(lambda m, x: (1 - x) / 4 + 0.5), ["affine", "affine", "affine"]),
    (lambda: Of(lambda m, x: x * 0.5 - 3), ["affine", "affine"]),
    (lambda: Of(lambda m, x: torch.add(x, x, alpha=0.5) - x), ["affine", "affine"]),
    (lambda: Of(lambda m, x: -x * 1 + 0), ["affine"]),
    (lambda: Of(lambda m, x: x * torch.sigmoid(x)), ["sigmoid", "multiply"]),
    (lambda: Of(lambda m, x: x.mul_(x.sigmoid())), ["sigmoid", "multiply"]),
    (lambda: Of(lambda m, x: x + F.adaptive_avg_pool2d(x, 1)), ["adaptive_avg_pool", "add"]),
    (lambda: Of(lambda m, x: F.adaptive_avg_pool2d(x, 1).expand(-1, -1, 8, 8) * x), ["adaptive_avg_pool", "multiply"]),
    (lambda: Of(lambda m, x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(-1, 1, 1).sum() + torch.ones(1)),
     ["affine", "affine"]),
    (lambda: nn.Sequential(LayerScale(4, 1, 1), LayerScale(1, 4, 1, 1)), ["scale", "scale"]),
    (lambda: nn.Sequential(nn.Flatten(), LayerScale(256)), ["flatten", "scale"]),
    # movement
    (lambda: Of(lambda m, x: x[:, :2]), ["select"]),
    (lambda: Of(lambda m, x: x[:, [3, 1]] + x.narrow(1, 1, 2)), ["select", "select"]),
    (lambda: Of(lambda m, x: x[:, :, 1:-2, ::3]), ["pad", "max_pool"]),
    (lambda: Of(lambda m, x: torch.cat(torch.split(x, [1, 3], 1)[::-1], 1)), ["select", "select", "concat"]),
    (lambda: Of(lambda m, x: torch.cat([part.unsqueeze(1) for part in x.unbind(1)], 1)), [*["select"] * 4, "concat"]),
    (lambda: Of(lambda m, x: F.silu(x.transpose(2, 3)).transpose(2, 3)), ["silu"]),
    (lambda: Of(lambda m, x: x.reshape(x.shape[:1] + x.shape[1:]).clone().to(x.dtype).contiguous()), []),
    (lambda: Of(lambda m, x: (lambda a, b: a + b)(*x.flatten(1).chunk(2, 1))),
     ["select", "flatten", "select", "flatten"]),
    # a shuffle that is no nn.ChannelShuffle is a selection
    (lambda: Of(_channel_shuffle, a=conv(2, 2)), ["select", "select", "conv", "concat", "select"]),
    # blocks
    (lambda: Of(_se_of_convolutions, **_pair_of(nn.Conv2d)), SE),
    (lambda: Of(_se_of_linear_layers, **_pair_of(nn.Linear)), SE_LINEAR),
    (lambda: Of(_convnext, **_next()), CONVNEXT),
    (lambda: Of(_tokens, norm=nn.LayerNorm(4), b=nn.Linear(4, 4), c=nn.Linear(8, 3)),
     ["layer_norm", "conv", "silu", "concat", "conv", "adaptive_avg_pool", "flatten"]),
    (_option_a_block, ["conv", "max_pool", "zeros", "zeros", "concat"]),
    (lambda: Of(_zeros, a=conv(4, 8)), ["conv", "zeros", "concat"]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("index", range(len(UNDERSTOOD)))
def test_understood(index: int) -> None:
    make, expected = UNDERSTOOD[index]
    assert kinds(make()) == expected


def test_buffers_stay_fixed() -> None:
    """A normalisation of the images inside the model is not trained."""
    architecture, weights = trace(shaken(nn.Sequential(Normalise(), conv())), X)
    assert [layer.name for layer in architecture.layers] == ["0.mean", "0.std", "1"]
    assert [layer.kind for layer in architecture.layers] == ["broadcast", "broadcast", "conv"]
    assert set(weights) == {"0.mean.weight", "0.std.weight", "1.weight", "1.bias"}
    assert architecture.num_params == 148
    assert len(list(build(architecture, weights).parameters())) == 2


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised, and multiplied by a gain."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, self.gain * (self.weight - mean) / deviation, self.bias, padding=1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_are_computed_from_parameters_stay_with_what_computes_them() -> None:
    weight_norm, old = torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm
    for convolution in (Standardised(), weight_norm(conv()), old(conv())):
        module = shaken(nn.Sequential(convolution, nn.ReLU(), conv()))
        architecture, weights = trace(module, X)
        assert [layer.kind for layer in architecture.layers] == ["opaque", "relu", "conv"]
        assert architecture.num_params == sum(parameter.numel() for parameter in module.parameters())
        assert "computed from" in architecture.layers[0].reason
        with torch.no_grad():
            torch.testing.assert_close(build(architecture, weights)(X), module(X))


def test_a_learned_number_is_learned() -> None:
    module = nn.Sequential(LayerScale(1), conv())
    with torch.no_grad():
        module[0].weight.fill_(1.5)
    architecture, weights = trace(module, X)
    assert architecture.layers[0].kind == "broadcast" and architecture.layers[0]["operation"] == "multiply"
    assert weights["0.weight"].tolist() == [[[1.5]]] and architecture.num_params == 149


def test_names_of_layers_whose_weights_a_function_reads() -> None:
    module = Of(_convnext, **_next())
    architecture, _ = trace(nn.Sequential(module, nn.Sequential(conv(padding_mode="reflect"))), X)
    assert [layer.name for layer in architecture.layers] == [
        *("0.a", "0.norm", "0.b", "gelu", "0.c", "0.scale"),
        *("1.0.pad", "1.0"),
    ]


class DropPath(nn.Module):
    """Drops whole images in training; the identity in eval mode, as in timm."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        return x * torch.empty(len(x), 1, 1, 1).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)


def test_stochastic_depth() -> None:
    module = Of(lambda m, x: x + m.c(m.b(m.a(x))), a=conv(), b=DropPath(0.1), c=StochasticDepth(0.2, "batch"))
    architecture, _ = trace(module, X)
    expected = [("b", {"p": 0.1, "mode": "row"}), ("c", {"p": 0.2, "mode": "batch"})]
    assert [(layer.name, dict(layer.attrs)) for layer in architecture.layers[1:]] == expected
    assert architecture.output == slot(INPUT, 2)
    assert attributes(nn.Sequential(DropPath(0.0), StochasticDepth(0.0, "row"), nn.Dropout(0.0))) == []


def test_a_dropout_in_eval_mode_is_a_layer_of_its_own_branch() -> None:
    """In eval mode PyTorch gives its argument again: the other branch must not be taken for the dropped one."""
    architecture, _ = trace(Of(lambda m, x: m.a(x) + F.dropout(x, 0.3, m.training), a=conv()), X)
    assert [(layer.kind, layer.inputs) for layer in architecture.layers] == [
        ("conv", (slot(INPUT),)),
        ("dropout", (slot(INPUT),)),
    ]


def test_what_is_left_out_is_told_in_one_warning() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.drop, self.head = conv(), nn.Dropout2d(), nn.Sequential(conv(), conv())

        def forward(self, x: Tensor) -> Any:
            x = self.drop(self.body(x))
            return (x, self.head(x)) if self.training else x

    with pytest.warns(UserWarning, match=r"dropout2d in drop \(Dropout2d\), .*; head, on which the output d") as told:
        architecture, weights = trace(Auxiliary(), X)
    assert len(told) == 1
    assert [layer.name for layer in architecture.layers] == ["body"] and set(weights) == {"body.weight", "body.bias"}


def test_a_branch_that_is_never_read_is_left_out() -> None:
    module = Of(lambda m, x: (m.a(x), m.b(x))[0], a=conv(), b=conv())
    with pytest.warns(UserWarning, match="left out of Of: b, on which"):
        assert [kind for kind, _ in attributes(module)] == ["conv"]


IN_PLACE: list[tuple[Callable[[Any, Tensor], Any], tuple[Pair, ...]]] = [
    # what is read again is the changed tensor
    (lambda m, x: (lambda y: m.relu(y) + y)(m.a(x)), slot(1, 1)),
    (lambda m, x: (lambda y: F.relu(y, inplace=True) + y)(m.a(x)), slot(1, 1)),
    (lambda m, x: (lambda y: y.add_(x) + y)(m.a(x)), slot(INPUT, INPUT, 0, 0)),
    (lambda m, x: (lambda y: F.relu(y) + y)(m.a(x)), slot(0, 1)),
]


@pytest.mark.parametrize("index", range(len(IN_PLACE)))
def test_operations_in_place(index: int) -> None:
    forward, expected = IN_PLACE[index]
    assert trace(Of(forward, a=conv(), relu=nn.ReLU(inplace=True)), X)[0].output == expected


def test_hooks_are_followed() -> None:
    """Those that only look, and those that change an output with functions that are known."""
    module = nn.Sequential(conv(), nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    assert [kind for kind, _ in attributes(module)] == ["conv", "relu"]
    module[0].register_forward_hook(lambda module, inputs, output: output * 1.01)
    assert [kind for kind, _ in attributes(module)] == ["conv", "affine", "relu"]


def test_a_network_inside_a_module() -> None:
    inner, weights = trace(Of(_convnext, **_next()), X)
    outer, _ = trace(nn.Sequential(conv(), build(inner, weights)), X)
    assert [layer.name for layer in outer.layers] == ["0", *(f"1.{layer.name}" for layer in inner.layers)]


@pytest.mark.parametrize("index", range(len(UNDERSTOOD)))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_a_rebuilt_network_of_any_layers_is_traced_to_itself(index: int) -> None:
    architecture, weights = trace(shaken(UNDERSTOOD[index][0]()), X)
    again, same = trace(build(architecture, weights), X)
    assert again == architecture and list(same) == list(weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_traced_in_float32(dtype: torch.dtype) -> None:
    module = nn.Sequential(conv(), nn.BatchNorm2d(4)).to(dtype).eval()
    with pytest.warns(UserWarning, match=r"precision of its numbers \((b?float\d+)\): the trace is in float32"):
        architecture, weights = trace(module, X.to(dtype))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()} == {dtype}
    with torch.no_grad():
        torch.testing.assert_close(build(architecture, weights).eval()(X), copy.deepcopy(module).float()(X))


def test_modes_input_weights_and_random_state_are_left_alone() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(4), nn.Dropout(0.5))
    module[2].eval()
    modes = [part.training for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    example, random = X.clone(), torch.get_rng_state()
    trace(module, example)
    trace(module, torch.zeros_like(example))
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(example, X) and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


# -- what is refused -------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def _branch(module: Any, x: Tensor) -> Tensor:
    return module.a(x) if x.mean() > 0 else x


def _tied() -> nn.Module:
    module = nn.Sequential(conv(), conv())
    module[1].weight = module[0].weight
    return module


def _through_a_view(module: Any, x: Tensor) -> Tensor:
    y = module.a(x)
    y.view(2, -1).mul_(2)
    return F.relu(y) + y


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Of(lambda m, x: F.dropout(m.a(x), 0.5), a=conv()), "dropout in Of, .*: a dropout that is on in eval mode"),
    (lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)), r"batch_norm in 1 .*running stati"),
    (lambda: Of(lambda m, x: m.a(x) - x.mean(0, keepdim=True), a=conv()), "mean in Of, .*: a mean over 0"),
    (lambda: Of(lambda m, x: torch.flatten(m.a(x)), a=conv()), "at its output, reads numbers that were moved about"),
    (lambda: Of(lambda m, x: m.a(x).flatten(2), a=conv()), r"a tensor \(2, 4, 64\) that lies as cn, not as chw or f"),
    (lambda: Of(lambda m, x: torch.cat([m.a(x), x]), a=conv()), "cat in Of, .*: joins along dimension 0"),
    (lambda: Of(lambda m, x: m.a(x).view(-1, 64), a=conv()), "at its output, reads numbers that were moved about"),
    (lambda: Of(lambda m, x: m.a(x).view(2, -1), a=conv()), r"makes \(2, 256\) of 2 images and \(2, 384\) of 3"),
    (lambda: Of(lambda m, x: m.a(x).view(2, 256), a=conv()), "runs on 2 images and fails on 3: shape"),
    (lambda: Of(lambda m, x: m.a(x) + x[[1, 0]], a=conv()), "add in Of, .*: reads numbers that were moved about"),
    (
        lambda: Of(lambda m, x: m.a(m.a(x)), a=conv()),
        r"conv2d in a \(Conv2d\), .*its weight is already used by layer 'a'",
    ),
    (lambda: Of(lambda m, x: m.a(m.a(x)), a=nn.BatchNorm2d(4, affine=False)), "already used by layer 'a'"),
    (_tied, r"conv2d in 1 \(Conv2d\): its weight is already used by layer '0'"),
    (lambda: Of(_branch, a=conv()), r"bool in Of, test_tracing.py:\d+: Python reads the values of a tensor"),
    (lambda: Of(lambda m, x: m.a(x) * x.max().item(), a=conv()), "item in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * float(x.max()), a=conv()), "float in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * int(x.max()), a=conv()), "int in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * len(range(x.argmax())), a=conv()), "index in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * x.mean((1, 2, 3)).tolist()[0], a=conv()), "tolist in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * float(x.numpy().max()), a=conv()), "numpy in Of, test_tracing.py"),
    (lambda: Of(lambda m, x: m.a(x) * len(x.nonzero()), a=conv()), "nonzero in Of, .*: the shape of its result"),
    (lambda: Of(lambda m, x: m.a(x) * len(x[x > 0]), a=conv()), "getitem in Of, .*: the shape of its result"),
    (lambda: TwoInputs(), r"TwoInputs fails on an input of shape \(2, 4, 8, 8\) at TwoInputs: .*missing"),
    (
        lambda: nn.Sequential(conv(3)),
        r"Sequential fails on an input of shape \(2, 4, 8, 8\) at 0 \(Conv2d\): Given groups",
    ),
    (lambda: Of(lambda m, x: (x, m.a(x)), a=conv()), "Of puts out a tuple"),
    (lambda: Of(lambda m, x: m.a(x).size(0), a=conv()), "Of puts out a int"),
    (lambda: Of(lambda m, x: torch.ones(2, 3), a=conv()), "Of puts out a constant"),
    (lambda: Of(_through_a_view, a=conv()), "reads a tensor that was changed in place by another name"),
    (lambda: Of(lambda m, x: m.a(x) + X, a=conv()), "reads a tensor from outside the module"),
]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refused_in_one_line(index: int) -> None:
    make, text = REFUSED[index]
    with pytest.raises(TraceError, match=text) as caught:
        trace(make().eval(), X)
    assert "\n" not in str(caught.value)


def test_the_line_of_a_refusal_is_the_users() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        y = module.a(x)
        return y if y.sum() > 0 else -y

    with pytest.raises(TraceError, match=rf"bool in 0 \(Of\), test_tracing.py:{forward.__code__.co_firstlineno + 2}:"):
        trace(nn.Sequential(Of(forward, a=conv())), X)


@pytest.mark.parametrize("example", [torch.zeros(4, 8, 8), torch.zeros(0, 4, 8, 8), torch.zeros(1, 4, 8, 8).int(), [1]])
def test_examples_that_are_no_images_are_refused(example: Any) -> None:
    with pytest.raises(TraceError, match="the example input is"):
        trace(nn.Sequential(nn.ReLU()), example)


@pytest.mark.parametrize("example", [torch.zeros_like(X), torch.ones_like(X)])
def test_a_constant_example_does_not_hide_a_difference(example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On zeros, bias-free convolutions give zeros whatever is wrong."""
    monkeypatch.setattr(tracing, "build", lambda architecture, weights: build(architecture))
    with pytest.raises(TraceError, match="different outputs"):
        trace(nn.Sequential(conv(bias=False)), example)


def test_a_network_that_is_rebuilt_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_wrong(architecture: Architecture, weights: Weights) -> nn.Module:
        return build(architecture, weights | {"0.bias": weights["0.bias"] + 1e-3})

    monkeypatch.setattr(tracing, "build", slightly_wrong)
    with pytest.raises(TraceError, match="different outputs"):
        trace(nn.Sequential(conv()), X)


def test_a_wrong_shape_rule_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check against the shapes that were seen bites: a rule that forgets ceil_mode is caught."""
    original = draft.Layer

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        layer = original(*args, **kwargs)
        return replace(layer, attrs={**dict(layer.attrs), "ceil_mode": False}) if layer.kind == "max_pool" else layer

    monkeypatch.setattr(draft, "Layer", forgetful)
    module = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True))
    with pytest.raises(TraceError, match=r"layer '0' \(max_pool\) puts out \(4, 4, 4\), predicted was \(4, 3, 3\)"):
        trace(module, X)
