"""How a generated `forward` says what one layer does: as an operator, a slice, or the call of a function or module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esnac_lib.architecture import Layer
from esnac_lib.export.python_modules import MODULES
from esnac_lib.export.python_text import ATOM, PRODUCT, SUM, Call, Text
from esnac_lib.layer_types import Shape
from esnac_lib.operators import selected, shuffled

MOST_SLICES = 4  # that are joined; of more runs, the constructor lists the channels
MOST_DIGITS = 24  # of two numbers on one line with what they change

# Functions of the input alone.
FUNCTIONS: Mapping[str, str] = {
    "relu": "F.relu",
    "sigmoid": "torch.sigmoid",
    "tanh": "torch.tanh",
    "square": "torch.square",
    "abs": "torch.abs",
    "gelu_tanh": "F.gelu",
}  # others have the name that they have in F
# What they are called with besides, and what that is if nothing is said.
ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "leaky_relu": {"negative_slope": 0.01},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0},
}
OPERATORS = ("affine", "multiply", "add", "unflatten")


def is_known(layer: Layer) -> bool:
    """Whether a layer can be written at all."""
    others = ("activation", "concat", "flatten", "pad", "upsample", "zeros")
    return layer.kind in (*MODULES, *FUNCTIONS, *OPERATORS, *others)


def has_module(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Whether the constructor makes a module for a layer whose inputs have these shapes."""
    return layer.kind in MODULES and (layer.kind != "select" or _how_selected(layer, shapes[0][0]) == "module")


def is_operator(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Whether the expression cannot be broken into several lines: its operands should be short."""
    return layer.kind in OPERATORS or (layer.kind == "select" and _how_selected(layer, shapes[0][0]) == "slice")


def needs_name(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Whether the expression has its input more than once, which should be a name then."""
    return layer.kind == "zeros" or (layer.kind == "select" and _how_selected(layer, shapes[0][0]) == "slices")


def expression(layer: Layer, shapes: Sequence[Shape], module: str, inputs: Sequence[Text]) -> Text | Call:
    """What a layer makes of its inputs, which have these shapes. module: what the layer's module is called."""
    x = inputs[0]
    match layer.kind:
        case "concat":
            return Call("torch.cat", [[part.text for part in inputs], "dim=1"])
        case "flatten":
            return Call("torch.flatten", [x.text, "1"])
        case "relu" | "sigmoid":
            return Call(FUNCTIONS[layer.kind], [x.text])
        case "activation":
            return _activation(layer, x)
        case "multiply":
            return Text(f"{x.within(PRODUCT)} * {inputs[1].within(ATOM)}", PRODUCT)
        case "add":
            return Text(f"{x.text} + {inputs[1].within(PRODUCT)}", SUM)
        case "affine":
            return _affine(layer, x)
        case "unflatten":
            return Text(f"{x.within(ATOM)}[:, :, None, None]")
        case "upsample":
            size, mode = layer["size"], layer["mode"]
            others = [] if mode == "nearest" else [f'mode="{mode}"']
            others += ["align_corners=True"] if layer["align_corners"] and mode in ("bilinear", "bicubic") else []
            return Call("F.interpolate", [x.text, f"size={size}", *others])
        case "pad":
            others = [] if layer["mode"] == "constant" else [f'mode="{layer["mode"]}"']
            others += [f"value={layer['value']}"] if layer["mode"] == "constant" and layer["value"] else []
            return Call("F.pad", [x.text, str(layer["sizes"]), *others])
        case "zeros":
            sizes = (layer.channels, *shapes[0][1:])
            return Call(f"{x.text}.new_zeros", [f"{x.text}.shape[0]", *map(str, sizes)])
        case "select" if not has_module(layer, shapes):
            return _select(layer, shapes[0][0], x)
    return Call(module, [x.text])


def _activation(layer: Layer, x: Text) -> Call:
    name = layer["function"]
    values = zip(ARGUMENTS.get(name, {}).items(), layer["arguments"], strict=True)
    others = [f"{key}={value}" for (key, default), value in values if value != default]
    if name == "gelu_tanh":
        others = ['approximate="tanh"']
    return Call(FUNCTIONS.get(name, f"F.{name}"), [x.text, *others])


def _affine(layer: Layer, x: Text) -> Text | Call:
    factor, offset = layer["factor"], layer["offset"]
    if factor != 1 or offset == 0:
        x = Text(f"{factor} * {x.within(ATOM)}", PRODUCT)
    if offset == 0:
        return x
    if len(f"{factor}{offset}") > MOST_DIGITS:
        return Call("torch.add", [x.text, str(offset)])
    return Text(f"{x.text} {'-' if offset < 0 else '+'} {abs(offset)}", SUM)


def _how_selected(layer: Layer, channels: int) -> str:
    """The shortest way to write a selection: "slice", "shuffle", "slices", or else "module"."""
    picked = selected(layer)
    steps = set(np.diff(picked).tolist())
    if len(steps) <= 1 and min(steps, default=1) > 0:
        return "slice"
    if _shuffle_groups(picked, channels):
        return "shuffle"
    return "slices" if len(layer["runs"]) <= MOST_SLICES else "module"


def _shuffle_groups(picked: np.ndarray, channels: int) -> int | None:
    """The groups of the channel shuffle that picks the same; None if none does."""
    groups = channels // int(picked[1]) if len(picked) == channels and picked[1] else 0
    if groups and channels % groups == 0 and np.array_equal(shuffled(channels, groups), picked):
        return groups
    return None


def _select(layer: Layer, channels: int, x: Text) -> Text | Call:
    how, picked = _how_selected(layer, channels), selected(layer)
    if how == "shuffle":
        return Call("F.channel_shuffle", [x.text, str(_shuffle_groups(picked, channels))])
    if how == "slices":
        return Call(
            "torch.cat", [[f"{x.text}{_slice(start, stop, 1, channels)}" for start, stop in layer["runs"]], "dim=1"]
        )
    step = int(picked[1] - picked[0]) if len(picked) > 1 else 1
    return Text(f"{x.within(ATOM)}{_slice(int(picked[0]), int(picked[-1]) + 1, step, channels)}")


def _slice(start: int, stop: int, step: int, channels: int) -> str:
    """[:, start:stop:step], without what goes without saying."""
    end = stop if stop + step <= channels else ""  # the next one would be outside
    return f"[:, {start or ''}:{end}{f':{step}' if step > 1 else ''}]"
