"""Faults of the machine, which may not happen another time: memory that runs out, a device that breaks, a hang."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch


def is_machine_fault(error: BaseException) -> bool:
    """Return whether the machine is to blame and not the network, so that a retry makes sense."""
    known = torch.OutOfMemoryError | torch.AcceleratorError | MemoryError | TimeoutError
    no_memory = any(text in str(error) for text in ("can't allocate memory", "ALLOC_FAILED"))
    return isinstance(error, known) or (isinstance(error, RuntimeError) and no_memory)


class TimeLimitError(TimeoutError):
    """The work took longer than it may."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeLimitError in the block once it has taken so long; `what` names it. No limit where it is infinite.

    The alarm rings in the main thread, between two of Python's instructions: work that waits or loops is interrupted,
    one call into a library that never returns is not. In another thread the limit is only checked afterwards. An
    alarm that was set outside goes on.
    """
    if seconds == math.inf:
        yield
        return
    late = TimeLimitError(f"{what} took longer than it may")
    if seconds <= 0:
        raise late

    def ring(number: int, frame: FrameType | None) -> None:
        raise late

    began = time.monotonic()
    if threading.current_thread() is not threading.main_thread():
        yield
        if time.monotonic() - began > seconds:
            raise late
        return
    handler = signal.signal(signal.SIGALRM, ring)
    outer, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-6), interval)
