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
    place = Path(folder)
    forms: dict[str, tuple[str, Callable[[], None]]] = {
        "bundle": ("", lambda: save_bundle(place, architecture, weights, classes=classes, normalisation=normalisation)),
        "python": ("python/student.py", lambda: save_python(place / "python", architecture, weights)),
        "onnx": ("student.onnx", lambda: to_onnx(place / "student.onnx", architecture, weights)),
    }
    found = {}
    for name, (path, write) in forms.items():
        try:
            write()
            found[name] = f"{place.name}/{path}"
        except EsnacError as error:
            found[name] = f"not written: {error}"
    return found
