"""How a function's arguments are read: each reader returns the layers that compute the same.

A reader gets the arguments by name and how the function's input was seen, and raises `Refused` for an option that would
change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esnac_lib.architecture.layer_types import REQUIRED, Shape
from esnac_lib.architecture.tracing.calls import Constant, Value
from esnac_lib.architecture.tracing.movement import CHANNELS, SPACE

Attrs = dict[str, Any]
Options = SimpleNamespace  # the arguments of a call by name


class Refused(Exception):
    """Why a call cannot be traced; `tracing` adds where it stands."""


class Unfinished(Refused):
    """Why what stands before a call cannot be traced, with its place."""


@dataclass(frozen=True)
class Step:
    """One layer to be: as `Layer`, without name and inputs, and its tensors by their names in the layer."""

    kind: str
    attrs: Attrs = field(default_factory=dict)
    tensors: Mapping[str, Constant] = field(default_factory=dict)
    channels: int = 0


class Seen(NamedTuple):
    """How a function's input was seen: the map (C, H, W) or features (F,), its layout, and the result's shape.

    in_training: the function's arguments by name as they are in training mode.
    """

    shape: Shape
    layout: str | None
    result: Shape
    in_training: Any


Reader = Callable[[Any, Seen], list[Step]]


def bind(arguments: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Attrs:
    """Return the arguments of a call by name, with defaults. Raises Refused for one that is not known, or lacking."""
    if unknown := [*map(repr, args[len(arguments) :]), *(name for name in kwargs if name not in arguments)]:
        raise Refused(f"the argument {unknown[0]} is not known")
    bound = {**arguments, **dict(zip(arguments, args, strict=False)), **kwargs}
    if lacking := [name for name, value in bound.items() if value is REQUIRED]:
        raise Refused(f"the argument {lacking[0]} is lacking")
    return bound


def constant(value: Any, what: str) -> Constant:
    """Return an argument, which must be a tensor that does not depend on the input."""
    if isinstance(value, Value):
        raise Refused(f"its {what} depends on the input")
    if not isinstance(value, Constant):
        raise Refused(f"its {what} is {value!r}: a tensor is needed")
    return value


def _tensors(options: Any, *names: str) -> dict[str, Constant]:
    """Return the arguments of these names that are not None."""
    return {name: constant(getattr(options, name), name) for name in names if getattr(options, name) is not None}


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and len(value) == 1 else value


def _pair(value: Any) -> tuple[Any, Any]:
    first, second = value if isinstance(value, tuple | list) and len(value) == 2 else 2 * (_single(value),)
    return first, second


def conv(options: Any, seen: Seen) -> list[Step]:
    """Read a convolution; the side that padding="same" pads more comes as a layer of its own."""
    tensors = _tensors(options, "weight", "bias")
    channels, _, *kernel = tensors["weight"].tensor.shape
    dilation, padding = _pair(options.dilation), _single(options.padding)
    steps = []
    if padding == "valid":
        padding = 0
    elif padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(span // 2 for span in spans)
        if any(span % 2 for span in spans):  # PyTorch pads the end of the map more
            sizes = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
            steps, padding = [Step("pad", {"sizes": tuple(sizes)})], 0
    geometry = {"kernel_size": tuple(kernel), "stride": _pair(options.stride), "padding": padding, "dilation": dilation}
    attrs = geometry | {"groups": options.groups, "bias": "bias" in tensors}
    return [*steps, Step("conv", attrs, tensors, channels)]


def linear(options: Any, seen: Seen) -> list[Step]:
    """Read a linear layer, at every pixel a 1 × 1 convolution."""
    tensors = _tensors(options, "weight", "bias")
    weight, attrs = tensors["weight"], {"bias": "bias" in tensors}
    if seen.layout == "f":
        return [Step("linear", attrs, tensors, len(weight.tensor))]
    tensors["weight"] = weight.by(Tensor.__getitem__, (slice(None), slice(None), None, None))
    return [Step("conv", attrs | {"kernel_size": 1}, tensors, len(weight.tensor))]


def batch_norm(options: Any, seen: Seen) -> list[Step]:
    """Read a batch norm with running statistics, on maps or features; one that is frozen is not one."""
    if options.training or options.running_mean is None or options.running_var is None:
        raise Refused("a batch norm without running statistics (track_running_stats=False)")
    if not options.momentum and seen.in_training.momentum:
        raise Refused("a batch norm that keeps a cumulative average (momentum=None)")
    if not seen.in_training.training:
        return _frozen_batch_norm(options, (-1, *[1] * (len(seen.shape) - 1)))
    statistics = _tensors(options, "running_mean", "running_var")
    return _normalised("batch_norm", {"eps": options.eps, "momentum": options.momentum}, statistics, options)


def _frozen_batch_norm(options: Any, size: tuple[int, ...]) -> list[Step]:
    """Return the layers of a batch norm whose statistics stand in training, too. size: to which its tensors unfold."""

    def fixed(operation: str, tensor: Constant) -> Step:
        attrs = {"operation": operation, "channels": True, "trained": False}
        return Step("broadcast", attrs, {"weight": tensor.by(Tensor.reshape, size)})

    tensors = _tensors(options, "weight", "bias")
    mean, variance = (constant(getattr(options, name), name) for name in ("running_mean", "running_var"))
    steps = [fixed("subtract", mean), fixed("multiply", variance.by(_inverse_root, options.eps))]
    if any(tensor.learned for tensor in tensors.values()):
        return [*steps, Step("scale", {"weight": "weight" in tensors, "bias": "bias" in tensors}, tensors)]
    operations = {"weight": "multiply", "bias": "add"}
    return [*steps, *(fixed(operations[key], tensor) for key, tensor in tensors.items())]


def _inverse_root(variance: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(variance + eps)


def _normalised(kind: str, attrs: Attrs, statistics: Mapping[str, Constant], options: Any) -> list[Step]:
    """Return the layers of a norm; a weight without a bias, or the reverse, becomes a layer of its own."""
    tensors = _tensors(options, "weight", "bias")
    if len(tensors) != 1:
        return [Step(kind, attrs | {"affine": bool(tensors)}, {**tensors, **statistics})]
    scale = Step("scale", {"weight": "weight" in tensors, "bias": "bias" in tensors}, tensors)
    return [Step(kind, attrs | {"affine": False}, statistics), scale]


def layer_norm(options: Any, seen: Seen) -> list[Step]:
    """Read a norm over the channels at each position."""
    if tuple(options.normalized_shape) != seen.shape[:1]:
        raise Refused(f"normalises over {tuple(options.normalized_shape)}: only over the channels is known")
    tensors = _tensors(options, "weight", "bias")
    return [Step("layer_norm", {"eps": options.eps, "weight": "weight" in tensors, "bias": "bias" in tensors}, tensors)]


def rms_norm(options: Any, seen: Seen) -> list[Step]:
    """Read an RMS norm over the channels at each position."""
    if tuple(options.normalized_shape) != seen.shape[:1]:
        raise Refused(f"normalises over {tuple(options.normalized_shape)}: only over the channels is known")
    eps = torch.finfo(torch.float32).eps if options.eps is None else options.eps
    tensors = _tensors(options, "weight")
    return [Step("rms_norm", {"eps": eps, "weight": bool(tensors)}, tensors)]


def group_norm(options: Any, seen: Seen) -> list[Step]:
    """Read a group norm."""
    return _normalised("group_norm", {"groups": options.num_groups, "eps": options.eps}, {}, options)


def instance_norm(options: Any, seen: Seen) -> list[Step]:
    """Read an instance norm without running statistics."""
    if options.running_mean is not None or not options.use_input_stats:
        raise Refused("an instance norm with running statistics")
    return _normalised("instance_norm", {"eps": options.eps}, {}, options)


def prelu(options: Any, seen: Seen) -> list[Step]:
    """Read a PReLU."""
    weight = constant(options.weight, "weight")
    return [Step("prelu", {"shared": weight.tensor.numel() == 1}, {"weight": weight})]


def kind(kind: str) -> Reader:
    """Return the reader of a layer without options."""
    return lambda options, seen: [Step(kind)]


def activation(function: str, *names: str) -> Reader:
    """Return the reader of an element-wise function, with the arguments of these names."""
    return lambda options, seen: [
        Step("activation", {"function": function, "arguments": tuple(float(getattr(options, name)) for name in names)})
    ]


def gelu(options: Any, seen: Seen) -> list[Step]:
    """Read GELU, exact or by tanh."""
    return [Step("activation", {"function": "gelu" if options.approximate == "none" else "gelu_tanh"})]


def clamp(options: Any, seen: Seen) -> list[Step]:
    """Read clamping to [0, ∞) or between two numbers."""
    if options.max is None and options.min == 0:
        return [Step("relu")]
    if not isinstance(options.min, int | float) or not isinstance(options.max, int | float):
        raise Refused(f"clamps to [{options.min}, {options.max}]: two numbers are needed, or 0 and no end")
    return [Step("activation", {"function": "hardtanh", "arguments": (float(options.min), float(options.max))})]


def power(options: Any, seen: Seen) -> list[Step]:
    """Read a square."""
    if isinstance(options.exponent, Constant | Value) or options.exponent != 2:
        raise Refused(f"the power {options.exponent!r}: only the square is a layer")
    return [Step("activation", {"function": "square"})]


def negative(options: Any, seen: Seen) -> list[Step]:
    """Read −x."""
    return [Step("affine", {"factor": -1.0})]


def dropout(options: Any, seen: Seen) -> list[Step]:
    """Read a dropout, which must be off in eval mode."""
    if options.training:
        raise Refused("a dropout that is on in eval mode")
    return [Step("dropout", {"p": options.p})] if options.p else []


def _pool(options: Any, *names: str) -> Attrs:
    stride = options.kernel_size if options.stride is None or options.stride == [] else options.stride
    geometry = {"kernel_size": options.kernel_size, "stride": stride, "padding": options.padding}
    return {name: _pair(value) for name, value in geometry.items()} | {name: getattr(options, name) for name in names}


def max_pool(options: Any, seen: Seen) -> list[Step]:
    """Read a max pool."""
    return [Step("max_pool", _pool(options, "ceil_mode") | {"dilation": _pair(options.dilation)})]


def avg_pool(options: Any, seen: Seen) -> list[Step]:
    """Read an average pool."""
    if options.divisor_override is not None:
        raise Refused(f"divisor_override={options.divisor_override}: only a plain average is known")
    return [Step("avg_pool", _pool(options, "ceil_mode", "count_include_pad"))]


def adaptive(kind: str) -> Reader:
    """Return the reader of a pool to the size that was seen."""

    def read(options: Any, seen: Seen) -> list[Step]:
        if getattr(options, "return_indices", False):
            raise Refused("return_indices=True: only the maxima can be passed on")
        return [Step(kind, {"output_size": seen.result[1:]})]

    return read


def channel_shuffle(options: Any, seen: Seen) -> list[Step]:
    """Read a channel shuffle."""
    return [Step("channel_shuffle", {"groups": options.groups})]


def interpolate(options: Any, seen: Seen) -> list[Step]:
    """Read a resize to the size that was seen."""
    if options.antialias:
        raise Refused("antialias=True is not known")
    size = seen.result[1:]
    if options.size is None and not options.recompute_scale_factor:
        exact = [old * factor for old, factor in zip(seen.shape[1:], _pair(options.scale_factor), strict=True)]
        if exact != list(size):
            raise Refused(f"scale_factor={options.scale_factor} gives {exact} pixels: give the size in whole numbers")
    return [Step("upsample", {"size": size, "mode": options.mode, "align_corners": bool(options.align_corners)})]


def pad_sizes(options: Any, layout: str) -> tuple[tuple[int, int], tuple[int, ...], Attrs]:
    """Return what F.pad adds to channels (before, after) and map (left, right, top, bottom), and how it fills."""
    sides = list(zip(options.pad[::2], options.pad[1::2], strict=True))  # the last dimension first
    rank = 2 + len(SPACE[layout])
    by_dim = {rank - 1 - place: side for place, side in enumerate(sides) if any(side)}
    space = [by_dim.pop(dim, (0, 0)) for dim in SPACE[layout]] if len(SPACE[layout]) == 2 else [(0, 0), (0, 0)]
    channels = by_dim.pop(CHANNELS[layout], (0, 0))
    value = float(options.value or 0.0)
    if by_dim or (any(channels) and (options.mode != "constant" or value or min(channels) < 0)):
        raise Refused("pads the batch or a row of pixels, or the channels with other things than zeros")
    if value == -inf:  # before a max pool; a layer's numbers are finite
        value = float(torch.finfo(torch.float32).min)
    sizes = (*space[1], *space[0])
    return channels, sizes, {"sizes": sizes, "mode": options.mode, "value": value}
