"""All exported forms of a student at once, as far as each is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from esnac_lib.architecture.export.bundle import save_bundle
from esnac_lib.architecture.export.onnx_model import to_onnx
from esnac_lib.architecture.export.python_file import save_python
from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import EsnacError
from esnac_lib.files import shown


def save_all(
    folder: str | Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    classes: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> dict[str, str]:
    """Write a student as a bundle, as Python and as ONNX into a folder; return where each is, or why not.

    Arguments as for `save_bundle`. Forms that a student cannot have (one with opaque layers has none that does without
    its teacher's source, and ONNX needs the extra `onnx`) do not keep the others from being written.
    """
    place, meaning = Path(folder), {"classes": classes, "normalisation": normalisation}
    forms: dict[str, tuple[Path, Path, Callable[..., None]]] = {
        "bundle": (place, place, save_bundle),
        "python": (place / "python", place / "python" / "student.py", save_python),
        "onnx": (place / "student.onnx", place / "student.onnx", to_onnx),
    }
    found = {}
    for name, (target, written, write) in forms.items():
        try:
            write(target, architecture, weights, **meaning)
            found[name] = shown(written)
        except EsnacError as error:
            found[name] = f"not written: {error}"
    return found
