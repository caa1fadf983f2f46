"""Progress of a study: bars with the time left where a person watches a notebook, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

LINE_EVERY = 15.0  # seconds between two plain lines about the same thing


class Progress:
    """Shows how far a study is, in bars or in plain lines.

    With bars = None, bars are for a notebook that JupyterLab shows (papermill and nbval run kernels without a session,
    and floods of output slow them down).
    """

    def __init__(self, bars: bool | None = None) -> None:
        self.bars = "JPY_SESSION_NAME" in os.environ if bars is None else bars
        self._bar: Any = None
        self._label, self._began, self._last = "", 0.0, 0.0
        self.left: Callable[[], float | None] = lambda: None  # seconds left in all; a study sets it while it runs

    def note(self, text: str) -> None:
        """Print a line."""
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)

    def begin(self, label: str) -> None:
        """Start counting something new."""
        self.end()
        self._label = label
        self._began = self._last = time.monotonic()

    def batch(self, done: int, total: int) -> None:
        """Show that so many batches of the current training are done. Fits `Callbacks.on_batch`."""
        if self.bars:
            if self._bar is None:
                from tqdm import tqdm  # a line of text: a widget would be lost when the notebook is opened again

                look: dict[str, Any] = {"desc": self._label, "unit": "batch", "file": sys.stdout, "ncols": 100}
                self._bar = tqdm(total=total, leave=False, mininterval=0.5, **look)
            if (left := self.left()) is not None:
                self._bar.set_postfix_str(f"{duration(left)} left in all", refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last >= LINE_EVERY and done:
            self._last = time.monotonic()
            own = (self._last - self._began) / done * (total - done)
            left = self.left()
            words = f"{duration(own)} left in this" if left is None else f"{duration(left)} left in all"
            self.note(f"  {self._label}: {done / total:.0%}, {words}")

    def end(self) -> None:
        """End the count of the current training."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def duration(seconds: float) -> str:
    """Return a time in words: 12 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
