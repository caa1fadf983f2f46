"""The modules that run layers: PyTorch's own where there is one, small ones where there is none.

    >>> module_of(layer, in_shape)      # of one layer, with PyTorch's default initialisation

Those of our own hold their tensors under the names "weight" and "bias", like PyTorch's, and have no other state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esnac_lib.architecture.graph import Layer
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape
from esnac_lib.errors import ArchitectureError


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for maps and features alike, without its counter of batches, which only momentum=None reads."""

    num_batches_tracked: Tensor | None

    def __init__(self, channels: int, eps: float, momentum: float, affine: bool) -> None:
        super().__init__(channels, eps, momentum, affine)
        self.num_batches_tracked = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 4):
            super()._check_input_dim(input)

    def reset_running_stats(self) -> None:
        """Reset to mean 0 and variance 1, as if no batch had been seen."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)

    def _load_from_state_dict(self, *args: Any) -> None:
        nn.Module._load_from_state_dict(self, *args)  # PyTorch's own asks for the counter


class Scale(nn.Module):
    """x · weight + bias with learned numbers, one a channel."""

    def __init__(self, channels: int, weight: bool, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if weight else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, F) to the same."""
        size = (-1, *[1] * (x.ndim - 2))
        if self.weight is not None:
            x = x * self.weight.view(size)
        return x if self.bias is None else x + self.bias.view(size)


class ChannelNorm(nn.Module):
    """A layer norm over the channels at each position of (B, C, H, W), or over the features of (B, F)."""

    def __init__(self, channels: int, eps: float, weight: bool, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if weight else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, F) to the same."""
        if x.ndim == 2:
            return F.layer_norm(x, x.shape[1:], self.weight, self.bias, self.eps)
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, last.shape[3:], self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class ChannelRMSNorm(nn.Module):
    """An RMS norm over the channels at each position of (B, C, H, W), or over the features of (B, F)."""

    def __init__(self, channels: int, eps: float, weight: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if weight else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, F) to the same."""
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return x if self.weight is None else x * self.weight.view(-1, *[1] * (x.ndim - 2))


class Broadcast(nn.Module):
    """x + weight, or another of `OPERATIONS`, with a tensor that is learned, or fixed and then a buffer."""

    weight: Tensor

    def __init__(self, size: Shape, operation: str, trained: bool) -> None:
        super().__init__()
        self.operation = operation
        tensor = torch.zeros(size) if operation in ("add", "subtract") else torch.ones(size)
        if trained:
            self.weight = nn.Parameter(tensor)
        else:
            self.register_buffer("weight", tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, F) to the same."""
        result: Tensor = getattr(torch, self.operation)(x, self.weight)
        return result


class Affine(nn.Module):
    """factor · x + offset with fixed numbers."""

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        if self.factor != 1:
            x = x * self.factor
        return x if self.offset == 0 else x + self.offset


class Activation(nn.Module):
    """An element-wise function of `layer_types.ACTIVATIONS`."""

    def __init__(self, function: str, arguments: tuple[float, ...]) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments
        self._call = activation_function(function)

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return self._call(x, *self.arguments)

    def extra_repr(self) -> str:
        """Return what the module's repr shows."""
        return ", ".join(map(str, (self.function, *self.arguments)))


def activation_function(name: str) -> Callable[..., Tensor]:
    """Return the function of a name in ACTIVATIONS: (x, *arguments) to a tensor of x's shape."""
    if name == "gelu_tanh":
        return partial(F.gelu, approximate="tanh")
    return getattr(torch if name in ("tanh", "square", "abs") else F, name)


class Concat(nn.Module):
    """Joins its inputs along the channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map several (B, C_i, H, W) to (B, sum of C_i, H, W)."""
        return torch.cat(inputs, 1)


class Multiply(nn.Module):
    """The element-wise product of two maps, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map (B, C, H, W) and for example (B, C, 1, 1) to (B, C, H, W)."""
        return a * b


class Add(nn.Module):
    """The element-wise sum of two maps, with broadcasting."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map (B, C, H, W) and for example (B, C, 1, 1) to (B, C, H, W)."""
        return a + b


