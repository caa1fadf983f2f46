"""Weights on disk: one safetensors file each, written beside and renamed into place. Nothing in it can run code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from esnac_lib.errors import TrainingError


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors. The folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial)
    os.replace(partial, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors. Raises TrainingError, one line, if the file is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise TrainingError(
            f"the weights {path.name} are missing in {path.parent}: delete the study to redo it"
        ) from None
    except SafetensorError as error:
        raise TrainingError(f"the weights {path} are damaged ({error}): delete the study to redo it") from None
