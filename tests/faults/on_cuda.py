"""What is not deterministic on CUDA: the same study twice, where there is such a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .study import PARAMETERS, Place
from .workshop import Workshop

PROGRAM = "from esnac_lib.config import StudyConfig; from esnac_lib.study import Study; Study(StudyConfig(**{})).run()"
WHY = (
    "On CUDA the same seed gives the same proposals for the same observations, the same initial weights and the same "
    "batches, but sums are added in an order that changes from run to run, and in bfloat16: accuracies differ in the "
    "last digits, and from there on so do proposals."
)


def compare_on_cuda(workshop: Workshop) -> str:
    """A sentence with numbers; or that there is no such device."""
    if not torch.cuda.is_available():
        return f"{WHY} Not measured: there is no CUDA device here."
    parameters: dict[str, Any] = PARAMETERS | {"device": "cuda", "steps": 4, "final": "none"}
    tables = []
    for name in ("cuda1", "cuda2"):
        place = Place(workshop.folder / name)
        place.folder.mkdir()
        environment = {"ESNAC_OUTPUTS": str(place.folder), "ESNAC_DATA": str(workshop.folder)}
        _run(parameters, environment)
        tables.append(place.trials())
    first, second = tables
    same = first["arch_id"].eq(second["arch_id"])
    apart = (first["accuracy"] - second["accuracy"])[same].abs().max()
    return (
        f"{WHY} Two runs of one study on {torch.cuda.get_device_name()}: {same.sum()} of {len(same)} architectures are "
        f"the same, and their accuracies are at most {100 * apart:.2f} points apart."
    )


def _run(parameters: dict[str, Any], environment: dict[str, str]) -> None:
    """In a process of its own: one that has forked may not use CUDA in its children."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PROGRAM.format(parameters)]
    subprocess.run(command, cwd=root, env=os.environ | environment, check=True)
