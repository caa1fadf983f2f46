"""The state of one training on disk: a safetensors file a trainee, its progress as JSON in the file's header.

No pickle is read or written, and a kill leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from esnac_lib.files import DIGEST, digest, write_atomically

_FORMAT = 2  # 1 had no digest
_PARTS = ("network", "optimizer", "best")


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training.

    `progress` is JSON. `network` and `best` are state dicts (`best` is empty where it equals `network`); `optimizer`
    maps "<index of the parameter>.<name of the state>" to a tensor.
    """

    progress: dict[str, Any]
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]


def cpu_copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors as contiguous clones on the CPU that share memory with nothing."""
    form = torch.contiguous_format
    return {name: tensor.detach().to("cpu", copy=True, memory_format=form) for name, tensor in state.items()}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to `path`; the folder is made where it is missing."""
    parts = {part: cpu_copy(getattr(checkpoint, part)) for part in _PARTS}
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    text = json.dumps({"format": _FORMAT, "progress": checkpoint.progress})
    header = {"training": text, DIGEST: digest(tensors, text)}
    write_atomically(path, lambda part: save_file(tensors, part, metadata=header))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote. Raises various exceptions for a damaged or another file, all meaning that."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    if metadata.get(DIGEST) != digest(tensors, metadata["training"]):
        raise ValueError("a byte has changed")
    header = json.loads(metadata["training"])
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r} is not {_FORMAT}")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Checkpoint(header["progress"], **parts)


def clear_checkpoint(directory: Path) -> None:
    """Delete the checkpoints in `directory`, and the folder if nothing else is in it. Nothing there: no harm."""
    for path in (*directory.glob("*.safetensors"), *directory.glob("*.safetensors.part")):
        path.unlink()
    with contextlib.suppress(OSError):  # it is missing, or something else lives there
        directory.rmdir()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's state, named "<index of the parameter>.<name of the state>"."""
    return {
        f"{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore(checkpoint: Checkpoint, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the stored weights and optimiser state, in the memory layout that the parameters have.

    Raises ValueError, and changes nothing, if the checkpoint belongs to another network.
    """
    forms = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
        for state in (network.state_dict(), checkpoint.network, checkpoint.best or checkpoint.network)
    ]
    if any(form != forms[0] for form in forms):
        raise ValueError("it belongs to another network")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.optimizer.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)] if int(index) < len(parameters) else None
        if parameter is None or tensor.shape not in (parameter.shape, torch.Size()):
            raise ValueError("its optimiser state belongs to another network")
        if tensor.shape == parameter.shape:
            # A fused optimiser walks through parameter and state together: both need the same strides.
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        entries.setdefault(int(index), {})[name] = tensor
    network.load_state_dict(checkpoint.network)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


class CheckpointSchedule:
    """When a group is stored: after each epoch, but where writing takes long, so seldom that it takes `MAX_SHARE`.

    Eight students of ResNet-34's size are a gigabyte and more, and a fast device trains their epoch in seconds.

    >>> if schedule.due():
    >>>     with schedule: ...  # write; several times where there are several files
    """

    FREE_SECONDS = 0.5  # of writing that may follow every epoch
    MAX_SHARE = 0.05  # of the time, for writing that takes longer

    def __init__(self) -> None:
        self._took, self._ended = 0.0, time.monotonic()

    def due(self) -> bool:
        """Return whether this epoch is to be stored."""
        found = self._took <= self.FREE_SECONDS or time.monotonic() - self._ended >= self._took / self.MAX_SHARE
        if found:
            self._took = 0.0
        return found

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = time.monotonic()
        self._took += self._ended - self._began
