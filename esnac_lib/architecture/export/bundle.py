"""The bundle: a folder from which a student runs again without its teacher's source, and without running any code.

Its three files:

    bundle.json           what it is: version, shapes, classes, normalisation, counts, sha256 of the two others
    architecture.json     the graph, as `Architecture.to_json` writes it
    weights.safetensors   the weights under their names in the graph
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esnac_lib.architecture.export.files import check_floating, exportable, refuse_opaque, write_files
from esnac_lib.architecture.export.meaning import Normalisation, checked_classes, checked_normalisation
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, Weights, build, check_weights, weight_shapes
from esnac_lib.errors import ArchitectureError, EsnacError, one_line

FORMAT = "esnac bundle"
FORMAT_VERSION = 1
METADATA, GRAPH, WEIGHTS = "bundle.json", "architecture.json", "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a bundle holds."""

    architecture: Architecture
    weights: Weights
    classes: tuple[str, ...] | None  # the name of each output, if given
    normalisation: Normalisation | None  # of its images, if given


def save_bundle(
    folder: str | Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    *,
    classes: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Write a student into a folder; a bundle that is there already is replaced, other files are left alone.

    The weights' dtype is kept, their device is not. `classes` names the outputs in order; `normalisation` is (mean,
    std), each with one number a channel of the input, of images scaled to [0, 1].

    Raises:
        ArchitectureError: the weights are not those of the architecture, or a layer is opaque.
        EsnacError: classes or normalisation do not fit the network, or the folder cannot be written.
    """
    refuse_opaque(architecture, "a bundle")
    architecture = architecture.standing_alone()
    tensors = exportable(architecture, weights)
    names, scale = checked_classes(classes, architecture), checked_normalisation(normalisation, architecture)
    contents = {WEIGHTS: save(tensors), GRAPH: architecture.to_json().encode()}
    facts = {"format": FORMAT, "version": FORMAT_VERSION} | _facts(architecture)
    facts |= {"classes": names, "normalisation": scale and {"mean": scale[0], "std": scale[1]}}
    facts["sha256"] = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    text = json.dumps(facts, indent=1)
    write_files(folder, contents | {METADATA: f"{text}\n".encode()})


def load_bundle(folder: str | Path) -> Network:
    """Return the student of a bundle, read as by `read_bundle`, as a module on the CPU in evaluation mode."""
    bundle = read_bundle(folder)
    return build(bundle.architecture, bundle.weights).eval()


def read_bundle(folder: str | Path) -> Bundle:
    """Return everything in a bundle, checked.

    Raises:
        EsnacError: There is no bundle, a file is missing or not the one that was saved, the bundle is of a newer
            version, or its parts do not fit each other.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    try:
        data = {name: _read_file(folder, name, facts["sha256"][name]) for name in (GRAPH, WEIGHTS)}
        architecture = Architecture.from_json(data[GRAPH].decode())
        refuse_opaque(architecture, "a bundle")
        weights = load(data[WEIGHTS])
        check_weights(architecture, weights)
        check_floating(architecture, weights)
        expected = _facts(architecture)
        for name in ("input_shape", "output_shape", "params"):
            if facts[name] != expected[name]:
                raise ArchitectureError(f"{METADATA} says {name} = {facts[name]!r}, the graph {expected[name]!r}")
        names, scale = facts["classes"], facts["normalisation"]
        return Bundle(
            architecture,
            {name: weights[name] for name in weight_shapes(architecture)},  # the file has no order
            checked_classes(names, architecture),
            checked_normalisation(None if scale is None else (scale["mean"], scale["std"]), architecture),
        )
    except EsnacError as error:
        raise EsnacError(f"the bundle {str(folder)!r} cannot be used: {error}") from None
    except (SafetensorError, ArithmeticError, KeyError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise EsnacError(f"the bundle {str(folder)!r} is damaged ({one_line(error)}): save it again") from None


def _read_facts(folder: Path) -> dict[str, Any]:
    """Return the contents of bundle.json, of a version that this library knows."""
    place, hint = repr(str(folder)), "give a folder that save_bundle wrote"
    try:
        facts = json.loads((folder / METADATA).read_bytes())
    except OSError as error:
        raise EsnacError(f"no bundle in {place} ({METADATA}: {error.strerror}): {hint}") from None
    except (RecursionError, ValueError) as error:
        raise EsnacError(f"{METADATA} in {place} is damaged ({one_line(error)}): save it again") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise EsnacError(f"{METADATA} in {place} is not of a bundle: {hint}")
    version = facts.get("version")
    if type(version) is not int or version < 1:
        raise EsnacError(f"the bundle {place} has the version {version!r}, which does not exist: save it again")
    if version > FORMAT_VERSION:
        known = f"this library reads up to version {FORMAT_VERSION}"
        raise EsnacError(f"the bundle {place} has version {version}, {known}: install a newer esnac_lib")
    return facts


def _read_file(folder: Path, name: str, digest: str) -> bytes:
    """Return the bytes of a file, which are the ones that were saved."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise EsnacError(f"{name} cannot be read ({error.strerror}): copy the whole folder") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise EsnacError(f"{name} is not the file that was saved with it (sha256 differs): copy or save it again")
    return data


def _facts(architecture: Architecture) -> dict[str, Any]:
    """Return what bundle.json says about the graph, in the form in which JSON gives it back."""
    shapes = {"input_shape": list(architecture.input_shape), "output_shape": list(architecture.output_shape)}
    costs = {"params": architecture.num_params, "macs": architecture.macs}
    return {"arch_id": architecture.arch_id} | shapes | costs
