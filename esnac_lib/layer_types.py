"""What each kind of layer does to shapes, and what it costs: one table, which every other module reads.

A shape is (channels, height, width), or (features,) after a flatten. MACs are the multiply-accumulates of
convolutions and linear layers for one image, which is what PyTorch's FlopCounterMode counts (halved).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from numbers import Integral, Real
from sys import float_info
from typing import Any

from esnac_lib.errors import ArchitectureError

Shape = tuple[int, ...]
Slot = tuple[tuple[int, int], ...]  # a sum of sources, each with its multiplicity
Attrs = Mapping[str, Any]

REQUIRED = object()


@dataclass(frozen=True)
class LayerType:
    """The rules of one kind of layer.

    `shape(channels, attrs, inputs)` gives the output shape, where `inputs` has the shape of each input slot, and
    raises ArchitectureError if they do not fit. `params(channels, attrs, input)` and `macs(channels, attrs, input,
    output)` give exact counts. `filters` says that the layer has output channels of its own, which can be shrunk;
    `spatial` names the attributes that are (height, width) pairs.
    """

    shape: Callable[[int, Attrs, list[Shape]], Shape]
    params: Callable[[int, Attrs, Shape], int] = lambda channels, attrs, shape: 0
    macs: Callable[[int, Attrs, Shape, Shape], int] = lambda channels, attrs, shape, out: 0
    attrs: Mapping[str, Any] = field(default_factory=dict)
    spatial: tuple[str, ...] = ()
    filters: bool = False
    slots: int = 1  # 0: any number


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ArchitectureError(f"an input of shape {shape} where (channels, height, width) is needed")
    return shape


def _window(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool = False) -> int:
    """Output length of a sliding window, as in PyTorch's documentation of Conv2d and MaxPool2d."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if span < (1 - stride if ceil_mode else 0):  # with ceil_mode a window may hang over the map's end
        raise ArchitectureError(f"a window of {dilation * (kernel - 1) + 1} on a map of {size} + 2·{padding} pixels")
    out = (ceil(span / stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:  # the last window must start inside the map
        out -= 1
    return out


def _conv_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    c, h, w = _image(inputs[0])
    if c % attrs["groups"] or channels % attrs["groups"]:
        raise ArchitectureError(f"{c} input and {channels} output channels do not divide into {attrs['groups']} groups")
    k, s, p, d = attrs["kernel_size"], attrs["stride"], attrs["padding"], attrs["dilation"]
    return channels, _window(h, k[0], s[0], p[0], d[0]), _window(w, k[1], s[1], p[1], d[1])


def _conv_params(channels: int, attrs: Attrs, shape: Shape) -> int:
    return channels * (shape[0] // attrs["groups"]) * prod(attrs["kernel_size"]) + (channels if attrs["bias"] else 0)


def _conv_macs(channels: int, attrs: Attrs, shape: Shape, out: Shape) -> int:
    return prod(out) * (shape[0] // attrs["groups"]) * prod(attrs["kernel_size"])


def _linear_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise ArchitectureError(f"a linear layer on an input of shape {inputs[0]}: flatten it first")
    return (channels,)


def _pool_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    c, h, w = _image(inputs[0])
    k, s, p = attrs["kernel_size"], attrs["stride"], attrs["padding"]
    d = attrs.get("dilation", (1, 1))
    if 2 * p[0] > k[0] or 2 * p[1] > k[1]:
        raise ArchitectureError(f"a pool with padding {p}: at most half of its window {k} can be padding")
    ceil_mode = attrs["ceil_mode"]
    return c, _window(h, k[0], s[0], p[0], d[0], ceil_mode), _window(w, k[1], s[1], p[1], d[1], ceil_mode)


def _concat_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) != 1:
        raise ArchitectureError(f"a concat of maps of different sizes: {inputs}")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _shuffle_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if _image(inputs[0])[0] % attrs["groups"]:
        raise ArchitectureError(f"a shuffle of {inputs[0][0]} channels in {attrs['groups']} groups")
    return inputs[0]


_SAME = LayerType(shape=lambda channels, attrs, inputs: inputs[0])
_POOL = {"kernel_size": REQUIRED, "stride": REQUIRED, "padding": (0, 0), "ceil_mode": False}

LAYER_TYPES: dict[str, LayerType] = {
    "conv": LayerType(
        _conv_shape, _conv_params, _conv_macs,
        attrs={"kernel_size": REQUIRED, "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1,
               "bias": True},
        spatial=("kernel_size", "stride", "padding", "dilation"), filters=True,
    ),
    "linear": LayerType(
        _linear_shape,
        params=lambda channels, attrs, shape: channels * (shape[0] + bool(attrs["bias"])),
        macs=lambda channels, attrs, shape, out: channels * shape[0],
        attrs={"bias": True}, filters=True,
    ),
    "batch_norm": LayerType(
        shape=lambda channels, attrs, inputs: _image(inputs[0]),
        params=lambda channels, attrs, shape: 2 * shape[0] if attrs["affine"] else 0,
        attrs={"eps": 1e-5, "momentum": 0.1, "affine": True},
    ),
    "relu": _SAME,
    "sigmoid": _SAME,
    "dropout": LayerType(shape=lambda channels, attrs, inputs: inputs[0], attrs={"p": 0.5}),
    "max_pool": LayerType(
        _pool_shape, attrs=_POOL | {"dilation": (1, 1)}, spatial=("kernel_size", "stride", "padding", "dilation")
    ),
    "avg_pool": LayerType(
        _pool_shape, attrs=_POOL | {"count_include_pad": True}, spatial=("kernel_size", "stride", "padding")
    ),
    "adaptive_avg_pool": LayerType(
        shape=lambda channels, attrs, inputs: (_image(inputs[0])[0], *attrs["output_size"]),
        attrs={"output_size": REQUIRED}, spatial=("output_size",),
    ),
    "flatten": LayerType(shape=lambda channels, attrs, inputs: (prod(inputs[0]),)),
    "concat": LayerType(_concat_shape, slots=0),
    "channel_shuffle": LayerType(_shuffle_shape, attrs={"groups": REQUIRED}),
}  # fmt: skip


def normalise_attrs(kind: str, attrs: Attrs | tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """All attributes of a kind, sorted by name, with defaults filled in and pairs for the spatial ones.

    Raises ArchitectureError for an unknown kind, and for an attribute that is unknown, lacking or out of range.
    """
    if not isinstance(kind, str) or kind not in LAYER_TYPES:
        raise ArchitectureError(f"a layer of kind {kind!r}: known kinds are {', '.join(LAYER_TYPES)}")
    try:
        attrs = dict(attrs)
    except (TypeError, ValueError):
        raise ArchitectureError(f"{kind} with attributes {attrs!r}: give a mapping of names to values") from None
    known, spatial = LAYER_TYPES[kind].attrs, LAYER_TYPES[kind].spatial
    if unknown := set(attrs) - set(known):
        raise ArchitectureError(f"{kind} has no attribute {sorted(unknown)[0]!r}: it has {', '.join(known) or 'none'}")
    items = []
    for name, default in known.items():
        value = attrs.get(name, default)
        if value is REQUIRED:
            raise ArchitectureError(f"{kind} needs the attribute {name!r}")
        items.append((name, _checked(kind, name, value, default, name in spatial)))
    return tuple(sorted(items))


def _checked(kind: str, name: str, value: Any, default: Any, spatial: bool) -> Any:
    """The value in the one form that is hashed and saved."""
    least = 0 if name == "padding" else 1
    if spatial or name == "groups":
        pair = value if spatial and isinstance(value, tuple | list) else (value, value)
        if len(pair) == 2 and all(isinstance(v, Integral) and v is not True and int(v) >= least for v in pair):
            return tuple(map(int, pair)) if spatial else int(value)
        needed = f"{'one or two integers' if spatial else 'an integer'} of at least {least}"
    elif isinstance(default, bool):
        if value in (False, True):
            return bool(value)
        needed = "True or False"
    else:
        most = 1 if name == "p" else float_info.max
        if isinstance(value, Real) and 0 <= float(value) <= most:
            return float(value)
        needed = "a number of at least 0" + (" and at most 1" if name == "p" else "")
    raise ArchitectureError(f"{kind} with {name} = {value!r}: needed is {needed}")
