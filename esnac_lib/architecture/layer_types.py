"""What each kind of layer does to shapes, what it holds and what it costs: one table, which all other modules read.

A shape is (channels, height, width), or (features,) after a flatten. MACs are the multiply-accumulates of
convolutions and linear layers for one image, which is what PyTorch's FlopCounterMode counts (halved).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

from esnac_lib.architecture import layer_attributes as form
from esnac_lib.errors import ArchitectureError

Shape = tuple[int, ...]
Slot = tuple[tuple[int, int], ...]  # a sum of sources, each with its multiplicity
Attrs = Mapping[str, Any]

REQUIRED = object()

ACTIVATIONS: Mapping[str, int] = {
    "relu6": 0, "silu": 0, "gelu": 0, "gelu_tanh": 0, "hardswish": 0, "hardsigmoid": 0, "mish": 0, "tanh": 0,
    "selu": 0, "softsign": 0, "logsigmoid": 0, "square": 0, "abs": 0, "elu": 1, "celu": 1, "leaky_relu": 1,
    "hardtanh": 2, "softplus": 2,
}  # fmt: skip
"""Element-wise functions besides ReLU and sigmoid, each with the count of its arguments after the input."""


@dataclass(frozen=True)
class LayerType:
    """The rules of one kind of layer, of which three are functions of its channels and attributes.

    `shape` takes also the shape of each input slot and returns the output's, or raises ArchitectureError; `tensors`
    takes the input shape and returns the shapes of the tensors that it holds by name, all trainable but running
    statistics; `macs` takes the shapes of input and output and returns the exact multiply-accumulates.
    """

    shape: Callable[[int, Attrs, list[Shape]], Shape]
    tensors: Callable[[int, Attrs, Shape], dict[str, Shape]] = lambda channels, attrs, shape: {}
    macs: Callable[[int, Attrs, Shape, Shape], int] = lambda channels, attrs, shape, out: 0
    attrs: Mapping[str, Any] = field(default_factory=dict)  # names and defaults
    forms: Mapping[str, form.Form] = field(default_factory=dict)  # of attributes whose default does not say it
    filters: bool = False  # has output channels of its own, which can be shrunk
    follows: bool = False  # its tensors have an element for each input channel
    slots: int = 1  # that it reads; 0: any number

    def params(self, channels: int, attrs: Attrs, shape: Shape) -> int:
        """Return the number of trainable parameters."""
        if not attrs.get("trained", True):
            return 0
        fixed = {name for name, _, trained in attrs.get("tensors", ()) if not trained}
        tensors = self.tensors(channels, attrs, shape).items()
        return sum(prod(size) for name, size in tensors if not name.startswith("running_") and name not in fixed)


def _same(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    return inputs[0]


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ArchitectureError(f"an input of shape {shape} where (channels, height, width) is needed")
    return shape


def _instance_norm_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if _image(inputs[0])[1:] == (1, 1):
        raise ArchitectureError("an instance norm of maps of one pixel, which leaves nothing of them")
    return inputs[0]


def _window(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool = False) -> int:
    """Return the output length of a sliding window, as in PyTorch's documentation of Conv2d and MaxPool2d."""
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
    return channels, *map(_window, (h, w), *(attrs[key] for key in ("kernel_size", "stride", "padding", "dilation")))


def _linear_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise ArchitectureError(f"a linear layer on an input of shape {inputs[0]}: flatten it first")
    return (channels,)


def _pool_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    c, h, w = _image(inputs[0])
    k, s, p, d = attrs["kernel_size"], attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1))
    if 2 * p[0] > k[0] or 2 * p[1] > k[1]:
        raise ArchitectureError(f"a pool with padding {p}: at most half of its window {k} can be padding")
    return c, *map(_window, (h, w), k, s, p, d, 2 * (attrs["ceil_mode"],))


def _concat_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) != 1:
        raise ArchitectureError(f"a concat of maps of different sizes: {inputs}")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _grouped_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if _image(inputs[0])[0] % attrs["groups"]:
        raise ArchitectureError(f"{inputs[0][0]} channels in {attrs['groups']} groups")
    return inputs[0]


def _broadcast_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    a, b = inputs
    if len(a) != len(b) or not all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True)):
        raise ArchitectureError(f"maps of shapes {a} and {b}: each size must be equal, or 1 on one side")
    return tuple(map(max, a, b))


def _select_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if (last := max(stop for _, stop in attrs["runs"])) > inputs[0][0]:
        raise ArchitectureError(f"a selection of channel {last - 1} of {inputs[0][0]}")
    return (sum(stop - start for start, stop in attrs["runs"]), *inputs[0][1:])


def _unflatten_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise ArchitectureError(f"an input of shape {inputs[0]} where (features,) is needed")
    return (inputs[0][0], 1, 1)


