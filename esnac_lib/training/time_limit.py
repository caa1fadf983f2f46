"""A limit for how long a piece of work may take, which interrupts one that hangs."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimitError(TimeoutError):
    """The work took longer than it may."""


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeLimitError in the block when it has taken so long; `what` names it. No limit where it is infinite.

    The alarm rings in the main thread, between two of Python's instructions: work that waits or loops is interrupted,
    one call into a library that never comes back is not. In another thread the limit is only looked at afterwards. An
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
