"""Opaque layers: what is not understood is kept as it is, as little of it as possible, and never silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.network import Weights, build
from esnac_lib.architecture.tracing import trace
from esnac_lib.architecture.tracing.calls import Value
from esnac_lib.architecture.tracing.opaque import trial
from esnac_lib.errors import TraceError

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A module whose forward is the given function of (module, inputs)."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.function = forward

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.function(self, *inputs, **options)


class Named(Of):
    """One that is named in messages."""


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def opaque(module: nn.Module, example: Tensor = X) -> tuple[Architecture, Weights, list[Layer]]:
    """The trace of a module, compared on other images and in another batch, and its opaque layers."""
    architecture, weights = trace(module.eval(), example)
    other = torch.randn(5, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(build(architecture, weights).eval()(other), module(other))
    assert architecture.num_params == sum(parameter.numel() for parameter in module.parameters())
    return architecture, weights, [layer for layer in architecture.layers if layer.kind == "opaque"]


def test_a_function_that_is_not_known() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        y = module.a(x)
        return module.b(y + torch.softmax(y, dim=1))

    architecture, _, (layer,) = opaque(Of(forward, a=conv(), b=conv()))
    assert [layer.name for layer in architecture.layers] == ["a", "softmax", "b"]
    assert layer.reason == f"softmax in Of, test_opaque.py:{forward.__code__.co_firstlineno + 2}"
    assert dict(layer.attrs) == {
        **{"what": "softmax", "inputs": ((4, 6, 6),), "output": (4, 6, 6)},
        **{"tensors": (), "macs": 0},
    }
    assert architecture.layers[2].inputs == (slot(0, 1),)


FUNCTIONS: list[tuple[Callable[[Any, Tensor], Tensor], str]] = [
    (lambda m, x: F.normalize(x), "normalize"),
    (lambda m, x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1) * x, "mean"),
    (lambda m, x: x.max(1, keepdim=True)[0] * x, "max"),
    (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d_with_indices"),
    (lambda m, x: torch.addcmul(x, x.relu(), x.sigmoid(), value=0.5), "addcmul"),
    (lambda m, x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
    (lambda m, x: F.conv_transpose2d(x, m.a.weight), "conv_transpose2d"),
    (lambda m, x: x / x.exp(), "div"),
    (lambda m, x: x.transpose(2, 3) + x, "add"),
    (lambda m, x: torch.cumsum(x, dim=3), "cumsum"),
    (lambda m, x: torch.cat([x, x], 2), "cat"),
    (lambda m, x: F.interpolate(x, scale_factor=1.3), "interpolate"),
    (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "avg_pool2d"),
    (lambda m, x: x.flatten(1).softmax(-1), "softmax"),
    (lambda m, x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2), "softmax"),
    (lambda m, x: x.flatten(2).transpose(1, 2).softmax(1).mean(1), "softmax"),
]


@pytest.mark.parametrize("index", range(len(FUNCTIONS)))
def test_functions_by_themselves(index: int) -> None:
    function, name = FUNCTIONS[index]

    def forward(module: Any, x: Tensor) -> Tensor:
        return function(module, module.c(x))

    children = {"a": nn.Conv2d(3, 4, 2, bias=False)} if name == "conv_transpose2d" else {}
    _, _, found = opaque(Of(forward, c=conv(), **children))
    assert name in [layer["what"] for layer in found] and all(layer.reason for layer in found)


def test_parameters_among_the_arguments_are_the_layers() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Parameter(torch.randn(1, 4, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.embedding[:, :, 1:-1, 1:-1]

    architecture, weights, (layer,) = opaque(nn.Sequential(conv(), Positions()))
    assert layer["tensors"] == (("constant0", (1, 4, 8, 8), True),)
    assert layer.reason.startswith("add in 1 (Positions)") and "its weight is a part of 1.embedding" in layer.reason
    assert weights["add.constant0"].shape == (1, 4, 8, 8)
    assert architecture.num_params == 148 + 256


class Attention(nn.Module):
    """Self-attention over the pixels of a map (B, C, H, W)."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Conv2d(4, 12, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if self.heads > 1 and not x.isfinite().all():
            raise ValueError("not finite")
        shape = (batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = self.qkv(x).view(shape if self.heads > 1 else (batch, 3, channels, -1)).unbind(1)
        mixed = v @ torch.softmax(q.mT @ k, dim=-2)
        return self.out(mixed.reshape(batch, channels, height, width))


def test_a_module_around_what_is_not_known() -> None:
    module = nn.Sequential(conv(), nn.Sequential(Attention(), nn.ReLU()), conv())
    architecture, weights, (layer,) = opaque(module)
    assert [layer.name for layer in architecture.layers] == ["0", "1.0", "1.1", "2"]
    assert layer["what"] == "Attention" and layer.reason.startswith("bool in 1.0 (Attention), test_opaque.py:")
    assert [name for name, _, trained in layer["tensors"] if trained] == [
        *("qkv.weight", "qkv.bias"),
        *("out.weight", "out.bias"),
    ]
    # two 1 × 1 convolutions and two products of 36 pixels with 36 pixels
    assert layer["macs"] == 36 * (4 * 12 + 4 * 4) + 2 * 36 * 36 * 4
    assert weights["1.0.qkv.weight"].data_ptr() != module[1][0].qkv.weight.data_ptr()
    with torch.no_grad():
        module[1][0].qkv.weight.zero_()
    assert build(architecture, weights).weights()["1.0.qkv.weight"].any()


def test_functions_that_mix_maps_by_themselves() -> None:
    """With one head every tensor is a map in some layout, so that the convolutions stay outside."""
    architecture, _, found = opaque(nn.Sequential(Attention(heads=1), conv()))
    assert [layer["what"] for layer in found] == ["matmul"]
    assert [layer.name for layer in architecture.layers if layer.kind == "conv"] == ["0.qkv", "0.out", "1"]
    assert found[0]["inputs"] == ((4, 6, 6),) * 3 and found[0]["output"] == (4, 6, 6)
    assert found[0]["macs"] == 2 * 36 * 36 * 4


def test_many_blocks_are_opaque_one_by_one() -> None:
    module = nn.Sequential(conv(), *[Attention() for _ in range(6)])
    architecture, _, found = opaque(module)
    assert len(found) == 6 and [layer.kind for layer in architecture.layers] == ["conv", *["opaque"] * 6]


class TokenAttention(nn.Module):
    """Self-attention over tokens (B, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 4)).unbind(2)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def test_a_module_that_works_on_tokens() -> None:
    """Between its layers the map stays a map: only the attention itself is opaque."""

    def forward(module: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = module.conv(x).flatten(2).transpose(1, 2)
        y = y + module.attention(module.norm(y))
        y = y + module.linear(y)
        return y.transpose(1, 2).reshape(batch, channels, height, width)

    parts = {"attention": TokenAttention(), "norm": nn.LayerNorm(4), "linear": nn.Linear(4, 4)}
    architecture, _, (layer,) = opaque(Of(forward, conv=conv(), **parts))
    kinds = [layer.kind for layer in architecture.layers]
    assert kinds == ["conv", "layer_norm", "conv", "select", "select", "select", "opaque", "conv"]
    assert layer["inputs"] == ((4, 6, 6),) * 3 and layer["output"] == (4, 6, 6)


def test_a_grandparent_where_neither_function_nor_parent_take_maps() -> None:
    parent = Named(lambda m, x: (x.unfold(2, 3, 3), x))
    grandparent = Named(lambda m, x: m.parent(x)[0].amax(4) * 2, parent=parent)
    architecture, _, (layer,) = opaque(Of(lambda m, x: m.inner(m.a(x)), a=conv(), inner=grandparent))
    assert (layer.name, layer["what"]) == ("inner", "Named")
    assert layer.reason.startswith("unfold in inner.parent (Named), test_opaque.py:")
    assert architecture.output_shape == (4, 2, 6)


def test_what_moves_numbers_out_of_sight_is_opaque_itself() -> None:
    """And not the convolution that reads them."""

    def space_to_depth(module: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)

    module = nn.Sequential(Named(space_to_depth), nn.Sequential(nn.Conv2d(16, 4, 3), nn.ReLU()))
    architecture, _, (layer,) = opaque(module)
    assert [layer.name for layer in architecture.layers] == ["0", "1.0", "1.1"] and layer.name == "0"
    assert layer.reason.startswith("reshape in 0 (Named)")


def test_control_flow_on_data_inside_a_module() -> None:
    """It runs as it is: another image may take another way."""

    def forward(module: Any, x: Tensor) -> Tensor:
        return torch.stack([image.relu() if image.sum() > 0 else image.tanh() for image in x])

    architecture, weights, (layer,) = opaque(nn.Sequential(conv(), Named(forward)))
    assert layer.reason.startswith(f"bool in 1 (Named), test_opaque.py:{forward.__code__.co_firstlineno + 1}: Python")
    with torch.no_grad():
        flat = build(architecture, weights).eval().layers.get_submodule("1")
        image = torch.ones(1, 4, 6, 6)
        assert torch.equal(flat(image), image.relu()) and torch.equal(flat(-image), -image.tanh())


def test_modules_with_options_and_several_inputs() -> None:
    def mix(module: Any, a: Tensor, b: Tensor, power: int, scale: Tensor) -> Tensor:
        return (a.exp() - b).cumsum(1) ** power * scale

    def forward(module: Any, x: Tensor) -> Tensor:
        a = module.a(x)
        return module.mix(a, b=module.b(a), power=3, scale=torch.full((1,), 0.5))

    mixer = Named(lambda m, a, b, power, scale: mix(m, a, b, power, scale) if not torch.equal(a, b) else a)
    _, _, (layer,) = opaque(Of(forward, a=conv(), b=conv(), mix=mixer))
    assert layer.inputs == (slot(0), slot(1)) and layer["tensors"] == (("constant0", (1,), False),)
    assert layer.reason.startswith("equal in mix (Named)")


def test_a_shared_module_is_enclosed_with_all_its_calls() -> None:
    block = Named(lambda m, x: m.conv(m.relu(m.conv(x))), conv=conv(), relu=nn.ReLU())
    architecture, _, (layer,) = opaque(nn.Sequential(conv(), nn.Sequential(block)))
    assert layer.name == "1.0" and "its weight is already used by layer '1.0.conv'" in layer.reason
    assert architecture.num_params == 2 * 148


def test_a_module_of_pytorch_is_opaque_as_a_module() -> None:
    _, _, (layer,) = opaque(nn.Sequential(conv(), nn.Softmax(1), conv()))
    assert (layer.name, layer["what"]) == ("1", "Softmax")
    _, _, (layer,) = opaque(nn.Sequential(conv(), nn.BatchNorm2d(4, momentum=None), conv()))
    assert (layer.name, layer["what"]) == ("1", "BatchNorm2d") and "momentum=None" in layer.reason


def test_a_rebuilt_network_with_opaque_layers_is_traced_to_itself() -> None:
    architecture, weights, _ = opaque(nn.Sequential(conv(), Attention(), nn.Softmax(1), conv()))
    again, same = trace(build(architecture, weights), X)
    assert again == architecture and again.arch_id == architecture.arch_id and list(same) == list(weights)
    assert [layer.reason for layer in again.layers] == [layer.reason for layer in architecture.layers]
    restored = Architecture.from_json(architecture.to_json()).with_code_of(architecture)
    with torch.no_grad():
        assert torch.equal(build(restored, weights).eval()(X), build(architecture, weights).eval()(X))


# -- what cannot be opaque -------------------------------------------------------------------------------------------


def _hidden_input() -> nn.Module:
    """The second module reads a tensor that the first has put aside."""
    stash: list[Any] = [None]
    first = Named(lambda m, x: stash.__setitem__(0, x * 2) or x)
    second = Named(lambda m, x: x + stash[0] if x.sum() > 0 else x)
    return Of(lambda m, x: m.second(m.c(m.first(x))), first=first, c=conv(), second=second)


def _hidden_output() -> nn.Module:
    stash: list[Any] = [None]
    inner = Named(lambda m, x: stash.__setitem__(0, x.exp() if x.sum() > 0 else x.tanh()) or x.relu())
    return Of(lambda m, x: m.inner(m.c(x)) + stash[0], inner=inner, c=conv())


class SplitInHeads(nn.Module):
    """Gives no map: (B, C, H, W) as windows (B, C, 2, W, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(2, 3, 3)


def mixed(inner: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A convolution, and a module beside it."""
    return Of(forward, c=conv(), inner=inner)


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (_hidden_input, "cannot trace Of: bool in second"),
    (_hidden_output, "cannot trace Of: bool in inner"),
    # the images of a batch influence each other, or chance does
    (lambda: nn.Sequential(conv(), Named(lambda m, x: x - x.mean(0))), "mean in 1 .*: a mean over 0"),
    (lambda: nn.Sequential(conv(), Named(lambda m, x: x.cumsum(0))), "cumsum in 1"),
    (lambda: nn.Sequential(conv(), Named(lambda m, x: F.dropout(x, 0.5, True))), "dropout in 1 .*: a dropout that is"),
    (lambda: nn.Sequential(conv(), Named(lambda m, x: x * torch.rand_like(x))), "mul in 1|different outputs"),
    # no single tensor comes out, or it is no map
    (lambda: mixed(Named(lambda m, x: x.sort(1)), lambda m, x: sum(m.inner(m.c(x)))), "sort in inner|add"),
    (lambda: mixed(SplitInHeads(), lambda m, x: m.inner(m.c(x)).sum(1)), "unfold in inner"),
    (lambda: mixed(Named(lambda m, x: float(x.mean())), lambda m, x: m.c(x) * m.inner(x)), "float in inner"),
    # weights are used in two places
    (lambda: mixed(Attention(), lambda m, x: m.inner(m.c(m.inner(x)))), "bool in inner .* used by layer 'inner'"),
    # nothing is left
    (
        lambda: nn.Sequential(Attention(), nn.ReLU()),
        "cannot compress Sequential: no convolution .* bool in 0 .Attent",
    ),
    (lambda: nn.Sequential(nn.Softmax(1)), "cannot compress Sequential: .*softmax in 0 .Softmax"),
]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refused(index: int) -> None:
    make, text = REFUSED[index]
    with pytest.raises(TraceError, match=text) as caught:
        trace(make().eval(), X)
    assert "\n" not in str(caught.value)


def test_an_opaque_part_at_the_input() -> None:
    architecture, _, (layer,) = opaque(nn.Sequential(nn.Softmax(1), conv()))
    assert layer.inputs == (slot(INPUT),) and architecture.layers[1].kind == "conv"


def test_trial_counts_and_refuses() -> None:
    value = Value((2, 4, 6, 6), torch.float32, torch.device("cpu"), 0)
    assert trial(conv(), [value], [(4, 6, 6)]) == ((4, 6, 6), 4 * 4 * 9 * 36)
    with pytest.raises(ValueError, match="depends on the other images of the batch, or on chance"):
        trial(nn.BatchNorm2d(4).train(), [value], [(4, 6, 6)])
    with pytest.raises(ValueError, match="depends on the other images of the batch, or on chance"):
        trial(nn.Dropout(0.5).train(), [value], [(4, 6, 6)])
    with pytest.raises(ValueError, match=r"it fails by itself: .*size"):
        trial(Named(lambda m, x: x.view(2, 5)), [value], [(4, 6, 6)])
