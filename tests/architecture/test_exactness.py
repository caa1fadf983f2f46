"""What is traced is the module: outputs, gradients and parameters, in both modes, at two batch sizes; or it is refused.

The comparison here is written apart from the one that `trace` makes itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build
from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import TraceError
from esnac_lib.seeding import make_rng
from esnac_lib.space import SearchSpace
from esnac_lib.space.verification import verify

SIZE = 8
Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Two convolutions, the part in question on their 8 maps, and a classifier. The part has named tensors."""

    def __init__(self, part: Forward, children: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        for name, child in children.items():
            self.add_module(name, child)
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.last, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        x = self.part(self, self.last(self.first(x)))
        return self.head(x.mean((2, 3)) if x.ndim == 4 else x)


def net(part: Forward, *, children: dict[str, nn.Module] | None = None, **tensors: Tensor) -> nn.Module:
    torch.manual_seed(0)
    module = Net(part, children or {}, tensors)
    with torch.no_grad():
        for name, buffer in module.first.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.3, 0.3)
    return module


def learned(*shape: int, value: float | None = None) -> nn.Parameter:
    generator = torch.Generator().manual_seed(3)
    return nn.Parameter(torch.rand(shape, generator=generator) + 0.25 if value is None else torch.full(shape, value))


def gradients(module: nn.Module, x: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of all parameters that have one, as sorted numbers, from the largest count on."""
    state = {key: value.clone() for key, value in module.state_dict().items()}
    module.train(training).zero_grad(set_to_none=True)
    output = module(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    found = [(torch.view_as_real(g) if g.is_complex() else g).flatten().sort().values for g in grads]
    module.load_state_dict(state)
    return output.detach(), sorted(found, key=lambda g: (len(g), g.abs().sum().item()))


def exact(module: nn.Module, example: Tensor | None = None) -> Architecture:
    """Trace a module and compare the rebuilt network with it."""
    example = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) if example is None else example
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        architecture, weights = trace(module, example)
    assert architecture.num_params == sum(p.numel() for p in module.parameters())
    network = build(architecture, weights)
    assert sum(p.numel() for p in network.parameters()) == architecture.num_params
    for training in (False, True):
        for count in (2, 5):
            x = torch.randn(count, *example.shape[1:], generator=torch.Generator().manual_seed(count))
            (theirs, theirs_g), (ours, ours_g) = (gradients(m, x, training) for m in (module, network))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            assert [len(g) for g in ours_g] == [len(g) for g in theirs_g]
            scale = max(float(g.abs().max()) for g in theirs_g)
            for a, b in zip(ours_g, theirs_g, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * scale)
    return architecture


def kinds(architecture: Architecture) -> list[str]:
    return [layer["what"] if layer.kind == "opaque" else layer.kind for layer in architecture.layers]


class Part(nn.Module):
    """A module of the user's inside."""

    def __init__(self, forward: Forward, **tensors: Any) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, tensor)
        self.part = forward

    def forward(self, x: Tensor) -> Any:
        return self.part(self, x)


def inside(forward: Forward, **tensors: Tensor) -> nn.Module:
    return net(lambda m, x: m.inner(x), children={"inner": Part(forward, **tensors)})


# -- B: learned numbers --------------------------------------------------------------------------------------------


def _interpolated(m: Any, x: Tensor) -> Tensor:
    return x + F.interpolate(m.w, size=x.shape[2:], mode="bilinear")


def _arcface(m: Any, x: Tensor) -> Tensor:
    return 16 * F.linear(F.normalize(x.mean((2, 3))), F.normalize(m.w))


def _fused(m: Any, x: Tensor) -> Tensor:
    weights = F.relu(m.w)
    weights = weights / (weights.sum() + 1e-4)
    return weights[0] * x + weights[1] * torch.tanh(x) + weights[2] * x.flip(3)


def _mixed(m: Any, x: Tensor) -> Tensor:
    weights = torch.softmax(m.w, 0)
    return sum(w * branch for w, branch in zip(weights, (x, torch.tanh(x), x.abs()), strict=True))


