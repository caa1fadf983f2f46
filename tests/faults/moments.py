"""Where a study can be struck: each kind of moment is counted in a run that is left alone, then one is picked."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from esnac_lib.ledger import file as ledger_file
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.samplers.esnac import EsnacSampler

from .study import Silent

Strike = Callable[[], None]

TEACHER, SEARCH, FINAL = "in teacher training", "in search training", "in final training"
PROPOSING, LEDGER, TELLING = "while proposing", "inside a ledger write", "between evaluation and tell"
FILES = "while a file is put in place"
MOMENTS = (TEACHER, SEARCH, FINAL, PROPOSING, LEDGER, TELLING, FILES)
LONGEST_DELAY = 2e-3  # seconds from a COMMIT to the strike: most of them it spends waiting for the disk


def die() -> None:
    """The end, as the machine brings it: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(seconds: float) -> None:
    """The end a little later, from a thread, wherever the program is by then."""

    def wait() -> None:
        time.sleep(seconds)
        die()

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class Moment:
    """The `at`-th time that a study comes to such a moment, counted from 1. delay: seconds from there to the strike."""

    kind: str
    at: int
    delay: float = 0.0

    def kill(self) -> None:
        """Make this process die at that moment. An injection."""
        met = Counter[str]()

        def pass_by(kind: str, late: bool = False) -> None:
            met[kind] += 1
            if kind == self.kind and met[kind] == self.at:
                if late or kind == PROPOSING:
                    die_after(self.delay)
                else:
                    die()

        observe(pass_by)


def observe(pass_by: Callable[..., None]) -> None:
    """Call pass_by(kind of moment) at every moment of the study that this process runs."""
    _observe_training(pass_by)
    _observe_ledger(pass_by)
    ask, replace = EsnacSampler.ask, os.replace

    def asking(sampler: EsnacSampler, n: int) -> Any:
        pass_by(PROPOSING)
        return ask(sampler, n)

    def replacing(*args: Any, **named: Any) -> None:
        pass_by(FILES)
        replace(*args, **named)
        pass_by(FILES)

    EsnacSampler.ask = asking  # type: ignore[method-assign]
    os.replace = replacing  # type: ignore[assignment]


def _observe_training(pass_by: Callable[..., None]) -> None:
    def step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        doing = Silent.doing
        for word, kind in (("teacher", TEACHER), ("step", SEARCH), ("final", FINAL)):
            if word in doing and not (kind == TEACHER and "training" in doing):  # of the narrowed teacher
                pass_by(kind)
                return

    register_optimizer_step_post_hook(step)


def _observe_ledger(pass_by: Callable[..., None]) -> None:
    connect = ledger_file._connect

    def watched(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        if mode == "mode=rw":
            connection.set_trace_callback(lambda statement: pass_by(LEDGER, late=statement == "COMMIT"))
        return connection

    ledger_file._connect = watched
    for name in ("complete", "fail"):
        real = getattr(Ledger, name)

        def telling(ledger: Ledger, *args: Any, real: Any = real, **named: Any) -> None:
            pass_by(TELLING)
            real(ledger, *args, **named)

        setattr(Ledger, name, telling)


def pick(kind: str, count: int, rng: np.random.Generator) -> Moment:
    """One of `count` moments of a kind, each as likely as another."""
    delay = {LEDGER: LONGEST_DELAY, PROPOSING: 0.2}.get(kind, 0.0)
    return Moment(kind, int(rng.integers(1, count + 1)), float(rng.uniform(0, delay)))


def counts(file: Path) -> dict[str, int]:
    """How often a run that was left alone came to each kind of moment, as `count_into` wrote it."""
    return dict(Counter(file.read_text().splitlines()))


def count_into(file: Path) -> Callable[[], None]:
    """An injection that writes every moment down."""

    def inject() -> None:
        stream = file.open("a", buffering=1)
        observe(lambda kind, late=False: stream.write(kind + "\n") and None)

    return inject
