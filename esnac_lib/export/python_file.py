"""A student as a Python program: one plain `nn.Module`, written to be read, that needs nothing but PyTorch.

    >>> save_python("student", architecture, weights)

writes student.py and student.safetensors, and the first says at its top how to load the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from esnac_lib.architecture import Architecture, Layer
from esnac_lib.errors import ArchitectureError, EsnacError
from esnac_lib.export.files import exportable, write_files
from esnac_lib.export.naming import attribute_names, is_class_name
from esnac_lib.export.python_forward import FUNCTIONS, Block, call, forward_body, is_new_part, layer_blocks
from esnac_lib.layer_types import LAYER_TYPES, REQUIRED, Shape
from esnac_lib.network import Weights

PROGRAM, WEIGHTS = "student.py", "student.safetensors"

# The class in torch.nn of each kind that is no plain function. Attributes have the names of its arguments.
MODULES: Mapping[str, str] = {
    "conv": "Conv2d",
    "linear": "Linear",
    "batch_norm": "BatchNorm2d",
    "dropout": "Dropout",
    "max_pool": "MaxPool2d",
    "avg_pool": "AvgPool2d",
    "adaptive_avg_pool": "AdaptiveAvgPool2d",
    "channel_shuffle": "ChannelShuffle",
}
TAKES_CHANNELS = ("conv", "linear", "batch_norm")  # their first argument is the number of input channels


def to_python(architecture: Architecture, class_name: str = "Student") -> str:
    """The text of a Python file that defines the architecture as a class without arguments.

    The module maps (B, *input_shape) to (B, *output_shape). Its attributes are called after the layers;
    `python_weights` gives its state dict. Raises EsnacError for a class name that Python does not allow, or one that
    would hide something else, and ArchitectureError for a layer that is no module of torch.nn.
    """
    if not is_class_name(class_name):
        raise EsnacError(f"class_name = {class_name!r}: needed is a name of a class that is not taken, like 'Student'")
    for layer in architecture.layers:
        if layer.kind not in MODULES and layer.kind not in FUNCTIONS:
            raise ArchitectureError(f"layer {layer.name!r} ({layer.kind}) cannot be written as Python: remove it first")
    attributes = attribute_names(architecture.layers)
    argument, body = forward_body(architecture, attributes)
    shapes = [f"({', '.join(map(str, ('batch', *s)))})" for s in (architecture.input_shape, architecture.output_shape)]
    counts = f"{architecture.num_params:,} parameters; {architecture.macs:,} multiply-accumulates an image"
    lines = [
        *_constructor(architecture, attributes),
        "",
        f"    def forward(self, {argument}: Tensor) -> Tensor:",
        *body,
    ]
    return "\n".join(
        [
            f'"""{class_name}: a network found by esnac_lib, which is not needed to use it.',
            "",
            "With its weights:",
            "",
            "    from safetensors.torch import load_file",
            "",
            f"    model = {class_name}()",
            f'    model.load_state_dict(load_file("{WEIGHTS}"))',
            "    model.eval()",
            '"""',
            "",
            *_imports("\n".join(lines)),
            "",
            "",
            f"class {class_name}(nn.Module):",
            f'    """Maps {shapes[0]} to {shapes[1]}.',
            "",
            f"    {counts}.",
            '    """',
            "",
            *lines,
            "",
        ]
    )


def python_weights(architecture: Architecture, weights: Mapping[str, Tensor]) -> Weights:
    """The state dict of the class that `to_python` writes: copies on the CPU under the names of its attributes.

    Raises ArchitectureError if the weights are not those of the architecture.
    """
    tensors = exportable(architecture, weights)
    state: Weights = {}
    for layer, attribute in zip(architecture.layers, attribute_names(architecture.layers), strict=True):
        for parameter in ("weight", "bias", "running_mean", "running_var"):
            if (tensor := tensors.get(f"{layer.name}.{parameter}")) is not None:
                state[f"{attribute}.{parameter}"] = tensor
        if layer.kind == "batch_norm":  # PyTorch's own counts batches, which has no effect on what it computes
            state[f"{attribute}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return state


def save_python(
    folder: str | Path, architecture: Architecture, weights: Mapping[str, Tensor], class_name: str = "Student"
) -> None:
    """Writes student.py and student.safetensors into a folder, which is made if need be.

    Raises EsnacError as `to_python` and `python_weights` do, and if the folder cannot be written.
    """
    program = to_python(architecture, class_name)
    write_files(folder, {WEIGHTS: save(python_weights(architecture, weights)), PROGRAM: program.encode()})


def _imports(code: str) -> list[str]:
    """The imports that the code needs, in the usual order."""
    return [
        *(["import torch"] if re.search(r"\btorch\.", code) else []),
        *(["import torch.nn.functional as F"] if re.search(r"\bF\.", code) else []),
        "from torch import Tensor, nn",
    ]


def _constructor(architecture: Architecture, attributes: list[str]) -> list[str]:
    """The lines of `__init__`, with an empty one between the blocks of the network."""
    lines = ["    def __init__(self) -> None:", "        super().__init__()"]
    before: Block | None = None
    for layer, shapes, attribute, block in zip(
        architecture.layers, architecture.in_shapes, attributes, layer_blocks(architecture), strict=True
    ):
        if layer.kind in MODULES:
            if before is not None and is_new_part(before, block):
                lines.append("")
            lines += call(f"self.{attribute} = nn.{MODULES[layer.kind]}", _arguments(layer, shapes[0]))
            before = block
    return lines


def _arguments(layer: Layer, shape: Shape) -> list[str | list[str]]:
    """What the module of a layer is made with: channels, size, and every attribute that is not PyTorch's default."""
    arguments: list[str | list[str]] = [str(shape[0])] if layer.kind in TAKES_CHANNELS else []
    if layer.has_filters:
        arguments.append(str(layer.channels))
    for position, (name, default) in enumerate(LAYER_TYPES[layer.kind].attrs.items()):
        if (value := layer[name]) != default:
            comes_first = position == 0 and default is REQUIRED
            arguments.append(_shortest(value) if comes_first else f"{name}={_shortest(value)}")
    return arguments


def _shortest(value: Any) -> str:
    """A pair of equal numbers as one number; everything else as Python writes it."""
    return repr(value[0] if isinstance(value, tuple) and value[0] == value[1] else value)
