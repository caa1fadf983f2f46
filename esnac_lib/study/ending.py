"""When a study has to end, and why: somebody asked, or `max_minutes` are over or near.

A study that is asked to *stop* stops where it is. One that is asked to *finish*, or whose time is nearly over, ends its
search and does what follows it with the best found so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from esnac_lib.ledger.ledger import Ledger

SearchEnd = Literal["complete", "exhausted", "asked", "time"]
"""Why a search ended: all is evaluated, there is nothing new to evaluate, somebody asked, or the time was needed."""
EARLY: tuple[SearchEnd, ...] = ("asked", "time")
MARGIN = 1.2  # of the time kept for what follows the search, over its estimate
GRACE = 0.1  # share of `max_minutes` that what follows the search may take longer than was estimated


class Ending:
    """When one run of a study has to end; `began` is when it did (time.monotonic)."""

    def __init__(self, ledger: Ledger, max_minutes: float, began: float) -> None:
        self._ledger, self._minutes = ledger, max_minutes
        self._deadline = began + 60 * max_minutes if max_minutes else math.inf
        self.searching = False  # then the search may be ended early
        self.has_result = bool((ledger.trials()["state"] == "complete").any())  # without one, nothing can be finished
        self.reserve: Callable[[], float] = lambda: 0.0  # seconds that what follows the search takes

    @property
    def seconds(self) -> float:
        """The seconds until the limit; infinite without one."""
        return self._deadline - time.monotonic()

    def must_stop(self) -> bool:
        """Return whether what is in training has to stop now."""
        if self.searching:
            return self.is_over() or self.early() is not None
        late = 60 * self._minutes * GRACE * self.has_result
        return self._ledger.stop_requested() or self.seconds < -late or self._is_in_vain()

    def early(self) -> Literal["asked", "time"] | None:
        """Return why the search has to end now, to be finished with what there is; None if it goes on, or stops."""
        if not self.has_result or self._ledger.stop_requested():
            return None
        if self._ledger.finish_requested():
            return "asked"
        return "time" if self.seconds < MARGIN * self.reserve() else None

    def is_over(self) -> bool:
        """Return whether the run stops here: there is nothing more that it may do."""
        return self._ledger.stop_requested() or self.seconds < 0 or self._is_in_vain()

    def farewell(self) -> str:
        """Return why a run stopped, what is there, and how to go on."""
        on = "the same command goes on from here"
        if self._ledger.stop_requested():
            return f"stopped as asked; {on}"
        if self._is_in_vain():
            return f"asked to finish, but there is nothing to finish with: {self._there()}; {on}"
        return f"the time limit of {self._minutes:g} min is over: {self._there()}; {on}, with max_minutes anew"

    def _is_in_vain(self) -> bool:
        return self._ledger.finish_requested() and not self.has_result

    def _there(self) -> str:
        """Return what there is, in words."""
        trained = [role for role in ("search", "reference") if role in self._ledger.results("teacher")]
        done = [f"the {' and the '.join(trained)} teacher {'is' if len(trained) == 1 else 'are'} trained"] * bool(
            trained
        )
        count = int(self._ledger.trials()["told_at"].notna().sum())
        done.append(f"{count} evaluated" if count else "it was too short for even one evaluated student")
        if (latest := self._ledger.latest_epoch()) is not None:
            phase, name, epoch = latest
            done.append(f"last: epoch {epoch} of {name}, {phase.replace('-', ' ')}")
        return ", ".join(done)