class Select(nn.Module):
    """Picks channels: those of its runs (start, stop), in their order."""

    def __init__(self, runs: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.runs = runs
        index = torch.cat([torch.arange(start, stop, device="cpu") for start, stop in runs])
        self._index: dict[torch.device, Tensor] = {index.device: index}  # no buffer: an architecture knows its runs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) or (B, F) to as many channels as are picked."""
        if len(self.runs) == 1:
            return x[:, slice(*self.runs[0])]
        if x.device not in self._index:
            self._index[x.device] = next(iter(self._index.values())).to(x.device)
        return x.index_select(1, self._index[x.device])


class Unflatten(nn.Module):
    """Features as maps of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, F, 1, 1)."""
        return x[:, :, None, None]


class Pad(nn.Module):
    """A border around the map, or with negative sizes a cut."""

    def __init__(self, sizes: tuple[int, int, int, int], mode: str, value: float) -> None:
        super().__init__()
        self.sizes, self.mode, self.value = sizes, mode, value

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H + top + bottom, W + left + right)."""
        return F.pad(x, self.sizes, self.mode, self.value if self.mode == "constant" else None)


class StochasticDepth(nn.Module):
    """Stochastic depth (Huang et al. 2016) as torchvision has it, which takes longer to import than all else here."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to the same: in training each image (in mode "batch", all) is dropped with probability p."""
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty((len(x) if self.mode == "row" else 1, *[1] * (x.ndim - 1))).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p) if self.p < 1 else kept)


class Zeros(nn.Module):
    """Maps of zeros, as many and as large as its input's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H, W)."""
        return x.new_zeros((x.shape[0], self.channels, *x.shape[2:]))  # len(x) would be a constant in ONNX


def _opaque(layer: Layer, shape: Shape) -> nn.Module:
    if not isinstance(layer.code, nn.Module):
        raise ArchitectureError(
            f"layer {layer.name!r} is opaque ({layer['what']}): only its teacher's module has its code; "
            "give it back with Architecture.with_code_of"
        )
    return deepcopy(layer.code)


def _upsample(layer: Layer, shape: Shape) -> nn.Module:
    corners = layer["align_corners"] if layer["mode"] in ("bilinear", "bicubic") else None
    return nn.Upsample(layer["size"], mode=layer["mode"], align_corners=corners)


# Made with the layer's attributes; those of the second table with the number of input channels before them.
_PLAIN: Mapping[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "dropout": nn.Dropout, "max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d,
    "adaptive_avg_pool": nn.AdaptiveAvgPool2d, "adaptive_max_pool": nn.AdaptiveMaxPool2d, "flatten": nn.Flatten,
    "concat": Concat, "channel_shuffle": nn.ChannelShuffle, "activation": Activation, "affine": Affine,
    "multiply": Multiply, "add": Add, "select": Select, "unflatten": Unflatten, "pad": Pad,
    "stochastic_depth": StochasticDepth,
}  # fmt: skip
_SIZED: Mapping[str, Callable[..., nn.Module]] = {
    "batch_norm": BatchNorm, "layer_norm": ChannelNorm, "rms_norm": ChannelRMSNorm, "scale": Scale,
}  # fmt: skip
_OTHER: Mapping[str, Callable[[Layer, Shape], nn.Module]] = {
    "conv": lambda layer, shape: nn.Conv2d(shape[0], layer.channels, **dict(layer.attrs)),
    "linear": lambda layer, shape: nn.Linear(shape[0], layer.channels, **dict(layer.attrs)),
    "prelu": lambda layer, shape: nn.PReLU(1 if layer["shared"] else shape[0]),
    "group_norm": lambda layer, shape: nn.GroupNorm(layer["groups"], shape[0], layer["eps"], layer["affine"]),
    "instance_norm": lambda layer, shape: nn.InstanceNorm2d(shape[0], layer["eps"], affine=layer["affine"]),
    "upsample": _upsample,
    "broadcast": lambda layer, shape: Broadcast(
        LAYER_TYPES["broadcast"].tensors(0, dict(layer.attrs), shape)["weight"], layer["operation"], layer["trained"]
    ),
    "zeros": lambda layer, shape: Zeros(layer.channels),
    "opaque": _opaque,
}


def module_of(layer: Layer, in_shape: Shape) -> nn.Module:
    """Return the module of a layer whose (first) input has this shape: called with one tensor per slot, batch first.

    It is initialised as PyTorch does, but an opaque layer's is a copy of its teacher's (ArchitectureError without it).
    """
    if layer.kind in _PLAIN:
        return _PLAIN[layer.kind](**dict(layer.attrs))
    if layer.kind in _SIZED:
        return _SIZED[layer.kind](in_shape[0], **dict(layer.attrs))
    return _OTHER[layer.kind](layer, in_shape)
