"""Learned kernels on disk: a safetensors file each, and one JSON file that says what they were learned on.

    save_kernels(folder, kernels, {"study": "cifar10_resnet18", ...})
    kernels, learned_on = load_kernels(folder, target)    # refuses, in one line, what cannot read the target's layers

With the weights go the observations of each kernel, D^k (ESNAC §4.3): encodings and f. An encoding's columns are named
by the kinds of layers that were known when it was made. Kinds that the library has learned since get columns of zeros,
so that an old kernel still predicts what it predicted, for architectures that have no such layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esnac_lib.architecture.encoding import KINDS, encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import ArchitectureError, DataError, one_line
from esnac_lib.files import write_atomically
from esnac_lib.surrogate.kernel import Kernel

INDEX = "kernels.json"
_FORMAT = 1


def save_kernels(folder: Path, kernels: Sequence[Kernel], learned_on: Mapping[str, Any]) -> None:
    """Write kernels to a folder, in place of those that were there. learned_on: plain data for the reader.

    The index is written last, so that a folder with an index is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    entries = []
    for k, kernel in enumerate(kernels):
        tensors, info = kernel.state()
        name = f"kernel{k:02d}.safetensors"
        write_atomically(folder / name, partial(save_file, tensors))
        entries.append({"file": name, "observations": len(kernel.f), "best_f": kernel.best, **info})
    text = json.dumps({"format": _FORMAT, "learned_on": dict(learned_on), "kernels": entries}, indent=1)
    write_atomically(folder / INDEX, text + "\n")


def load_kernels(folder: Path, target: Architecture) -> tuple[list[Kernel], dict[str, Any]]:
    """Return the kernels of a folder, for predicting f in the space of the teacher `target`, and their `learned_on`.

    Raises DataError where there are none, a file is damaged, or one cannot read the target's layers.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        entries, learned_on = list(index["kernels"]), dict(index["learned_on"])
        if index["format"] != _FORMAT:
            raise ValueError(f"format {index['format']!r}, while this version knows {_FORMAT}")
    except FileNotFoundError:
        raise DataError(f"no kernels are saved in {folder.name}: run the study that they are learned in") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder.name}/{INDEX} cannot be read ({one_line(error)}): delete it") from None
    return [_load(folder, k, entry, target) for k, entry in enumerate(entries)], learned_on


def check_readable(kernel: Kernel, target: Architecture, name: str = "the kernel") -> None:
    """Raise DataError, in one line, if a kernel cannot read an architecture's layers."""
    try:
        width = encode(target, kernel.settings.max_edge).shape[1]
    except ArchitectureError as error:
        raise DataError(f"{name} cannot read the target's layers: {error}") from None
    if (own := kernel.embedding.lstm.input_size) != width:
        widths = f"it was learned on encodings of width {own}, the target's have {width}"
        raise DataError(f"{name} cannot read the target's layers: {widths}")


def _load(folder: Path, k: int, entry: Mapping[str, Any], target: Architecture) -> Kernel:
    name = f"kernel {k} of {folder.parent.name}"
    try:
        with safe_open(folder / entry["file"], framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        kinds = list(entry["kinds"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise DataError(f"{name} cannot be read ({one_line(error)}): delete {folder.name}") from None
    known = ", ".join(kinds)
    if strange := [kind for kind in kinds if kind not in KINDS]:
        raise DataError(f"{name} knows layers of kind {strange[0]!r}, which this version does not: learn it again")
    if missing := sorted({layer.kind for layer in target.layers} - set(kinds)):
        raise DataError(f"{name} cannot read the target's layers: it knows no {missing[0]!r}, only {known}")
    kernel = Kernel.from_state(_with_columns(tensors, kinds), {**entry, "kinds": list(KINDS)})
    check_readable(kernel, target, name)
    return kernel


def _with_columns(tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> dict[str, Tensor]:
    """Return a kernel's tensors with the columns of today's kinds; those of unknown kinds are zeros, others move."""
    if list(kinds) == list(KINDS):
        return dict(tensors)
    moved = dict(tensors)
    for name, tensor in tensors.items():
        if name == "encodings" or name.startswith("embedding.lstm.weight_ih_l0"):
            wide = torch.zeros(len(tensor), len(KINDS) + tensor.shape[1] - len(kinds), dtype=tensor.dtype)
            wide[:, [KINDS.index(kind) for kind in kinds]] = tensor[:, : len(kinds)]
            wide[:, len(KINDS) :] = tensor[:, len(kinds) :]
            moved[name] = wide
    return moved
