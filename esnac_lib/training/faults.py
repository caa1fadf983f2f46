"""What an exception in a training says: in one line, and whether the machine or the network is to blame."""

from __future__ import annotations

import torch


def is_machine_fault(error: BaseException) -> bool:
    """Whether it may go well another time: memory that ran out, a device that broke, work that hung."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError | MemoryError | TimeoutError):
        return True
    return isinstance(error, RuntimeError) and any(t in str(error) for t in ("can't allocate memory", "ALLOC_FAILED"))
