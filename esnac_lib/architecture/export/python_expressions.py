"""How a generated `forward` says what one layer does: as an operator, a slice, or the call of a function or module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from esnac_lib.architecture.channel_routing import shuffled
from esnac_lib.architecture.export.python_modules import MODULES
from esnac_lib.architecture.export.python_text import ATOM, PRODUCT, SUM, Call, Text
from esnac_lib.architecture.graph import Layer
from esnac_lib.architecture.layer_types import Shape

MOST_SLICES = 4  # that are joined; of more runs, the constructor lists the channels
MOST_DIGITS = 24  # of two numbers on one line with what they change

# Functions of the input alone; others have the name that they have in F.
FUNCTIONS: Mapping[str, str] = {"gelu_tanh": "F.gelu"} | {
    name: f"torch.{name}" for name in ("sigmoid", "tanh", "square", "abs")
}
# The other arguments of functions, with PyTorch's defaults.
ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "elu": {"alpha": 1.0}, "celu": {"alpha": 1.0}, "leaky_relu": {"negative_slope": 0.01},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0}, "softplus": {"beta": 1.0, "threshold": 20.0},
}  # fmt: skip
OPERATORS = ("affine", "multiply", "add", "unflatten")
OTHERS = ("relu", "sigmoid", "activation", "concat", "flatten", "pad", "upsample", "zeros")


def is_known(layer: Layer) -> bool:
    """Return whether a layer can be written at all."""
    return layer.kind in (*MODULES, *OPERATORS, *OTHERS)


def has_module(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Return whether the constructor makes a module for a layer whose inputs have these shapes."""
    return layer.kind in MODULES and not (layer.kind == "select" and _picks(layer, shapes))


def is_operator(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Return whether the expression cannot be broken into several lines: its operands should be short."""
    return layer.kind in OPERATORS or (layer.kind == "select" and len(_picks(layer, shapes)) == 1)


def needs_name(layer: Layer, shapes: Sequence[Shape]) -> bool:
    """Return whether the expression has its input more than once, which should be a name then."""
    return layer.kind == "zeros" or (layer.kind == "select" and len(_picks(layer, shapes)) > 1)


def expression(layer: Layer, shapes: Sequence[Shape], module: str, inputs: Sequence[Text]) -> Text | Call:
    """Return the code of a layer on inputs of these shapes. module: the attribute that holds the layer's module."""
    x = inputs[0]
    match layer.kind:
        case "concat":
            return Call("torch.cat", [[part.text for part in inputs], "dim=1"])
        case "flatten":
            return Call("torch.flatten", [x.text, "1"])
        case "relu" | "sigmoid":
            return Call(FUNCTIONS.get(layer.kind, f"F.{layer.kind}"), [x.text])
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
        case "select" if picks := _picks(layer, shapes):
            parts = [pick.format(x.within(ATOM)) for pick in picks]
            return Text(parts[0]) if len(parts) == 1 else Call("torch.cat", [parts, "dim=1"])
    return Call(module, [x.text])


def _activation(layer: Layer, x: Text) -> Call:
    name = layer["function"]
    values = zip(ARGUMENTS.get(name, {}).items(), layer["arguments"], strict=True)
    others = [f"{key}={value}" for (key, default), value in values if value != default]
    others += ['approximate="tanh"'] if name == "gelu_tanh" else []
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


def _picks(layer: Layer, shapes: Sequence[Shape]) -> list[str]:
    return _pieces(layer["runs"], shapes[0][0])


@lru_cache(maxsize=1024)
def _pieces(runs: tuple[tuple[int, int], ...], channels: int) -> list[str]:
    """Return the slices that a selection joins, {} being its input, or a slice of its shuffle; nothing if too many."""
    picked = np.concatenate([np.arange(*run) for run in runs])
    steps = set(np.diff(picked).tolist()) or {1}
    if len(steps) == 1 and min(steps) > 0:
        return ["{}" + _slice(int(picked[0]), int(picked[-1]) + 1, min(steps), channels)]
    for groups in range(2, channels // 2 + 1):
        if channels % groups == 0:
            order = shuffled(channels, groups)
            start = int(np.flatnonzero(order == picked[0])[0])
            stop = start + len(picked)
            if np.array_equal(order[start:stop], picked):
                part = "" if len(picked) == channels else _slice(start, stop, 1, channels)
                return [f"F.channel_shuffle({{}}, {groups}){part}"]
    return ["{}" + _slice(start, stop, 1, channels) for start, stop in runs] if len(runs) <= MOST_SLICES else []


def _slice(start: int, stop: int, step: int, channels: int) -> str:
    """Return [:, start:stop:step] without the parts that are defaults."""
    end = stop if stop + step <= channels else ""  # the next one would be outside
    return f"[:, {start or ''}:{end}{f':{step}' if step > 1 else ''}]"
