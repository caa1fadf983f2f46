"""A student as ONNX, for onnxruntime and other programs. Only this form needs the packages of `NEEDED`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esnac_lib.architecture.export.files import exportable
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build
from esnac_lib.errors import EsnacError, one_line
from esnac_lib.files import write_atomically
from esnac_lib.seeding import make_generator

NEEDED = ("onnx", "onnxruntime", "onnxscript")
LEAST_OPSET = 18  # what PyTorch's exporter speaks; older ones it can only convert to, which fails for some layers
INPUT_NAME, OUTPUT_NAME = "input", "output"
TOLERANCE = 1e-3  # of the largest output: rounding, since batch norms are folded into convolutions


def to_onnx(
    path: str | Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
) -> None:
    """Write a student, as it computes in evaluation mode and in float32, as one ONNX file.

    The file maps "input" (B, *input_shape) to "output" (B, *output_shape), with B = 1 unless `dynamic_batch`. Before it
    gets its name, onnxruntime runs it on noise, which must give the outputs of the student itself. The version of
    ONNX's operators is `opset`, 18 or later; None leaves the choice to PyTorch.

    Raises:
        ArchitectureError: The weights are not those of the architecture.
        EsnacError: A package is missing, PyTorch cannot export with this opset, or the file cannot be written or gives
            other outputs.
    """
    _check_opset(opset)
    network = build(architecture, exportable(architecture, weights)).eval().float()
    path = Path(path)

    def write(part: Path) -> None:
        _export(network, opset, dynamic_batch).save(part, external_data=False)
        _check(part, network, (1, 3) if dynamic_batch else (1,))

    try:
        write_atomically(path, write)
    except OSError as error:
        raise EsnacError(f"cannot write {str(path)!r} ({error.strerror}): give another path") from None


def _check_opset(opset: int | None) -> None:
    """Raise EsnacError if a package is missing or it does not know this opset."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise EsnacError(f"ONNX needs packages that are missing: pip install {' '.join(missing)}")
    newest = import_module("onnx").defs.onnx_opset_version()
    if opset is not None and (type(opset) is not int or not LEAST_OPSET <= opset <= newest):
        allowed = f"integers from {LEAST_OPSET} to {newest}, or None for PyTorch's choice"
        raise EsnacError(f"opset = {opset!r}: allowed are {allowed}")


def _export(network: Network, opset: int | None, dynamic_batch: bool) -> Any:
    """Return PyTorch's ONNX program of a network."""
    # a batch of 1 would be taken for a constant
    example = torch.zeros(2 if dynamic_batch else 1, *network.architecture.input_shape)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    options: dict[str, Any] = {"opset_version": opset, "dynamic_shapes": shapes, "dynamo": True, "verbose": False}
    options |= {"input_names": [INPUT_NAME], "output_names": [OUTPUT_NAME]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about itself
            program: Any = torch.onnx.export(network, (example,), **options)
    except Exception as error:  # whatever goes wrong in there, this student has no ONNX
        cause: BaseException = error
        while cause.__cause__ is not None:  # PyTorch wraps its own several times, with advice for its developers
            cause = cause.__cause__
        raise EsnacError(f"PyTorch cannot export this student as ONNX ({one_line(cause)})") from error
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise EsnacError(f"opset = {opset}: this PyTorch can only export opset {written}; give that, or None")
    return program


def _check(path: Path, network: Network, batches: tuple[int, ...]) -> None:
    """Raise EsnacError unless onnxruntime computes what the network does."""
    runtime: Any = import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for batch in batches:
            noise = torch.randn(batch, *network.architecture.input_shape, generator=make_generator(0, "onnx", batch))
            [found] = session.run([OUTPUT_NAME], {INPUT_NAME: noise.numpy()})
            with torch.no_grad():
                expected = network(noise)
            tolerance = TOLERANCE * float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
            if not torch.allclose(torch.from_numpy(found), expected, 0.0, tolerance, equal_nan=True):
                raise EsnacError("onnxruntime gives other outputs than the student: report this with its architecture")
    except EsnacError:
        raise
    except Exception as error:  # onnxruntime has no class of its own for what it refuses
        raise EsnacError(f"onnxruntime cannot run what PyTorch exported ({one_line(error)})") from error