def _pad_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    c, h, w = _image(inputs[0])
    left, right, top, bottom = attrs["sizes"]
    return c, _padded(h, top, bottom, attrs["mode"]), _padded(w, left, right, attrs["mode"])


def _padded(size: int, before: int, after: int, mode: str) -> int:
    """Return the length of a side with a border or, where that is negative, a cut."""
    left = size + min(before, 0) + min(after, 0)
    most = {"reflect": size - 1, "circular": left}.get(mode)  # where a border is made of pixels that are there
    if most is not None and max(before, after) > most:
        raise ArchitectureError(f"a {mode} border of {before} and {after} on a side of {size} pixels")
    if size + before + after < 1 or (mode == "constant" and left < 0):
        raise ArchitectureError(f"a border of {before} and {after} leaves nothing of a side of {size} pixels")
    return size + before + after


def _opaque_shape(channels: int, attrs: Attrs, inputs: list[Shape]) -> Shape:
    if tuple(inputs) != attrs["inputs"]:
        seen = f"it was seen with inputs of shapes {attrs['inputs']}, not {tuple(inputs)}"
        raise ArchitectureError(f"{attrs['what']} is not understood: {seen}")
    return attrs["output"]


def _filters(channels: int, attrs: Attrs, shape: Shape) -> dict[str, Shape]:
    """Return the tensors of a convolution or a linear layer."""
    weight = (channels, shape[0] // attrs.get("groups", 1), *attrs.get("kernel_size", ()))
    return {"weight": weight} | ({"bias": (channels,)} if attrs["bias"] else {})


def _filter_macs(channels: int, attrs: Attrs, shape: Shape, out: Shape) -> int:
    return prod(out) * prod(_filters(channels, attrs, shape)["weight"][1:])


def _affine_tensors(channels: int, attrs: Attrs, shape: Shape) -> dict[str, Shape]:
    names = [name for name in ("weight", "bias") if attrs.get(name, attrs.get("affine"))]
    return dict.fromkeys(names + ["running_mean", "running_var"] * ("momentum" in attrs), (shape[0],))


def _broadcast_tensors(channels: int, attrs: Attrs, shape: Shape) -> dict[str, Shape]:
    spans = [attrs[name] for name in BROADCAST_SIZES[: len(shape)]]
    return {"weight": tuple(size if spanned else 1 for size, spanned in zip(shape, spans, strict=True))}


OPERATIONS = ("add", "subtract", "multiply", "divide")
"""What a broadcast layer does with its input and its tensor."""
BROADCAST_SIZES = ("channels", "height", "width")

_POOL = {"kernel_size": REQUIRED, "stride": REQUIRED, "padding": (0, 0), "ceil_mode": False}
_AFFINE = {"eps": 1e-5, "affine": True}
_ADAPTIVE_POOL = LayerType(
    lambda channels, attrs, inputs: (_image(inputs[0])[0], *attrs["output_size"]), attrs={"output_size": REQUIRED}
)

# New kinds go to the end, and a kind never gets another attribute: saved encodings and every arch_id depend on them.
LAYER_TYPES: dict[str, LayerType] = {
    "conv": LayerType(
        _conv_shape, _filters, _filter_macs, filters=True,
        attrs={"kernel_size": REQUIRED, "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1,
               "bias": True},
    ),
    "linear": LayerType(_linear_shape, _filters, _filter_macs, attrs={"bias": True}, filters=True),
    "batch_norm": LayerType(_same, _affine_tensors, attrs={"eps": 1e-5, "momentum": 0.1, "affine": True}, follows=True),
    "relu": LayerType(_same),
    "sigmoid": LayerType(_same),
    "dropout": LayerType(_same, attrs={"p": 0.5}),
    "max_pool": LayerType(_pool_shape, attrs=_POOL | {"dilation": (1, 1)}),
    "avg_pool": LayerType(_pool_shape, attrs=_POOL | {"count_include_pad": True}),
    "adaptive_avg_pool": _ADAPTIVE_POOL,
    "flatten": LayerType(lambda channels, attrs, inputs: (prod(inputs[0]),)),
    "concat": LayerType(_concat_shape, slots=0),
    "channel_shuffle": LayerType(_grouped_shape, attrs={"groups": REQUIRED}),
    "activation": LayerType(
        _same, attrs={"function": REQUIRED, "arguments": ()},
        forms={"function": form.choice(tuple(ACTIVATIONS)), "arguments": form.numbers},
    ),
    "prelu": LayerType(
        _same, lambda channels, attrs, shape: {"weight": (1 if attrs["shared"] else shape[0],)},
        attrs={"shared": False}, follows=True,
    ),
    "layer_norm": LayerType(_same, _affine_tensors, attrs={"eps": 1e-5, "weight": True, "bias": True}, follows=True),
    "group_norm": LayerType(_grouped_shape, _affine_tensors, attrs={"groups": REQUIRED} | _AFFINE, follows=True),
    "instance_norm": LayerType(_instance_norm_shape, _affine_tensors, attrs=_AFFINE | {"affine": False}, follows=True),
    "scale": LayerType(_same, _affine_tensors, attrs={"weight": True, "bias": False}, follows=True),
    "affine": LayerType(
        _same, attrs={"factor": 1.0, "offset": 0.0}, forms={"factor": form.number(), "offset": form.number()}
    ),
    "multiply": LayerType(_broadcast_shape, slots=2),
    "add": LayerType(_broadcast_shape, slots=2),
    "select": LayerType(_select_shape, attrs={"runs": REQUIRED}, forms={"runs": form.runs}),
    "unflatten": LayerType(_unflatten_shape),
    "upsample": LayerType(
        lambda channels, attrs, inputs: (_image(inputs[0])[0], *attrs["size"]),
        attrs={"size": REQUIRED, "mode": "nearest", "align_corners": False},
        forms={"mode": form.choice(("nearest", "nearest-exact", "bilinear", "bicubic", "area"))},
    ),
    "pad": LayerType(
        _pad_shape, attrs={"sizes": REQUIRED, "mode": "constant", "value": 0.0},
        forms={"sizes": form.sides, "mode": form.choice(("constant", "reflect", "replicate", "circular")),
               "value": form.number()},
    ),
    "adaptive_max_pool": _ADAPTIVE_POOL,
    "stochastic_depth": LayerType(
        _same, attrs={"p": REQUIRED, "mode": "row"}, forms={"mode": form.choice(("row", "batch"))}
    ),
    "zeros": LayerType(lambda channels, attrs, inputs: (channels, *_image(inputs[0])[1:]), filters=True),
    "opaque": LayerType(
        _opaque_shape,
        lambda channels, attrs, shape: {name: size for name, size, _ in attrs["tensors"]},
        lambda channels, attrs, shape, out: attrs["macs"],
        attrs={"what": REQUIRED, "inputs": REQUIRED, "output": REQUIRED, "tensors": (), "macs": 0},
        forms={"what": form.text, "inputs": form.shapes, "output": form.shape, "tensors": form.tensors,
               "macs": form.integer(0)},
        slots=0,
    ),
    "broadcast": LayerType(  # x + p, and the like, with a tensor p of one number, or of one a channel, row or column
        _same, _broadcast_tensors, follows=True, forms={"operation": form.choice(OPERATIONS)},
        attrs={"operation": REQUIRED, **dict.fromkeys(BROADCAST_SIZES, False), "trained": True},
    ),
    "rms_norm": LayerType(_same, _affine_tensors, attrs={"eps": 1e-5, "weight": True}, follows=True),
}  # fmt: skip

# How an attribute of this name is read wherever its kind says nothing else.
_FORMS: Mapping[str, form.Form] = {
    **dict.fromkeys(("kernel_size", "stride", "dilation", "output_size", "size"), form.pair(1)),
    "padding": form.pair(0),
    "groups": form.integer(1),
    "p": form.number(0, 1),
}


def normalise_attrs(kind: str, attrs: Attrs | tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Return all attributes of a kind, sorted by name, with defaults filled in and pairs for the spatial ones.

    Raises ArchitectureError if the kind is unknown, or an attribute is unknown, missing or out of range.
    """
    if not isinstance(kind, str) or kind not in LAYER_TYPES:
        raise ArchitectureError(f"a layer of kind {kind!r}: known kinds are {', '.join(LAYER_TYPES)}")
    try:
        attrs = dict(attrs)
    except (TypeError, ValueError):
        raise ArchitectureError(f"{kind} with attributes {attrs!r}: give a mapping of names to values") from None
    known, forms = LAYER_TYPES[kind].attrs, {**_FORMS, **LAYER_TYPES[kind].forms}
    if unknown := set(attrs) - set(known):
        raise ArchitectureError(f"{kind} has no attribute {sorted(unknown)[0]!r}: it has {', '.join(known) or 'none'}")
    items = []
    for name, default in known.items():
        value = attrs.get(name, default)
        if value is REQUIRED:
            raise ArchitectureError(f"{kind} needs the attribute {name!r}")
        try:
            read = forms.get(name) or (form.truth if isinstance(default, bool) else form.number(0))
            items.append((name, read(value)))
        except ValueError as error:
            raise ArchitectureError(f"{kind} with {name} = {value!r}: it must be {error}") from None
    found = dict(items)
    if kind == "activation" and len(found["arguments"]) != (count := ACTIVATIONS[found["function"]]):
        raise ArchitectureError(f"{found['function']} with arguments {found['arguments']}: it takes {count}")
    return tuple(sorted(items))
