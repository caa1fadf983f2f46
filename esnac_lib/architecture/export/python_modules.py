"""What the constructor of a generated program makes: modules of torch.nn, and a few small classes where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from esnac_lib.architecture.channel_routing import selected
from esnac_lib.architecture.export.python_text import INDENT, WIDTH, Argument, Call
from esnac_lib.architecture.graph import Layer
from esnac_lib.architecture.layer_types import LAYER_TYPES, REQUIRED, Shape

# The class of each kind that is no plain function. Attributes have the names of its arguments.
MODULES: Mapping[str, str] = {
    "conv": "nn.Conv2d", "linear": "nn.Linear", "prelu": "nn.PReLU", "dropout": "nn.Dropout", "scale": "Scale",
    "batch_norm": "nn.BatchNorm2d", "layer_norm": "LayerNorm2d", "group_norm": "nn.GroupNorm",
    "instance_norm": "nn.InstanceNorm2d", "max_pool": "nn.MaxPool2d", "avg_pool": "nn.AvgPool2d",
    "adaptive_avg_pool": "nn.AdaptiveAvgPool2d", "adaptive_max_pool": "nn.AdaptiveMaxPool2d",
    "channel_shuffle": "nn.ChannelShuffle", "select": "Select", "stochastic_depth": "StochasticDepth",
    "broadcast": "Broadcast", "rms_norm": "RMSNorm2d",
}  # fmt: skip
# Instead, after a flatten.
OF_FEATURES: Mapping[str, str] = {"batch_norm": "nn.BatchNorm1d", "layer_norm": "nn.LayerNorm"}
# Kinds whose first argument is the number of input channels.
TAKES_CHANNELS = ("conv", "linear", "batch_norm", "layer_norm", "instance_norm", "scale", "rms_norm")

# Classes that torch.nn lacks, as text, which stands above the network if that needs it.
CLASSES: Mapping[str, str] = {
    "LayerNorm2d": '''
class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels at each position of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
''',
    "Scale": '''
class Scale(nn.Module):
    """Multiplies each channel by a learned number, adds one, or both."""

    def __init__(self, channels: int, weight: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if weight else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        size = (-1, *[1] * (x.dim() - 2))
        if self.weight is not None:
            x = x * self.weight.view(size)
        if self.bias is not None:
            x = x + self.bias.view(size)
        return x
''',
    "RMSNorm2d": '''
class RMSNorm2d(nn.Module):
    """An RMS norm over the channels at each position of a map, or over features."""

    def __init__(self, channels: int, eps: float = 1e-5, weight: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if weight else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        if self.weight is not None:
            x = x * self.weight.view(-1, *[1] * (x.dim() - 2))
        return x
''',
    "Broadcast": '''
class Broadcast(nn.Module):
    """Adds a learned or fixed tensor to each image, or another operation."""

    def __init__(self, size: tuple, operation: str, trained: bool = True) -> None:
        super().__init__()
        self.operation = operation
        start = 0.0 if operation in ("add", "subtract") else 1.0
        if trained:
            self.weight = nn.Parameter(torch.full(size, start))
        else:
            self.register_buffer("weight", torch.full(size, start))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(torch, self.operation)(x, self.weight)
''',
    "Select": '''
class Select(nn.Module):
    """Picks the channels at the given positions, in this order."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)
''',
    "StochasticDepth": '''
class StochasticDepth(nn.Module):
    """In training drops random images' maps; in mode "batch", all of them or none."""

    def __init__(self, p: float, mode: str = "row") -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        count = x.shape[0] if self.mode == "row" else 1
        kept = x.new_empty(count, *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p) if self.p < 1 else kept)
''',
}


def module_lines(layer: Layer, shape: Shape, attribute: str) -> list[str]:
    """Return the lines that make the module of a layer whose (first) input has this shape."""
    names = {**MODULES, **OF_FEATURES} if len(shape) == 1 else MODULES
    lines = Call(names[layer.kind], _arguments(layer, shape)).lines(f"self.{attribute} = ")
    if layer.kind == "select" and len(lines) > 1:  # as many numbers on a line as it holds, where there would be one
        rows = wrap(" ".join(map(str.strip, lines[1:-1])), WIDTH - len(INDENT) - 4)
        return [lines[0], *(f"{INDENT}    {row}" for row in rows), f"{lines[-1]}  # fmt: skip"]
    if layer.kind == "layer_norm" and layer["bias"] and not layer["weight"]:  # which no argument of PyTorch's says
        lines.append(f'{INDENT}self.{attribute}.register_parameter("weight", None)')
    return lines


def _arguments(layer: Layer, shape: Shape) -> list[Argument]:
    """Return the arguments of a layer's module: channels, size, and every attribute that is not PyTorch's default."""
    if layer.kind == "select":
        return [str(channel) for channel in selected(layer)]
    if layer.kind == "prelu":
        return [] if layer["shared"] else [str(shape[0])]
    if layer.kind == "broadcast":
        size = LAYER_TYPES["broadcast"].tensors(0, dict(layer.attrs), shape)["weight"]
        return [repr(size), f'"{layer["operation"]}"', *_changed({"trained": layer["trained"]}, {"trained": True})]
    if layer.kind == "layer_norm":
        flags = {"bias": layer["bias"]} if layer["weight"] else {"elementwise_affine": layer["bias"]}
        return [str(shape[0]), *_changed({"eps": layer["eps"]} | flags, {"eps": 1e-5} | dict.fromkeys(flags, True))]
    arguments: list[Argument] = [str(shape[0])] if layer.kind in TAKES_CHANNELS else []
    arguments += [str(layer.channels)] if layer.has_filters else []
    defaults = dict(LAYER_TYPES[layer.kind].attrs)
    name, default = next(iter(defaults.items()))
    if default is REQUIRED:
        arguments.append(_shortest(layer[name]))
        del defaults[name]
    if layer.kind == "group_norm":
        arguments.append(str(shape[0]))
    return [*arguments, *_changed(dict(layer.attrs), defaults)]


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return keyword arguments for the values that are not the default."""
    return [f"{name}={_shortest(values[name])}" for name in defaults if values[name] != defaults[name]]


def _shortest(value: Any) -> str:
    """Return a pair of equal numbers as one number; everything else as a formatter would leave it."""
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value[0] if isinstance(value, tuple) and value[0] == value[1] else value)
