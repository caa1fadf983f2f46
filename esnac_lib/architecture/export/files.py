"""What the forms of export share: writing files that belong together, and weights ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights, check_weights, weight_shapes
from esnac_lib.errors import ArchitectureError, EsnacError
from esnac_lib.files import write_together


def write_files(folder: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write the named files into a folder, which is made if need be, as `write_together` does; EsnacError if not."""
    folder = Path(folder)
    try:
        write_together({folder / name: data for name, data in contents.items()})
    except OSError as error:
        raise EsnacError(f"cannot write into {str(folder)!r} ({error.strerror}): give another folder") from None


def exportable(architecture: Architecture, weights: Mapping[str, Tensor]) -> Weights:
    """Return copies of the weights on the CPU, in execution order, none sharing memory with another.

    Raises ArchitectureError unless they are exactly those of the architecture, in floating point.
    """
    check_weights(architecture, weights)
    check_floating(architecture, weights)
    return {name: weights[name].detach().cpu().clone().contiguous() for name in weight_shapes(architecture)}


def check_floating(architecture: Architecture, weights: Mapping[str, Tensor]) -> None:
    """Raise ArchitectureError for a weight of integers, which only an opaque layer can hold."""
    opaque = [layer for layer in architecture.layers if layer.kind == "opaque"]
    free = {f"{layer.name}.{name}" for layer in opaque for name, *_ in layer["tensors"]}
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and name not in free:
            raise ArchitectureError(f"weight {name!r} holds {tensor.dtype}: it must hold floating-point numbers")


def refuse_opaque(architecture: Architecture, form: str) -> None:
    """Raise ArchitectureError if there is a layer of which only its teacher's source has the code."""
    for layer in architecture.layers:
        if layer.kind == "opaque":
            why = " ".join((layer.reason or layer["what"]).split())
            raise ArchitectureError(f"layer {layer.name!r} is opaque ({why}): {form} cannot hold its code")
