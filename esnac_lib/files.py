"""Weights on disk: one safetensors file each, written beside and renamed into place. Nothing in it can run code.

The header holds a digest of all that the file holds: safetensors itself does not notice a byte that changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esnac_lib.errors import TrainingError

DIGEST = "sha256"


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, partial, metadata={DIGEST: digest(tensors)})
    os.replace(partial, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors. Raises TrainingError, one line, if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
            told = (file.metadata() or {}).get(DIGEST)
    except FileNotFoundError:
        raise TrainingError(
            f"the weights {path.name} are missing in {path.parent}: delete the study to redo it"
        ) from None
    except SafetensorError as error:
        raise TrainingError(f"the weights {path} are damaged ({error}): delete the study to redo it") from None
    if told not in (None, digest(tensors)):  # none: written before there were digests, or by somebody else
        raise TrainingError(f"the weights {path} are damaged (a byte has changed): delete the study to redo it")
    return tensors


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """A SHA-256 of tensors on the CPU, with their names, types and shapes, and of a text."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
