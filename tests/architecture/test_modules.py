"""The module of each kind of layer against the formula that defines it, or PyTorch's own; what opaque code may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from esnac_lib.architecture.graph import INPUT, Layer, slot
from esnac_lib.architecture.layer_types import ACTIVATIONS, Shape
from esnac_lib.architecture.modules import activation_function, module_of
from esnac_lib.errors import ArchitectureError

IMAGE = (4, 5, 6)


def module(kind: str, shape: Shape = IMAGE, channels: int = 0, **attrs: Any) -> nn.Module:
    """In float64, in eval mode, with parameters and statistics drawn at random."""
    slots = (slot(INPUT), slot(INPUT)) if kind in ("multiply", "add") else (slot(INPUT),)
    made = module_of(Layer("it", kind, slots, channels, attrs), shape).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return made


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (3, *IMAGE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(tensor: Tensor) -> Tensor:
    return tensor[:, None, None]


# -- activations -------------------------------------------------------------------------------------------------------

SELU = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, equation 14

FORMULAS: dict[str, Callable[..., Tensor]] = {
    "relu6": lambda x: x.clamp(0, 6),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "hardsigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "tanh": lambda x: 1 - 2 / (torch.exp(2 * x) + 1),
    "selu": lambda x: SELU[0] * torch.where(x > 0, x, SELU[1] * (torch.exp(x) - 1)),
    "softsign": lambda x: x / (1 + x.abs()),
    "logsigmoid": lambda x: -torch.log1p(torch.exp(-x)),
    "square": lambda x: x * x,
    "abs": lambda x: torch.maximum(x, -x),
    "elu": lambda x, a: torch.where(x > 0, x, a * (torch.exp(x) - 1)),
    "celu": lambda x, a: torch.where(x > 0, x, a * (torch.exp(x / a) - 1)),
    "leaky_relu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "hardtanh": lambda x, low, high: x.clamp(low, high),
    "softplus": lambda x, beta, most: torch.where(beta * x > most, x, torch.log1p(torch.exp(beta * x)) / beta),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_against_their_formulas(name: str) -> None:
    arguments = (0.25, 1.5)[: ACTIVATIONS[name]]
    x = torch.cat([3 * images().flatten(), torch.tensor([-9.0, 0.0, 9.0])])
    made = module("activation", function=name, arguments=arguments)
    torch.testing.assert_close(made(x), FORMULAS[name](x, *arguments))
    torch.testing.assert_close(activation_function(name)(x, *arguments), made(x), rtol=0, atol=0)
    assert repr(made).startswith(f"Activation({name}")


# -- norms and learned numbers -----------------------------------------------------------------------------------------


def normalised(x: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(over, keepdim=True)
    return centred / (centred.square().mean(over, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_layer_norm_of_channels(weight: bool, bias: bool) -> None:
    made = module("layer_norm", eps=0.1, weight=weight, bias=bias)
    expected = normalised(images(), (1,), 0.1)
    if weight:
        expected = expected * column(made.weight)
    if bias:
        expected = expected + column(made.bias)
    torch.testing.assert_close(made(images()), expected)
    features = images(3, 4)
    own = F.layer_norm(features, (4,), made.weight, made.bias, 0.1)
    torch.testing.assert_close(made(features), own)


def test_group_and_instance_norm() -> None:
    group = module("group_norm", groups=2, eps=0.1)
    grouped = normalised(images().view(3, 2, 2, 5, 6), (2, 3, 4), 0.1).view(3, *IMAGE)
    torch.testing.assert_close(group(images()), grouped * column(group.weight) + column(group.bias))
    instance = module("instance_norm", eps=0.1, affine=True)
    expected = normalised(images(), (2, 3), 0.1) * column(instance.weight) + column(instance.bias)
    torch.testing.assert_close(instance(images()), expected)
    torch.testing.assert_close(instance.train()(images()), expected)
    plain = module("instance_norm", eps=0.1)
    torch.testing.assert_close(plain(images()), normalised(images(), (2, 3), 0.1))
    assert not plain.state_dict()


def test_batch_norm_of_features_is_pytorchs() -> None:
    made = module("batch_norm", (4,), momentum=0.3).train()
    own = nn.BatchNorm1d(4, momentum=0.3).double()
    own.load_state_dict(made.state_dict(), strict=False)
    x = images(6, 4)
    torch.testing.assert_close(made(x), own(x))
    torch.testing.assert_close(made.running_var, own.running_var)
    torch.testing.assert_close(made.eval()(x), own.eval()(x))
    with pytest.raises(ValueError, match="4D input"):
        made(images(2, 4, 3))


def test_scale_affine_and_prelu() -> None:
    x = images()
    both = module("scale", bias=True)
    torch.testing.assert_close(both(x), x * column(both.weight) + column(both.bias))
    torch.testing.assert_close(both(x[:, :, 0, 0]), x[:, :, 0, 0] * both.weight + both.bias)
    only = module("scale", weight=False, bias=True)
    torch.testing.assert_close(only(x), x + column(only.bias))
    assert torch.equal(module("scale", weight=False)(x), x)
    torch.testing.assert_close(module("affine", factor=-2, offset=3)(x), 3 - 2 * x)
    for shared in (False, True):
        prelu = module("prelu", shared=shared)
        assert prelu.weight.shape == ((1,) if shared else (4,))
        torch.testing.assert_close(prelu(x), torch.where(x > 0, x, column(prelu.weight) * x))


def test_they_begin_as_if_they_were_not_there() -> None:
    x = images()
    for kind in ("scale", "layer_norm"):
        made = module_of(Layer("it", kind, (slot(INPUT),), attrs={"bias": True}), IMAGE)
        assert made.weight.detach().eq(1).all() and made.bias.detach().eq(0).all()
    assert torch.equal(module_of(Layer("it", "affine", (slot(INPUT),)), IMAGE)(x), x)


# -- channels and maps -------------------------------------------------------------------------------------------------


def test_selections() -> None:
    x = images()
    assert torch.equal(module("select", runs=[(1, 3)])(x), x[:, 1:3])
    made = module("select", runs=[(3, 4), (0, 2), (1, 2)])
    assert torch.equal(made(x), torch.stack([x[:, 3], x[:, 0], x[:, 1], x[:, 1]], 1))
    assert torch.equal(made(x[:, :, 0, 0]), x[:, [3, 0, 1, 1], 0, 0])
    assert not made.state_dict()
    assert made(x.to("meta")).shape == x.shape  # an index for each device


def test_joins() -> None:
    x, gate, spot = images(), images(3, 4, 1, 1), images(3, 1, 5, 6)
    for found, expected in (
        (module("multiply")(gate, x), x * gate.expand(x.shape)), (module("multiply")(gate, spot), gate * spot),
        (module("add")(x, spot), x + spot.expand(x.shape)), (module("add")(x, x), 2 * x),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected)


def test_zeros_and_unflatten() -> None:
    found = module("zeros", channels=7)(images())
    assert found.shape == (3, 7, 5, 6) and not found.any() and found.dtype == torch.float64
    assert torch.equal(module("unflatten", (4,))(images(3, 4))[:, :, 0, 0], images(3, 4))


@pytest.mark.parametrize(
    ("mode", "name"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]
)
def test_borders_against_numpy(mode: str, name: Any) -> None:
    options = {"constant_values": 0.5} if mode == "constant" else {}
    expected = np.pad(images().numpy(), ((0, 0), (0, 0), (3, 0), (1, 2)), name, **options)
    found = module("pad", sizes=(1, 2, 3, 0), mode=mode, value=0.5)(images())
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_negative_borders_cut(mode: str) -> None:
    x = images()
    assert torch.equal(module("pad", sizes=(-1, 0, 0, -2), mode=mode, value=0.5)(x), x[:, :, :3, 1:])


def resized(x: Tensor, size: tuple[int, int], position: Callable[[int, int, int], float]) -> Tensor:
    """Between the nearest pixels on both sides of where the middle of each new one lies among the former."""
    for axis, new in zip((2, 3), size, strict=True):
        old = x.shape[axis]
        rows = []
        for i in range(new):
            place = min(max(position(i, old, new), 0), old - 1)
            low = math.floor(place)
            high = min(low + 1, old - 1)
            rows.append(x.select(axis, low) * (1 - (place - low)) + x.select(axis, high) * (place - low))
        x = torch.stack(rows, axis)
    return x


@pytest.mark.parametrize(
    ("mode", "corners", "position"),
    [
        ("nearest", False, lambda i, old, new: math.floor(i * old / new)),
        ("nearest-exact", False, lambda i, old, new: math.floor((i + 0.5) * old / new)),
        ("bilinear", False, lambda i, old, new: (i + 0.5) * old / new - 0.5),
        ("bilinear", True, lambda i, old, new: i * (old - 1) / (new - 1)),
    ],
)
@pytest.mark.parametrize("size", [(9, 7), (3, 12), (5, 6)])
def test_upsampling(
    mode: str, corners: bool, position: Callable[[int, int, int], float], size: tuple[int, int]
) -> None:
    found = module("upsample", size=size, mode=mode, align_corners=corners)(images())
    torch.testing.assert_close(found, resized(images(), size, position))


def test_upsampling_by_areas_and_curves() -> None:
    x = images()
    torch.testing.assert_close(module("upsample", size=(3, 2), mode="area")(x), F.adaptive_avg_pool2d(x, (3, 2)))
    for corners in (False, True):
        cubic = module("upsample", size=(9, 7), mode="bicubic", align_corners=corners)
        torch.testing.assert_close(cubic(x), F.interpolate(x, (9, 7), mode="bicubic", align_corners=corners))
        torch.testing.assert_close(cubic(torch.ones_like(x)), torch.ones(3, 4, 9, 7, dtype=torch.float64))


def test_adaptive_max_pool() -> None:
    found = module("adaptive_max_pool", output_size=(2, 3))(images())
    for i, rows in enumerate((slice(0, 3), slice(2, 5))):  # ⌊i·5/2⌋ to ⌈(i + 1)·5/2⌉
        for j in range(3):
            assert torch.equal(found[:, :, i, j], images()[:, :, rows, 2 * j : 2 * j + 2].amax((2, 3)))


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_stochastic_depth_is_torchvisions(p: float, mode: str) -> None:
    x = images(16, *IMAGE)
    made = module("stochastic_depth", p=p, mode=mode)
    assert made(x) is x
    found = []
    for one in (made.train(), StochasticDepth(p, mode)):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            found.append(torch.stack([one(x) for _ in range(8)]))
    torch.testing.assert_close(found[0], found[1])
    dropped = (found[0] == 0).flatten(2).all(2)  # (draws, images)
    assert p == 0.4 or bool(dropped.all()) == (p == 1)
    assert mode == "row" or (dropped == dropped[:, :1]).all()
    assert p != 0.4 or 0 < int(dropped.sum()) < dropped.numel()


# -- opaque code -------------------------------------------------------------------------------------------------------


def opaque(code: Any) -> Layer:
    tensors = [("weight", (4, 4), True), ("bias", (4,), True)]
    attrs = {"what": "a matrix", "inputs": [(4,)], "output": (4,), "tensors": tensors, "macs": 16}
    return Layer("it", "opaque", (slot(INPUT),), attrs=attrs, code=code)


def test_opaque_code_runs_in_a_copy() -> None:
    code = nn.Linear(4, 4)
    made = module_of(opaque(code), (4,))
    x = torch.randn(2, 4)
    assert torch.equal(made(x), code(x))
    with torch.no_grad():
        made.weight.zero_()
    assert code.weight.detach().any()


@pytest.mark.parametrize("code", [None, "nn.Linear(4, 4)", torch.tanh])
def test_an_opaque_layer_without_its_code_is_refused(code: Any) -> None:
    with pytest.raises(ArchitectureError, match=r"^layer 'it' is opaque \(a matrix\): only its teacher's module") as e:
        module_of(opaque(code), (4,))
    assert "\n" not in str(e.value) and "with_code_of" in str(e.value)