def _stacked(m: Any, x: Tensor) -> Tensor:
    return (torch.stack([x, x.tanh()], dim=-1) * torch.softmax(m.w, 0)).sum(-1)


LEARNED: dict[str, Callable[[], nn.Module]] = {
    "matmul with a transposed weight": lambda: net(lambda m, x: x.mean((2, 3)) @ m.w.t(), w=learned(8, 8)),
    "matmul": lambda: net(lambda m, x: x.mean((2, 3)) @ m.w, w=learned(8, 8)),
    "mm": lambda: net(lambda m, x: torch.mm(x.mean((2, 3)), m.w), w=learned(8, 8)),
    "addmm": lambda: net(lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w), w=learned(8, 8), b=learned(8)),
    "einsum": lambda: net(lambda m, x: torch.einsum("bchw,oc->bohw", x, m.w), w=learned(8, 8)),
    "a slice of positions": lambda: net(lambda m, x: x + m.w[:, :, :SIZE, 1 : SIZE + 1], w=learned(1, 8, 10, 10)),
    "interpolated positions": lambda: net(_interpolated, w=learned(1, 8, 4, 4)),
    "a computed weight": lambda: net(
        lambda m, x: F.conv_transpose2d(x, m.w * m.g), w=learned(8, 8, 1, 1), g=learned(8, 1, 1, 1)
    ),
    "a convolution with a computed weight": lambda: net(
        lambda m, x: F.conv2d(x, m.w * m.g), w=learned(8, 8, 1, 1), g=learned(8, 1, 1, 1)
    ),
    "a linear layer with a transposed weight": lambda: net(
        lambda m, x: F.linear(x.mean((2, 3)), m.w.t()), w=learned(8, 8)
    ),
    "a convolution with a moved weight": lambda: net(
        lambda m, x: F.conv2d(x, m.w.permute(1, 0, 2, 3)), w=learned(8, 8, 1, 1)
    ),
    "part of a weight": lambda: net(lambda m, x: F.conv2d(x, m.w[:8]), w=learned(9, 8, 1, 1)),
    "ArcFace": lambda: net(_arcface, w=learned(8, 8)),
    "a zero gate": lambda: net(
        lambda m, x: x + m.w * m.c(x), children={"c": nn.Conv2d(8, 8, 3, padding=1)}, w=learned(1, value=0.0)
    ),
    "a zero gate without dimensions": lambda: net(
        lambda m, x: x + m.w * m.c(x), children={"c": nn.Conv2d(8, 8, 3, padding=1)}, w=learned(value=0.0)
    ),
    "a gate of one map": lambda: net(
        lambda m, x: x + m.c(x) * m.w, children={"c": nn.Conv2d(8, 8, 3, padding=1)}, w=learned(1, 1, 1, 1)
    ),
    "a gate through a function": lambda: net(lambda m, x: x * torch.sigmoid(m.w), w=learned(1)),
    "a temperature": lambda: net(lambda m, x: x / m.w, w=learned(1)),
    "an offset": lambda: net(lambda m, x: x - m.w, w=learned(1)),
    "from an offset": lambda: net(lambda m, x: m.w - x, w=learned(1)),
    "divided by channels": lambda: net(lambda m, x: x / m.w, w=learned(8, 1, 1)),
    "minus channels": lambda: net(lambda m, x: x - m.w, w=learned(1, 8, 1, 1)),
    "twice an offset": lambda: net(lambda m, x: torch.add(x, m.w, alpha=2), w=learned(1, 8, 1, 1)),
    "expanded channels": lambda: net(lambda m, x: x * m.w.expand_as(x[:1]), w=learned(1, 8, 1, 1)),
    "fusion weights": lambda: net(_fused, w=learned(3)),
    "fusion weights inside": lambda: inside(_fused, w=learned(3)),
    "mixture weights": lambda: net(_mixed, w=learned(3)),
    "stacked fusion": lambda: inside(_stacked, w=learned(2)),
    "zero positions": lambda: net(lambda m, x: x + m.w, w=learned(1, 8, SIZE, SIZE, value=0.0)),
    "a mask of ones": lambda: net(lambda m, x: x * m.w, w=learned(1, 1, SIZE, SIZE, value=1.0)),
    "a row": lambda: net(lambda m, x: x * m.w, w=learned(SIZE)),
    "positions of tokens": lambda: net(
        lambda m, x: (x.flatten(2).transpose(1, 2) + m.w).transpose(1, 2).unflatten(2, (SIZE, SIZE)),
        w=learned(1, SIZE * SIZE, 8),
    ),
    "channels last": lambda: net(lambda m, x: (x.permute(0, 2, 3, 1) * m.w).permute(0, 3, 1, 2), w=learned(8)),
    "a map, channels last": lambda: net(
        lambda m, x: (x.permute(0, 2, 3, 1) + m.w).permute(0, 3, 1, 2), w=learned(SIZE, SIZE, 8)
    ),
    "features": lambda: net(lambda m, x: x.mean((2, 3)) * m.w, w=learned(8)),
    "one number of features": lambda: net(lambda m, x: x.mean((2, 3)) * m.w, w=learned()),
    "GeM": lambda: net(
        lambda m, x: F.avg_pool2d(x.clamp(min=1e-3).pow(m.w), SIZE).pow(1.0 / m.w).flatten(1), w=learned(1, value=3.0)
    ),
    "a prefix of zeros": lambda: net(_written, w=learned(1, 8, 4, 8)),
    "a fixed map": lambda: net(lambda m, x: x * m.w + m.w, w=learned(1, 1, SIZE, SIZE).data),
    "a mask of ones that is fixed": lambda: net(lambda m, x: x * m.w, w=torch.ones(1, 1, SIZE, SIZE)),
    "a blur": lambda: net(lambda m, x: F.conv2d(x, m.w, padding=1, groups=8), w=torch.full((8, 1, 3, 3), 1 / 9)),
}


