"""Files that are never seen half-written, and weights in safetensors files, which cannot run code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from esnac_lib.errors import TrainingError

if TYPE_CHECKING:  # parameters are checked and ledgers are read without PyTorch
    from torch import Tensor

DIGEST = "sha256"  # key in the header of the digest of a file's tensors: safetensors does not notice a changed byte

Content = bytes | str | Callable[[Path], object]
"""What a file shall hold: bytes, text (stored as UTF-8), or a function that writes it to the path it is given."""


def shown(path: Path) -> str:
    """Return a path as it is printed: from the working folder, or absolute where that is shorter."""
    return min(os.path.relpath(path), os.path.abspath(path), key=len)


def write_atomically(path: Path, content: Content) -> None:
    """Write a file so that a kill or a full disk leaves the old one or the new one, never half of one.

    A temporary file in the same folder, which is made if need be, is written, synced to the disk and renamed.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, Content]) -> None:
    """Write several files atomically; all are complete before the first is renamed, in the order given.

    So the last file can vouch for the others. An error before the first rename leaves all files as they were.
    """
    temporary = {path: path.with_name(f"{path.name}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(temporary[path])
            else:
                temporary[path].write_bytes(content.encode() if isinstance(content, str) else content)
            _sync(temporary[path])
        for path in contents:
            os.replace(temporary[path], path)
    except BaseException:
        for part in filter(Path.is_file, temporary.values()):
            part.unlink()
        raise
    for folder in {path.parent for path in contents}:
        _sync(folder)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors to a safetensors file, with their digest in its header."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    header = {DIGEST: digest(tensors)}
    write_atomically(path, lambda part: save_file(tensors, part, metadata=header))


def load_weights(path: Path, advice: str = ": delete the study to redo it") -> dict[str, Tensor]:
    """Read named tensors. Raises TrainingError, which ends with `advice`, where the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
            stored = (file.metadata() or {}).get(DIGEST)
    except FileNotFoundError:
        fault = f"the weights {path.name} are missing in {path.parent}"
        raise TrainingError(f"{fault}{advice}") from None
    except SafetensorError as error:
        raise TrainingError(f"the weights {path} are damaged ({error}){advice}") from None
    if stored not in (None, digest(tensors)):  # none: written before there were digests, or by other software
        raise TrainingError(f"the weights {path} are damaged (a byte has changed){advice}")
    return tensors


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return a SHA-256 of tensors on the CPU, with their names, types and shapes, and of a text."""
    import torch

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
