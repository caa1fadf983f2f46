"""Tracing: what is understood, what is refused, and that nothing passes silently."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib import tracing
from esnac_lib.architecture import INPUT, Architecture, slot
from esnac_lib.errors import TraceError
from esnac_lib.network import Weights, build
from esnac_lib.teachers import teacher
from esnac_lib.tracing import trace

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
        nn.ReLU(inplace=True),
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


def test_double_precision_is_kept() -> None:
    architecture, weights = trace(nn.Sequential(conv()).double(), X.double())
    assert weights["0.weight"].dtype == torch.float64
    assert build(architecture, weights)(X.double()).dtype == torch.float64


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


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def _branch(module: Any, x: Tensor) -> Tensor:
    return module.a(x) if x.mean() > 0 else x


def _tied() -> nn.Module:
    module = nn.Sequential(conv(), conv())
    module[1].weight = module[0].weight
    return module


def _hooked(hook: Callable[..., Any]) -> nn.Module:
    module = nn.Sequential(conv(), nn.ReLU())
    module[0].register_forward_hook(hook)
    return module


def _aliased(module: Any, x: Tensor) -> Tensor:
    y = module.a(x)
    return module.relu(y) + y  # y has been changed in place


def _aliased_sum(module: Any, x: Tensor) -> Tensor:
    y = module.a(x)
    z = y
    z += x
    return z + F.relu(y) + module.b(y)


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.Sequential(conv(), nn.Sequential(nn.GELU())), r"module '1.0' \(GELU\): this module is not known"),
    (lambda: nn.Sequential(nn.ReLU6()), r"module '0' \(ReLU6\)"),
    (lambda: nn.Sequential(nn.Dropout2d()), r"module '0' \(Dropout2d\)"),
    (lambda: nn.Sequential(nn.Sequential(Of(lambda m, x: F.gelu(x)))), r"'gelu' \(gelu\) in module '0.0' \(Of\)"),
    (lambda: Of(lambda m, x: x.mean((2, 3))), r"method 'mean' \(mean\) in Of: this operation is not known"),
    (lambda: Of(lambda m, x: x[:, :2]), "'getitem'"),
    (lambda: Of(lambda m, x: x - x), "'sub'"),
    (lambda: Of(lambda m, x: F.dropout(x, 0.5)), "'dropout'"),
    (lambda: nn.Sequential(conv(padding_mode="reflect")), "'0' .Conv2d.: padding_mode='reflect'"),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 2, padding="same")), "padding='same' with an even kernel"),
    (lambda: nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), "track_running_stats=False"),
    (lambda: nn.Sequential(nn.BatchNorm2d(4, momentum=None)), "momentum=None"),
    (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "divisor_override=3"),
    (lambda: Of(lambda m, x: F.max_pool2d(x, 2, return_indices=True)), "'max_pool2d_with_indices'"),
    (lambda: Of(lambda m, x: m.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True)), "return_indices=True"),
    (lambda: nn.Sequential(nn.Flatten(2)), "flattens dimensions 2 to -1"),
    (lambda: Of(lambda m, x: torch.flatten(x)), "flattens dimensions 0 to -1"),
    (lambda: Of(lambda m, x: x.flatten(1, 2)), "flattens dimensions 1 to 2"),
    (lambda: Of(lambda m, x: torch.cat([x, x], 2)), "joins along dimension 2"),
    (lambda: Of(lambda m, x: torch.cat([x, x])), "joins along dimension 0"),
    (lambda: Of(lambda m, x: x.view(2, -1)), "a reshape that is not"),
    (lambda: Of(lambda m, x: x.view(x.size(0), 8, -1)), "a reshape that is not"),
    (lambda: Of(lambda m, x: x.view(-1, 64)), "a reshape that is not"),
    (lambda: Of(lambda m, x: x.reshape(x.shape[:1] + x.shape[1:])), "is no feature map"),
    (lambda: Of(lambda m, x: x + 1), "1 is no feature map"),
    (lambda: Of(lambda m, x: torch.add(x, x, alpha=0.5)), "times 0.5"),
    (lambda: Of(lambda m, x: x * 0.5), "times 0.5"),
    (lambda: Of(lambda m, x: x * x), "times x"),
    (lambda: Of(lambda m, x: m.a(x) + F.adaptive_avg_pool2d(x, 1), a=conv()), "sums shapes that differ"),
    (lambda: nn.Sequential(nn.Linear(8, 8)), "flatten it first"),
    (lambda: Of(lambda m, x: m.a(m.a(x)), a=conv()), r"module 'a' \(Conv2d\): its weight is already used by layer 'a'"),
    (lambda: Of(lambda m, x: m.a(m.a(x)), a=nn.BatchNorm2d(4, affine=False)), "already used by layer 'a'"),
    (_tied, r"module '1' \(Conv2d\): its weight is already used by layer '0'"),
    (lambda: nn.Sequential(Standardised(4, 4, 3)), r"in module '0' \(Standardised\)"),
    (lambda: nn.Sequential(torch.nn.utils.parametrizations.weight_norm(conv())), r"'0' \(ParametrizedConv2d\)"),
    (lambda: nn.Sequential(conv(), Scale()), r"'1.scale' \(.*in.*: a tensor used by itself"),
    (lambda: Of(_branch, a=conv()), "torch.fx cannot follow Of: symbolically traced variables"),
    (lambda: nn.Sequential(Of(_branch, a=conv())), r"torch.fx cannot follow '0' \(Of\)"),
    (lambda: TwoInputs(), r"TwoInputs reads a second input, 'y'"),
    (lambda: Of(lambda m, x: (x, m.a(x)), a=conv()), "is no feature map"),
    (lambda: Of(lambda m, x: x.size(0)), "is no feature map"),
    (lambda: Of(lambda m, x: m.a(x), a=conv(), b=conv()), "parameter 'b.weight' takes part in no layer"),
    (lambda: Of(lambda m, x: (m.a(x), m.b(x))[0], a=conv(), b=conv()), "'b' feeds nothing"),
    (lambda: nn.Sequential(conv(3)), r"Sequential fails on an input of shape \(2, 4, 8, 8\) at '0'"),
    (lambda: Of(_aliased, a=conv(), relu=nn.ReLU(inplace=True)), "different outputs"),
    (lambda: Of(_aliased_sum, a=conv(), b=conv()), "different outputs"),
    (lambda: _hooked(lambda module, inputs, output: output * 1.01), "different outputs"),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refused_in_one_line(index: int) -> None:
    make, text = REFUSED[index]
    with pytest.raises(TraceError, match=text) as caught:
        trace(make().eval(), X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("example", [torch.zeros(4, 8, 8), torch.zeros(0, 4, 8, 8), torch.zeros(1, 4, 8, 8).int(), [1]])
def test_examples_that_are_no_images_are_refused(example: Any) -> None:
    with pytest.raises(TraceError, match="the example input is"):
        trace(nn.Sequential(nn.ReLU()), example)


def test_a_hook_that_only_looks_is_fine() -> None:
    assert [kind for kind, _ in attributes(_hooked(lambda *_: None))] == ["conv", "relu"]


@pytest.mark.parametrize("example", [torch.zeros_like(X), torch.ones_like(X)])
def test_a_constant_example_does_not_hide_a_difference(example: Tensor) -> None:
    """On zeros, bias-free convolutions give zeros whatever is wrong."""
    module = Of(_aliased, a=conv(bias=False), relu=nn.ReLU(inplace=True))
    with pytest.raises(TraceError, match="different outputs"):
        trace(module, example)


def test_a_wrong_shape_rule_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check against the shapes that were seen bites: a rule that forgets ceil_mode is caught."""
    original = tracing.Layer

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        layer = original(*args, **kwargs)
        return replace(layer, attrs={**dict(layer.attrs), "ceil_mode": False}) if layer.kind == "max_pool" else layer

    monkeypatch.setattr(tracing, "Layer", forgetful)
    module = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True))
    with pytest.raises(TraceError, match=r"layer '0' \(max_pool\) puts out \(4, 4, 4\), predicted was \(4, 3, 3\)"):
        trace(module, X)