def _written(m: Any, x: Tensor) -> Tensor:
    positions = torch.zeros(1, 8, SIZE, SIZE)
    positions[:, :, :4] = m.w
    return x + positions


@pytest.mark.parametrize("name", [name for name in LEARNED if name != "a prefix of zeros"])
def test_every_learned_number_is_in_the_trace(name: str) -> None:
    exact(LEARNED[name]())


def test_a_parameter_that_is_written_into_a_tensor_is_named() -> None:
    with pytest.raises(TraceError, match=r"add in Net, test_exactness.py:\d+: .* w ") as caught:
        trace(LEARNED["a prefix of zeros"](), torch.rand(2, 3, SIZE, SIZE))
    assert "\n" not in str(caught.value)


# -- C: the backward pass -----------------------------------------------------------------------------------------


class Sign(torch.autograd.Function):
    """A sign whose gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Same(torch.autograd.Function):
    """The identity, with a tenth of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 0.1


def _under_no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        rest = x.round() - x
    return x + rest


def _data(m: Any, x: Tensor) -> Tensor:
    return x + (x.sign() - x).data


def _binary(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, Sign.apply(m.w))


def _scaled_binary(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.w + (m.w.sign() * m.w.abs().mean() - m.w).detach())


def _frozen(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.c(x)


def _hooked(m: Any, x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient * 0.1)
    return x * 2


def _with_backward_hook() -> nn.Module:
    module = net(lambda m, x: x)
    module.last.register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 0.1,))
    return module


