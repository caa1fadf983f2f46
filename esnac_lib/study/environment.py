"""Where a result was computed: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "gpytorch", "pandas", "safetensors", "papermill")


def describe_environment(device: str) -> dict[str, Any]:
    """Return the device, its hardware, all versions, and the checkout's commit (None outside of a checkout)."""
    return {
        "device": device,
        "hardware": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.check_output(command, cwd=folder, stderr=subprocess.PIPE, text=True, timeout=5).strip()
    except (OSError, subprocess.SubprocessError):
        return None
