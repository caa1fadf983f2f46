"""A student as ONNX, for onnxruntime and other programs. Only this form needs the packages of `NEEDED`."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esnac_lib.architecture.export.files import exportable
from esnac_lib.architecture.export.meaning import Normalisation, checked_classes, checked_normalisation
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build, weight_shapes
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
    classes: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    raw_images: bool = False,
    opset: int | None = None,
    dynamic_batch: bool = True,
) -> None:
    """Write a student, as it computes in evaluation mode and in float32, as one ONNX file.

    The file maps "input" (B, *input_shape) to "output" (B, *output_shape), with B = 1 unless `dynamic_batch`. With
    `raw_images` the input is uint8 (B, height, width, channels), and the graph begins with the normalisation.
    `classes` and `normalisation` are as for `save_bundle`; the file's metadata_props hold them as JSON (`classes`, and
    `mean` and `std` where the caller normalises) next to `input`, which says in words what is to be given. Weights have
    the names that they have in the architecture. Before the file gets its name, onnxruntime runs it on noise, which
    must give the outputs of the student itself. The version of ONNX's operators is `opset`, 18 or later; None leaves
    the choice to PyTorch.

    Raises:
        ArchitectureError: The weights are not those of the architecture.
        EsnacError: A package is missing, classes or normalisation do not fit, PyTorch cannot export with this opset, or
            the file cannot be written or gives other outputs.
    """
    _check_opset(opset)
    names, scale = checked_classes(classes, architecture), checked_normalisation(normalisation, architecture)
    if raw_images and scale is None:
        raise EsnacError("raw_images = True: the graph can only normalise if it knows how; give normalisation, too")
    module = _plainly_named(architecture, weights)
    model = (_Raw(module, scale) if raw_images and scale else module).eval()
    layers = [layer.name for layer in architecture.layers]
    metadata = _metadata(architecture, names, scale, raw_images)
    path = Path(path)

    def write(part: Path) -> None:
        example = _images(architecture, 2 if dynamic_batch else 1, raw_images)
        _export(model, example, layers, metadata, opset).save(part, external_data=False)
        for batch in (1, 3) if dynamic_batch else (1,):
            _check(part, model, _images(architecture, batch, raw_images))

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


class _Raw(nn.Module):
    """A network behind the normalisation of raw images, which is computed as in training."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, normalisation: Normalisation) -> None:
        super().__init__()
        mean, std = (torch.tensor(part, dtype=torch.float64).view(-1, 1, 1) for part in normalisation)
        self.network = network
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 3, 1, 2).float() * self.scale + self.shift)


def _plainly_named(architecture: Architecture, weights: Mapping[str, Tensor]) -> Network:
    """Return the network with layers called by their numbers: PyTorch writes their names into Python code."""
    layers = tuple(replace(layer, name=f"{index}") for index, layer in enumerate(architecture.layers))
    plain = replace(architecture, layers=layers)
    tensors = exportable(architecture, weights).values()
    return build(plain, dict(zip(weight_shapes(plain), tensors, strict=True))).eval().float()


def _images(architecture: Architecture, batch: int, raw: bool) -> Tensor:
    """Return noise in the form of the model's input."""
    generator, (channels, *size) = make_generator(0, "onnx", batch), architecture.input_shape
    if raw:
        return torch.randint(256, (batch, *size, channels), generator=generator, dtype=torch.uint8)
    return torch.randn(batch, channels, *size, generator=generator)


def _metadata(
    architecture: Architecture, classes: Sequence[str] | None, normalisation: Normalisation | None, raw: bool
) -> dict[str, str]:
    channels, height, width = architecture.input_shape
    found = {"input": f"uint8 (batch, {height}, {width}, {channels}), as the images are"}
    if not raw:
        found = {"input": f"float32 (batch, {channels}, {height}, {width}), normalised as in training"}
        if normalisation:
            found["input"] = found["input"].replace("normalised as in training", "(value / 255 - mean) / std")
            found |= {"mean": json.dumps(normalisation[0]), "std": json.dumps(normalisation[1])}
    return found | ({"classes": json.dumps(classes)} if classes else {})


def _export(
    model: nn.Module, example: Tensor, layers: Sequence[str], metadata: Mapping[str, str], opset: int | None
) -> Any:
    """Return PyTorch's ONNX program of a model, whose weights it gives back the names of these layers."""
    shapes = ({0: torch.export.Dim("batch")},) if len(example) > 1 else None  # a batch of 1 is taken for a constant
    options: dict[str, Any] = {"opset_version": opset, "dynamic_shapes": shapes, "dynamo": True, "verbose": False}
    options |= {"input_names": [INPUT_NAME], "output_names": [OUTPUT_NAME]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about itself
            program: Any = torch.onnx.export(model, (example,), **options)
    except Exception as error:  # whatever goes wrong in there, this student has no ONNX
        cause: BaseException = error
        while cause.__cause__ is not None:  # PyTorch wraps its own several times, with advice for its developers
            cause = cause.__cause__
        raise EsnacError(f"PyTorch cannot export this student as ONNX ({one_line(cause)})") from error
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise EsnacError(f"opset = {opset}: this PyTorch can only export opset {written}; give that, or None")
    for name, tensor in list(program.model.graph.initializers.items()):
        tensor.name = re.sub(r"^(network\.)?layers\.(\d+)(?=\.)", lambda found: layers[int(found[2])], name)
    for node in program.model.graph:
        node.metadata_props.clear()  # PyTorch's notes, with its own lines of code on this machine
    program.model.metadata_props.update(metadata)
    return program


def _check(path: Path, model: nn.Module, noise: Tensor) -> None:
    """Raise EsnacError unless onnxruntime computes what the model does."""
    runtime: Any = import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        [found] = session.run([OUTPUT_NAME], {INPUT_NAME: noise.numpy()})
        with torch.no_grad():
            expected = model(noise)
        tolerance = TOLERANCE * float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
        if not torch.allclose(torch.from_numpy(found), expected, 0.0, tolerance, equal_nan=True):
            raise EsnacError("onnxruntime gives other outputs than the student: report this with its architecture")
    except EsnacError:
        raise
    except Exception as error:  # onnxruntime has no class of its own for what it refuses
        raise EsnacError(f"onnxruntime cannot run what PyTorch exported ({one_line(error)})") from error
