"""What tracing knows: which modules, functions and methods are layers, and how to read a layer's attributes off them.

Tables only; `tracing` walks the graph. A reader gets the options (the module itself, or a function's arguments by name)
and the input's shape without the batch, and raises `Refused` for an option that would change the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from esnac_lib.layer_types import Shape

Attrs = dict[str, Any]
Reader = Callable[[Any, Shape], Attrs]


class Refused(Exception):
    """Why an operation cannot be traced; `trace` adds where it stands."""


class Function(NamedTuple):
    """A function or method that is a layer: its kind, reader, and arguments in order with their defaults."""

    kind: str
    reader: Reader
    arguments: Mapping[str, Any]


def _no_options(options: Any, shape: Shape) -> Attrs:
    return {}


def _conv(options: Any, shape: Shape) -> Attrs:
    if options.padding_mode != "zeros":
        raise Refused(f"padding_mode={options.padding_mode!r}: only 'zeros' is known")
    padding = options.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        spans = [d * (k - 1) for d, k in zip(options.dilation, options.kernel_size, strict=True)]
        if any(span % 2 for span in spans):
            raise Refused("padding='same' with an even kernel pads one side more: give the padding as numbers")
        padding = tuple(span // 2 for span in spans)
    names = ("kernel_size", "stride", "dilation", "groups")
    return {name: getattr(options, name) for name in names} | {"padding": padding, "bias": options.bias is not None}


def _linear(options: Any, shape: Shape) -> Attrs:
    return {"bias": options.bias is not None}


def _batch_norm(options: Any, shape: Shape) -> Attrs:
    if options.running_mean is None:
        raise Refused("track_running_stats=False: a batch norm needs its running statistics")
    if options.momentum is None:
        raise Refused("momentum=None: a cumulative average is not known, give a number")
    return {name: getattr(options, name) for name in ("eps", "momentum", "affine")}


def _dropout(options: Any, shape: Shape) -> Attrs:
    return {"p": options.p}


def _pool(options: Any, *names: str) -> Attrs:
    names = ("kernel_size", "padding", "ceil_mode", *names)
    attrs = {name: getattr(options, name) for name in names}
    return attrs | {"stride": options.kernel_size if options.stride is None else options.stride}


def _max_pool(options: Any, shape: Shape) -> Attrs:
    if options.return_indices:
        raise Refused("return_indices=True: only the maxima can be passed on")
    return _pool(options, "dilation")


def _avg_pool(options: Any, shape: Shape) -> Attrs:
    if options.divisor_override is not None:
        raise Refused(f"divisor_override={options.divisor_override}: only a plain average is known")
    return _pool(options, "count_include_pad")


def _adaptive_avg_pool(options: Any, shape: Shape) -> Attrs:
    size = options.output_size
    size = size if isinstance(size, tuple | list) else (size, size)
    return {"output_size": tuple(old if new is None else new for new, old in zip(size, shape[1:], strict=True))}


def _flatten(options: Any, shape: Shape) -> Attrs:
    if options.start_dim not in (1, -len(shape)) or options.end_dim not in (-1, len(shape)):
        raise Refused(f"flattens dimensions {options.start_dim} to {options.end_dim}: only 1 to -1 is known")
    return {}


def _channel_shuffle(options: Any, shape: Shape) -> Attrs:
    return {"groups": options.groups}


MODULES: Mapping[type[nn.Module], tuple[str, Reader]] = {
    nn.Conv2d: ("conv", _conv),
    nn.Linear: ("linear", _linear),
    nn.BatchNorm2d: ("batch_norm", _batch_norm),
    nn.ReLU: ("relu", _no_options),
    nn.Sigmoid: ("sigmoid", _no_options),
    nn.Dropout: ("dropout", _dropout),
    nn.MaxPool2d: ("max_pool", _max_pool),
    nn.AvgPool2d: ("avg_pool", _avg_pool),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool", _adaptive_avg_pool),
    nn.Flatten: ("flatten", _flatten),
    nn.ChannelShuffle: ("channel_shuffle", _channel_shuffle),
}

REQUIRED = object()
_INPUT = {"input": REQUIRED}
_POOL = _INPUT | {"kernel_size": REQUIRED, "stride": None, "padding": 0}

_RELU = Function("relu", _no_options, _INPUT | {"inplace": False})
_SIGMOID = Function("sigmoid", _no_options, _INPUT)
_FLATTEN = Function("flatten", _flatten, _INPUT | {"start_dim": 0, "end_dim": -1})
_MAX = Function("max_pool", _max_pool, _POOL | {"dilation": 1, "ceil_mode": False, "return_indices": False})
_AVERAGE = Function(
    "avg_pool", _avg_pool, _POOL | {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
)
_ADAPTIVE = Function("adaptive_avg_pool", _adaptive_avg_pool, _INPUT | {"output_size": REQUIRED})
_SHUFFLE = Function("channel_shuffle", _channel_shuffle, _INPUT | {"groups": REQUIRED})

# Methods of tensors stand under their names.
FUNCTIONS: Mapping[Any, Function] = {
    F.relu: _RELU, F.relu_: _RELU, torch.relu: _RELU, torch.relu_: _RELU, "relu": _RELU, "relu_": _RELU,
    F.sigmoid: _SIGMOID, torch.sigmoid: _SIGMOID, "sigmoid": _SIGMOID,
    F.max_pool2d: _MAX, torch.max_pool2d: _MAX, F.avg_pool2d: _AVERAGE, F.adaptive_avg_pool2d: _ADAPTIVE,
    torch.flatten: _FLATTEN, "flatten": _FLATTEN, F.channel_shuffle: _SHUFFLE,
}  # fmt: skip

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUM_ARGUMENTS = _INPUT | {"other": REQUIRED, "alpha": 1}
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
PRODUCT_ARGUMENTS = _INPUT | {"other": REQUIRED}
JOINS = (torch.cat, torch.concat, torch.concatenate)
JOIN_ARGUMENTS = {"tensors": REQUIRED, "dim": 0}
RESHAPES = (torch.reshape, "view", "reshape")


def known_module(module: nn.Module) -> tuple[str, Reader] | None:
    """The kind and reader of a module, also of a subclass that runs the same code; None if it is not known."""
    for kind, found in MODULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            own_conv = isinstance(module, nn.Conv2d) and type(module)._conv_forward is not nn.Conv2d._conv_forward
            return None if own_conv else found
    return None


def bind(arguments: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Attrs:
    """The arguments of a call by name, with defaults. Raises Refused for one that is not known, or lacking."""
    if unknown := [*map(repr, args[len(arguments) :]), *(name for name in kwargs if name not in arguments)]:
        raise Refused(f"the argument {unknown[0]} is not known")
    bound = {**arguments, **dict(zip(arguments, args, strict=False)), **kwargs}
    if lacking := [name for name, value in bound.items() if value is REQUIRED]:
        raise Refused(f"the argument {lacking[0]} is lacking")
    return bound
