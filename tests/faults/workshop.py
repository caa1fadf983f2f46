"""Where faults are tried: the undisturbed run, new places for studies, and the record of each fault's outcome."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from esnac_lib.seeding import make_rng

from .moments import TELLING, Moment, count_into, counts
from .study import FINISHED, PARAMETERS, End, Injection, Place, warm_up


@dataclass
class Tally:
    """What came of the faults of one kind.

    survived: the study was started again and ended, with nothing lost, with the trials of the run that was left
    alone, and whatever it said was one line. messages: what it said, and how often.
    """

    tried: int = 0
    survived: int = 0
    lost_trials: int = 0
    different_from_uninterrupted: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # in the harness's own words: what went wrong
    seconds: float = 0.0
    skipped: str = ""

    def summary(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name) for name in ("tried", "survived", "lost_trials")}
        numbers["different_from_uninterrupted"] = self.different_from_uninterrupted
        return numbers | {"seconds": round(self.seconds, 1)} | ({"skipped": self.skipped} if self.skipped else {})


class Workshop:
    """Makes places for studies, and checks what is left in them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._made = 0
        self._half: Place | None = None
        self._alone: dict[str, dict[str, Any]] = {}
        warm_up(folder)
        moments = folder / "moments"
        self.reference = Place(folder / "alone")
        began = time.monotonic()
        end = self.reference.run(count_into(moments))
        self.seconds = time.monotonic() - began
        if end.status != FINISHED:
            raise RuntimeError(f"the study that was left alone did not end: {end.message}")
        self.outcome = self.reference.outcome()
        self.moments = counts(moments)

    def rng(self, purpose: str, *index: int) -> np.random.Generator:
        """Random draws of the harness: the same faults each time, as far as time itself is not drawn."""
        return make_rng(self.seed, f"faults/{purpose}", *index)

    def fresh(self, teachers: bool = True, **parameters: Any) -> Place:
        """A place where nothing has run. teachers: they are trained already, as after another study."""
        self._made += 1
        place = Place(self.folder / f"place{self._made}", parameters)
        if teachers:
            shutil.copytree(self.reference.folder / "teachers", place.folder / "teachers")
        return place

    def half_done(self) -> Place:
        """A study that was killed in its second step, with the log next to its ledger."""
        if self._half is None:
            self._half = self.fresh()
            self._half.run(Moment(TELLING, 4).kill)
        return self.copy(self._half)

    def copy(self, place: Place) -> Place:
        """The same place again, to be spoiled."""
        self._made += 1
        folder = self.folder / f"place{self._made}"
        shutil.copytree(place.folder, folder)
        return Place(folder, place.parameters)

    def alone(self, name: str, injection: Injection, **parameters: Any) -> dict[str, Any]:
        """The outcome of a study with such a student in it that is otherwise left alone."""
        if name not in self._alone:
            place = self.fresh(**parameters)
            end = place.run(injection)
            if end.status != FINISHED:
                raise RuntimeError(f"the study with a student that {name} did not end: {end.message}")
            self._alone[name] = place.outcome()
        return self._alone[name]

    def check(
        self,
        tally: Tally,
        place: Place,
        ends: list[End],
        injection: Injection | None = None,
        expected: dict[str, Any] | None = None,
        says: Callable[[str], bool] | None = None,
    ) -> None:
        """Start the study again until it ends, and book what is left. ends: how it ended under the faults.

        injection: what is wrong with a student stays wrong. says: what at least one message must say.
        """
        tally.tried += 1
        wrong = []
        lost = place.lost()
        last = place.run(injection)
        if last.status != FINISHED:
            wrong.append(f"started again it ended with {last.status}: {last.message[-500:]}")
        lost = max(lost, place.lost())
        if lost:
            wrong.append(f"{lost} observed trials lost")
        tally.lost_trials += lost
        if last.status == FINISHED and place.outcome() != (expected or self.outcome):
            tally.different_from_uninterrupted += 1
            wrong.append(f"different: {difference(place.outcome(), expected or self.outcome)}")
        for end in ends:
            if end.message:
                tally.messages[general(end.message, place)] += 1
                if not end.one_line:
                    wrong.append(f"not one line: {end.message[-500:]}")
        if says is not None and not any(says(end.message) for end in ends):
            wrong.append(f"the message lacks what it should say: {[end.message for end in ends]}")
        if wrong:
            tally.faults.append(f"{place.folder.name}: {'; '.join(wrong)}")
        else:
            tally.survived += 1
            shutil.rmtree(place.folder)


def general(message: str, place: Place) -> str:
    """A message without what differs from try to try."""
    words = message.replace(str(place.folder), "<outputs>").replace(PARAMETERS["study"], "<study>")
    return re.sub(r"process \d+", "process N", words)


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Where two outcomes part, shortly."""
    name = next(name for name in expected if found[name] != expected[name])
    a, b = found[name], expected[name]
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return f"{name}: …{a[max(0, at - 60) : at + 40]}… instead of …{b[max(0, at - 60) : at + 40]}…"
