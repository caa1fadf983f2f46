"""A student as a Python program: one plain `nn.Module`, written to be read, that needs only PyTorch.

    >>> save_python("student", architecture, weights, classes=classes, normalisation=(mean, std))

writes student.py and student.safetensors, and the first says at its top how to load the second. Classes and
normalisation, where they are given, make its functions `preprocess` and `predict`, which take raw images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from esnac_lib.architecture.export.files import exportable, refuse_opaque, write_files
from esnac_lib.architecture.export.meaning import checked_classes, checked_normalisation
from esnac_lib.architecture.export.naming import attribute_names, is_class_name
from esnac_lib.architecture.export.python_expressions import has_module, is_known
from esnac_lib.architecture.export.python_forward import Block, forward_body, is_new_part, layer_blocks
from esnac_lib.architecture.export.python_meaning import meaning
from esnac_lib.architecture.export.python_modules import CLASSES, module_lines
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights
from esnac_lib.errors import ArchitectureError, EsnacError

PROGRAM, WEIGHTS = "student.py", "student.safetensors"


def to_python(
    architecture: Architecture,
    class_name: str = "Student",
    *,
    classes: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Return the text of a Python file that defines the architecture as a class without arguments.

    The module maps (B, *input_shape) to (B, *output_shape); its attributes are named after the layers. `classes` and
    `normalisation` are as for `save_bundle`.

    Raises:
        EsnacError: The class name is not allowed by Python, or would hide something else, or classes or normalisation
            do not fit.
        ArchitectureError: A layer is opaque.
    """
    if not is_class_name(class_name):
        raise EsnacError(f"class_name = {class_name!r}: it must be a name of a class that is not taken, like 'Student'")
    refuse_opaque(architecture, "a Python file")
    for layer in architecture.layers:
        if not is_known(layer):
            raise ArchitectureError(f"layer {layer.name!r} ({layer.kind}) cannot be written as Python: remove it first")
    attributes = attribute_names(architecture.layers)
    argument, body = forward_body(architecture, attributes)
    head = f"    def forward(self, {argument}: Tensor) -> Tensor:"
    code = "\n".join([*_constructor(architecture, attributes), "", head, *body])
    helpers = "".join(f"{text[1:]}\n\n" for name, text in CLASSES.items() if f" = {name}(" in code)
    scale = checked_normalisation(normalisation, architecture)
    end = meaning(architecture, checked_classes(classes, architecture), scale)
    source, target = (", ".join(map(str, ("batch", *s))) for s in (architecture.input_shape, architecture.output_shape))
    return _TEMPLATE.format(
        name=class_name,
        weights=WEIGHTS,
        imports="\n".join(lines for used, lines in _IMPORTS.items() if re.search(used, code + helpers + end)),
        helpers=helpers,
        maps=f"Maps ({source}) to ({target}).",
        counts=f"{architecture.num_params:,} parameters; {architecture.macs:,} multiply-accumulates an image.",
        code=code,
        end=end,
        usage="    predict(model, images)  # raw ones\n" if "def predict" in end else "",
    )


_IMPORTS = {
    r"\btorch\.": "import torch",
    r"\bF\.": "import torch.nn.functional as F",
    "": "from torch import Tensor, nn",
}
"""What the code uses, as a pattern, and the import for it, in the usual order."""

_TEMPLATE = '''"""{name}: a network found by esnac_lib, which is not needed to use it.

With its weights:

    from safetensors.torch import load_file

    model = {name}()
    model.load_state_dict(load_file("{weights}"))
    model.eval()
{usage}"""

{imports}


{helpers}class {name}(nn.Module):
    """{maps}

    {counts}
    """

{code}
{end}'''


def python_weights(architecture: Architecture, weights: Mapping[str, Tensor]) -> Weights:
    """Return the state dict of the class that `to_python` writes: copies on the CPU under the names of its attributes.

    Raises ArchitectureError unless the weights are those of the architecture.
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
    folder: str | Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    class_name: str = "Student",
    *,
    classes: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Write student.py and student.safetensors into a folder, which is made if need be; EsnacError if that fails."""
    program = to_python(architecture, class_name, classes=classes, normalisation=normalisation)
    write_files(folder, {WEIGHTS: save(python_weights(architecture, weights)), PROGRAM: program.encode()})


def _constructor(architecture: Architecture, attributes: list[str]) -> list[str]:
    """Return the lines of `__init__`, with an empty one between the blocks of the network."""
    lines = ["    def __init__(self) -> None:", "        super().__init__()"]
    before: Block | None = None
    for layer, shapes, attribute, block in zip(
        architecture.layers, architecture.in_shapes, attributes, layer_blocks(architecture), strict=True
    ):
        if has_module(layer, shapes):
            if before is not None and is_new_part(before, block):
                lines.append("")
            lines += module_lines(layer, shapes[0], attribute)
            before = block
    return lines
