"""What a monitor costs the study that it watches: the same study alone, and with a view attached, in turns."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import threading
import time
from functools import partial
from typing import Any

from esnac_lib.report import live as monitor

from .study import FINISHED, Place
from .workshop import Workshop

LONGER = {"steps": 40, "final": "none"}
ROUNDS = 5
WAYS = ("alone", "watched from another process", "watched in its own process")


def watch(workshop: Workshop) -> dict[str, Any]:
    """What the study takes in each way, in seconds of the clock and of its own processor time, and ratios of medians.

    The clock counts where nothing else runs on the machine; processor time counts what the study's own process does.
    """
    clock: dict[str, list[float]] = {way: [] for way in WAYS}
    processor: dict[str, list[float]] = {way: [] for way in WAYS}
    outcomes = []
    for _ in range(ROUNDS):
        for way in WAYS:
            place = workshop.fresh(**LONGER)
            began, before = time.monotonic(), _processor()
            pid = place.start(partial(_watch_from_same_process, place) if way == WAYS[2] else None)
            watcher = _watch_from_another_process(place) if way == WAYS[1] else None
            end = place.wait(pid)
            clock[way].append(round(time.monotonic() - began, 2))
            processor[way].append(round(_processor() - before, 2))
            if watcher is not None:
                os.kill(watcher, signal.SIGKILL)
                os.waitpid(watcher, 0)
            assert end.status == FINISHED, end.message
            outcomes.append(place.outcome())
    return {
        "seconds": clock,
        "processor_seconds": processor,
        "ratio": _ratios(clock),
        "processor_ratio": _ratios(processor),
        "same_trials": all(outcome == outcomes[0] for outcome in outcomes),
    }


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {way: round(medians[way] / medians["alone"], 3) for way in WAYS[1:]}


def _processor() -> float:
    """Seconds of the children that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _attach(place: Place) -> None:
    """Open the view as a notebook does, and follow the study."""
    while not place.ledger_path.exists():
        time.sleep(0.05)
    view = monitor.attach(place.ledger_path, live=True)
    view._open()
    view._follow()


def _watch_from_same_process(place: Place) -> None:
    threading.Thread(target=_attach, args=(place,), daemon=True).start()


def _watch_from_another_process(place: Place) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _attach(place)
        finally:
            os._exit(0)
    return pid