BACKWARD: dict[str, Callable[[], nn.Module]] = {
    "straight through": lambda: net(lambda m, x: x + (x.sign() - x).detach()),
    "straight through by data": lambda: net(_data),
    "straight through under no_grad": lambda: inside(_under_no_grad),
    "straight through by a function": lambda: inside(lambda m, x: Sign.apply(x)),
    "rounded": lambda: net(lambda m, x: x + (torch.round(x) - x).detach()),
    "a stop": lambda: net(lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid().detach()),
    "a scaled gradient": lambda: inside(lambda m, x: Same.apply(x)),
    "a mix of gradients": lambda: net(lambda m, x: 0.1 * x + (0.9 * x).detach()),
    "binary weights": lambda: inside(_binary, w=learned(8, 8, 1, 1)),
    "scaled binary weights": lambda: net(_scaled_binary, w=learned(8, 8, 1, 1)),
}
UNSEEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no_grad": (lambda: net(_under_no_grad), r"round in Net, test_exactness.py:\d+: runs without gradients"),
    "a function": (lambda: net(lambda m, x: Sign.apply(x)), r"sign in Net, test_exactness.py:\d+: runs without"),
    "the same": (lambda: net(lambda m, x: Same.apply(x)), r"in Net, test_exactness.py:\d+: runs without"),
    "a hook": (lambda: net(_hooked), r"register_hook in Net, test_exactness.py:\d+: a hook on its gradient"),
    "a module's hook": (_with_backward_hook, r"in Net, test_exactness.py:\d+: runs without gradients"),
    "a frozen part": (
        lambda: net(_frozen, children={"c": nn.Conv2d(8, 8, 3, padding=1)}),
        r"conv2d in c \(Conv2d\), test_exactness.py:\d+: runs without gradients",
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_gradients_are_the_modules(name: str) -> None:
    exact(BACKWARD[name]())


@pytest.mark.parametrize("name", UNSEEN)
def test_a_backward_pass_that_cannot_be_kept_is_refused_in_one_line(name: str) -> None:
    make, text = UNSEEN[name]
    with pytest.raises(TraceError, match=text) as caught:
        trace(make(), torch.randn(2, 3, SIZE, SIZE))
    assert "\n" not in str(caught.value)


# -- D: norms written by hand -------------------------------------------------------------------------------------


def _layer_norm(m: Any, x: Tensor, eps: float = 1e-6) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return m.w[:, None, None] * x + m.b[:, None, None]


def _layer_norm_of_moments(m: Any, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
    return (x - mean) * torch.rsqrt(variance + 1e-5) * m.w.view(1, -1, 1, 1)


def _rms_norm(m: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * m.w.view(-1, 1, 1)


def _rms_norm_by_division(m: Any, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()


def _instance_norm(m: Any, x: Tensor) -> Tensor:
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def _last(m: Any, x: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return (x * m.w).permute(0, 3, 1, 2)


def _l2(m: Any, x: Tensor) -> Tensor:
    return m.w[:, None, None] * x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


def _global_response(m: Any, x: Tensor) -> Tensor:
    size = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return m.w[:, None, None] * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + x


NORMS: dict[str, tuple[Forward, list[str]]] = {
    "layer norm": (_layer_norm, ["layer_norm", "scale", "scale"]),
    "layer norm of moments": (_layer_norm_of_moments, ["layer_norm", "scale"]),
    "layer norm, channels last": (_last, ["layer_norm", "scale"]),
    "layer norm after ReLU": (lambda m, x: _layer_norm(m, x.relu()), ["relu", "layer_norm", "scale", "scale"]),
    "RMS norm": (_rms_norm, ["rms_norm", "scale"]),
    "RMS norm by division": (_rms_norm_by_division, ["rms_norm"]),
    "RMS norm of PyTorch": (
        lambda m, x: F.rms_norm(x.permute(0, 2, 3, 1), (8,), m.w).permute(0, 3, 1, 2),
        ["rms_norm"],
    ),
    "instance norm": (_instance_norm, ["instance_norm"]),
    "L2 norm": (_l2, ["scale", "div"]),
    "global response": (_global_response, ["div", "multiply", "scale"]),
    "logarithm": (lambda m, x: torch.log(1 + x.relu()), ["log"]),
    "signed root": (lambda m, x: x.sign() * (x.abs() + 1e-10).sqrt(), ["sign", "sqrt", "multiply"]),
    "power of a mean": (lambda m, x: F.avg_pool2d(x.clamp(min=1e-6).pow(3), 2).pow(1 / 3), ["pow"]),
    "softmax by hand": (lambda m, x: x.exp() / x.exp().sum(1, keepdim=True), ["div"]),
    "logit": (lambda m, x: torch.logit(x.sigmoid(), 1e-6), ["logit"]),
    "quotient": (lambda m, x: x / (1 + x.abs()), ["div"]),
    "half the maps as a gate": (lambda m, x: (lambda a, b: torch.cat([a * b, a / (1 + b * b)], 1))(*x.chunk(2, 1)), []),
}


@pytest.mark.parametrize("place", ["in a module", "in the network"])
@pytest.mark.parametrize("name", NORMS)
def test_no_student_of_a_norm_by_hand_fails(name: str, place: str) -> None:
    part, expected = NORMS[name]
    tensors = {key: learned(8) for key in ("w", "b") if f"m.{key}" in str(_source(part))}
    module = inside(part, **tensors) if place == "in a module" else net(part, **tensors)
    architecture = exact(module)
    found = kinds(architecture)[4:-3]
    assert not expected or found == expected
    space, (_, weights) = SearchSpace(architecture), trace(module, torch.randn(2, 3, SIZE, SIZE))
    for index in range(8):
        verify(space.apply(space.sample(make_rng(0, "norms", index))), weights)


def _source(part: Forward) -> set[str]:
    """What a function reads of its module."""
    names = set(part.__code__.co_names)
    for name in part.__code__.co_names:
        if callable(inner := part.__globals__.get(name)) and hasattr(inner, "__code__"):
            names |= _source(inner)
    return {f"m.{name}" for name in names}


# -- E: smaller kinds ---------------------------------------------------------------------------------------------


class FrozenBatchNorm2d(nn.Module):
    """As torchvision and Detectron have it."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            getattr(self, name).reshape(1, -1, 1, 1) for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (variance + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class AlwaysEval(nn.BatchNorm2d):
    """A batch norm whose statistics stand in training, too."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class OnlyInTraining(nn.Module):
    """A regulariser of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training else x


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x) + 0.5


def _module(inner: nn.Module) -> nn.Module:
    return net(lambda m, x: m.inner(x), children={"inner": inner})


SMALL: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "a scripted function": (lambda: net(lambda m, x: scripted(x)), ["scripted"]),
    "a scripted function inside": (lambda: inside(lambda m, x: scripted(x)), ["scripted"]),
    "a scripted part": (lambda: _module(torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))), []),
    "a traced part": (
        lambda: _module(torch.jit.trace(nn.Conv2d(8, 8, 1), torch.rand(2, 8, SIZE, SIZE), check_trace=False)), []
    ),
    "a frozen batch norm": (lambda: _module(FrozenBatchNorm2d()), ["broadcast", "broadcast"]),
    "a batch norm in eval mode": (lambda: _module(AlwaysEval(8)), ["broadcast", "broadcast", "scale"]),
    "a batch norm without momentum": (lambda: _module(nn.BatchNorm2d(8, momentum=0.0)), ["batch_norm"]),
    "a cumulative batch norm": (lambda: _module(nn.BatchNorm2d(8, momentum=None)), ["BatchNorm2d"]),
    "something in training alone": (lambda: _module(OnlyInTraining()), ["OnlyInTraining"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("name", SMALL)
def test_parts_that_are_kept(name: str) -> None:
    make, expected = SMALL[name]
    found = kinds(exact(make()))[4:-3]
    assert not expected or found == expected


def test_something_in_training_alone_is_refused_where_no_module_holds_it() -> None:
    with pytest.raises(TraceError, match="different outputs in training: it does something else there, at Net"):
        trace(net(lambda m, x: x * 0.5 if m.training else x), torch.randn(2, 3, SIZE, SIZE))


class Auxiliary(nn.Module):
    """A second head that runs in training alone, as in GoogLeNet, before more layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.aux, self.last = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten()), nn.Conv2d(8, 8, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        beside = self.aux(x) if self.training else None
        x = self.head(self.norm(self.last(x)).relu().mean((2, 3)))
        return (x, beside) if self.training else x


def test_what_runs_in_training_alone_leaves_the_rest_as_it_is() -> None:
    with pytest.warns(UserWarning, match="left out of Auxiliary: aux, on which the output does not depend"):
        architecture, _ = trace(Auxiliary(), torch.randn(2, 3, SIZE, SIZE))
    assert [layer.kind for layer in architecture.layers].count("batch_norm") == 2


def test_frozen_layers_are_trained_and_named() -> None:
    module = net(lambda m, x: x)
    module.first.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"frozen in Net, and trained in students: first$"):
        architecture, _ = trace(module, torch.randn(2, 3, SIZE, SIZE))
    assert architecture.num_params == sum(p.numel() for p in module.parameters())
    assert not any(p.requires_grad for p in module.first.parameters())


def test_autocast_inside_is_named() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.c(x).float()

    with pytest.raises(TraceError, match=r"conv2d in c \(Conv2d\), .*: runs under autocast"):
        trace(net(forward, children={"c": nn.Conv2d(8, 8, 3)}), torch.randn(2, 3, SIZE, SIZE))


def test_a_compiled_module_is_unwrapped() -> None:
    module = net(lambda m, x: x)
    for wrapped in (torch.compile(module), nn.DataParallel(module)):
        architecture, _ = trace(wrapped, torch.randn(2, 3, SIZE, SIZE))  # type: ignore[arg-type]
        assert architecture == trace(module, torch.randn(2, 3, SIZE, SIZE))[0]


def test_an_exported_program_is_refused_in_one_line() -> None:
    example = torch.randn(2, 3, SIZE, SIZE)
    program = torch.export.export(net(lambda m, x: x).eval(), (example,)).module()
    with pytest.raises(TraceError, match=r"torch.export.*trace the module that it was made from") as caught:
        trace(program, example)
    assert "\n" not in str(caught.value)


def test_a_tensor_from_numpy_is_named() -> None:
    numbers = torch.rand(8, 1, 1).numpy()
    with pytest.raises(TraceError, match=r"mul in Net, test_exactness.py:\d+: .*hold it as a buffer"):
        trace(net(lambda m, x: x * torch.from_numpy(numbers)), torch.randn(2, 3, SIZE, SIZE))


@pytest.mark.parametrize(
    ("output", "text"),
    [(lambda x: {"out": x}, "a dict"), (lambda x: [x], "a list"), (lambda x: (x, x), "a tuple")],
)
def test_several_outputs_are_refused_with_advice(output: Callable[[Tensor], Any], text: str) -> None:
    with pytest.raises(TraceError, match=rf"puts out {text}.*wrap it in a module"):
        trace(Part(lambda m, x: output(m.c(x)), c=nn.Conv2d(3, 4, 1)), torch.randn(2, 3, SIZE, SIZE))


# -- whole networks ------------------------------------------------------------------------------------------------


class PatchAttention(nn.Module):
    """A transformer block over the pixels of a map, with learned positions."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, size * size, width))
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        y = x.flatten(2).transpose(1, 2) + self.positions
        z = self.norm(y)
        y = y + self.attention(z, z, z, need_weights=False)[0]
        return (y + self.mlp(y)).transpose(1, 2).unflatten(2, size)


class ScaledStandardised(nn.Conv2d):
    """A weight-standardised convolution with a learned gain, as in normaliser-free networks."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.full((width, 1, 1, 1), 0.8))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=(self.gain * 0.2).view(-1), training=True, momentum=0.0, eps=1e-6,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, padding=1)


class LayerNormFunction(torch.autograd.Function):
    """A layer norm over the channels with its own backward pass, as NAFNet has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean = x.mean(1, keepdim=True)
        scale = ((x - mean).pow(2).mean(1, keepdim=True) + eps).rsqrt()
        y = (x - mean) * scale
        ctx.save_for_backward(y, scale, weight)
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        y, scale, weight = ctx.saved_tensors
        inner = grad * weight.view(1, -1, 1, 1)
        into = scale * (inner - inner.mean(1, keepdim=True) - y * (inner * y).mean(1, keepdim=True))
        return into, (grad * y).sum((0, 2, 3)), grad.sum((0, 2, 3)), None


class NAFNorm(nn.Module):
    """A layer norm over the channels, by operations or by `LayerNormFunction`."""

    def __init__(self, width: int, own_backward: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.own_backward = own_backward

    def forward(self, x: Tensor) -> Tensor:
        if self.own_backward:
            found: Tensor = LayerNormFunction.apply(x, self.weight, self.bias, 1e-6)
            return found
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / (variance + 1e-6).sqrt()) + self.bias[:, None, None]


class NAFBlock(nn.Module):
    """Gates in place of activations, and zero-initialised branches (Chen et al. 2022)."""

    def __init__(self, width: int, own_backward: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = NAFNorm(width, own_backward), NAFNorm(width, own_backward)
        self.conv1, self.conv2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, 1, 1, 1, 2 * width)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1))
        self.conv3, self.conv4 = nn.Conv2d(width, width, 1), nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.conv3(y * self.sca(y)) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, dim=1)
        return x + self.conv5(a * b) * self.gamma


@pytest.mark.parametrize("own_backward", [False, True])
@pytest.mark.parametrize("blocks", [2, 6])
def test_no_student_of_a_network_without_activations_fails(blocks: int, own_backward: bool) -> None:
    torch.manual_seed(0)
    module = _module(nn.Sequential(*[NAFBlock(8, own_backward) for _ in range(blocks)]))
    architecture = exact(module)
    assert sum(layer.kind == "layer_norm" for layer in architecture.layers) == (0 if own_backward else 2 * blocks)
    space, (_, weights) = SearchSpace(architecture), trace(module, torch.randn(2, 3, SIZE, SIZE))
    for index in range(20):
        verify(space.apply(space.sample(make_rng(0, "naf", index))), weights)


def test_a_network_of_frozen_batch_norms_shrinks() -> None:
    module = torchvision.models.resnet18(num_classes=4, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    architecture, weights = trace(module, torch.randn(2, 3, 32, 32))
    assert not any(layer.kind == "opaque" for layer in architecture.layers)
    assert architecture.num_params == sum(p.numel() for p in module.parameters())
    space = SearchSpace(architecture, ("shrink",))
    student = space.apply(space.narrow(architecture.num_params // 4))
    assert student.num_params < architecture.num_params / 3.9
    verify(student, weights)


WHOLE: dict[str, Callable[[], nn.Module]] = {
    "a block of a transformer": lambda: _module(PatchAttention(8, SIZE)),
    "standardised weights with gains": lambda: _module(ScaledStandardised(8)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks(name: str) -> None:
    exact(WHOLE[name]())


# -- what was refused or wrong before ------------------------------------------------------------------------------


def _tied() -> nn.Module:
    part = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    part[2].weight = part[0].weight
    return part


def _scaled_call(m: Any, x: Tensor) -> Any:
    return torch.func.functional_call(m.c, {name: 2 * p for name, p in m.c.named_parameters()}, (x,))


def _changed_by_a_view(m: Any, x: Tensor) -> Tensor:
    x = x * 1
    x[:, :4].mul_(2)
    return x


def _spatial_transformer(m: Any, x: Tensor) -> Tensor:
    theta = (m.c(x.mean((2, 3))) + m.w).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.size()), align_corners=False), align_corners=False)


def _coordinates(m: Any, x: Tensor) -> Any:
    rows = torch.linspace(-1, 1, SIZE).view(1, 1, SIZE, 1).expand(x.shape[0], 1, SIZE, SIZE)
    return m.c(torch.cat([x, rows.to(x), m.w.expand(x.shape[0], -1, -1, -1)], 1))


def _group_norm(m: Any, x: Tensor) -> Tensor:
    y = x.view(x.shape[0], 2, -1)
    y = (y - y.mean(2, keepdim=True)) / (y.var(2, keepdim=True) + 1e-5).sqrt()
    return y.view(x.shape) * m.w


def _two_rows(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(2, 8, 1, 1)).repeat(1, 4, 1, 1)  # not one for each of two images


def _attention(m: Any, x: Tensor) -> Any:
    q, k, v = m.qkv(x).view(x.shape[0], 3, 2, 4, SIZE * SIZE).unbind(1)
    return m.c((v @ torch.softmax(q.mT @ k, dim=-2)).reshape(x.shape))


def _spectral(m: Any, x: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.complex(m.w, m.w) * m.k).real


def _low_rank(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.w + (m.a @ m.b).view(8, 8, 1, 1))


def _above(m: Any, x: Tensor) -> Tensor:
    return x * (x > m.w).float()


def _checkpointed(m: Any, x: Tensor) -> Any:
    return checkpoint(m.c, x, use_reentrant=True)


def _conv(width: int = 8, kernel: int = 1) -> dict[str, nn.Module]:
    return {"c": nn.Conv2d(width, 8, kernel)}


KEPT: dict[str, Callable[[], nn.Module]] = {
    "tied weights": lambda: _module(_tied()),
    "other parameters for one call": lambda: net(
        lambda m, x: m.i(x), children={"i": Part(_scaled_call, c=nn.Conv2d(8, 8, 1))}
    ),
    "a change by a view": lambda: inside(_changed_by_a_view),
    "a spatial transformer": lambda: net(_spatial_transformer, children={"c": nn.Linear(8, 6)}, w=learned(6)),
    "coordinates": lambda: net(_coordinates, children=_conv(10), w=torch.rand(1, 1, SIZE, SIZE)),
    "learned maps beside": lambda: net(_coordinates, children=_conv(10), w=learned(1, 1, SIZE, SIZE)),
    "a group norm by hand": lambda: net(_group_norm, w=learned(8, 1, 1)),
    "a kernel of two rows": lambda: net(_two_rows),
    "attention": lambda: net(_attention, children={"qkv": nn.Conv2d(8, 24, 1), **_conv()}),
    "the form of another tensor": lambda: net(lambda m, x: x * m.w.type_as(x).expand_as(x), w=learned(8, 1, 1)),
    "complex numbers": lambda: net(_spectral, w=learned(8, 8, 8), k=nn.Parameter(torch.ones(8, 1, 1) + 1j)),
    "a weight of low rank": lambda: net(_low_rank, w=learned(8, 8, 1, 1), a=learned(8, 2), b=learned(2, 8)),
    "a threshold without a gradient": lambda: net(_above, w=learned(1)),
    "numbers of half the length": lambda: net(lambda m, x: x.bfloat16().relu().mul(2).float()),
    "a checkpoint": lambda: net(_checkpointed, children={"c": nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())}),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_has_students(name: str) -> None:
    module = KEPT[name]()
    space, (_, weights) = SearchSpace(exact(module)), trace(module, torch.randn(2, 3, SIZE, SIZE))
    for index in range(6):
        verify(space.apply(space.sample(make_rng(0, "kept", index))), weights)


def test_a_parameter_of_whole_numbers_is_named() -> None:
    order = nn.Parameter(torch.arange(7, -1, -1), requires_grad=False)
    with pytest.raises(TraceError, match=r"Net has the parameter w of whole numbers, .*: hold it as a buffer"):
        trace(net(lambda m, x: x[:, m.w], w=order), torch.randn(2, 3, SIZE, SIZE))


def test_attributes_that_a_forward_pass_sets_are_as_they_were() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.count, m.seen = m.count + 1, x
        return x

    module = net(forward)
    module.count = 3  # type: ignore[assignment]
    trace(module, torch.randn(2, 3, SIZE, SIZE))
    assert module.count == 3 and not hasattr(module, "seen")
