"""Draw and train the set of random architectures in groups, over any number of runs (§5; 1,500 in the paper)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from functools import partial
from math import floor

from esnac_lib.latent_descent.random_architectures import Distribution, Draw, draw, random_sequence, sequence_around
from esnac_lib.latent_descent.sequence import Items, SequenceSpace
from esnac_lib.latent_descent.trials import Trials
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.seeding import make_rng


def distribution_of(index: int, around: float) -> Distribution:
    """Return the distribution of architecture number `index`; every prefix of the set has the share `around`."""
    return "around" if floor((index + 1) * around + 1e-9) > floor(index * around + 1e-9) else "random"


def draw_numbered(
    space: SequenceSpace, teacher: Items, around: float, seed: int, kind: str, index: int, seen: Collection[str] = ()
) -> tuple[Distribution, Draw]:
    """Draw sequence number `index` of a set, and return it with its distribution."""
    distribution = distribution_of(index, around)
    sample = partial(random_sequence, space) if distribution == "random" else partial(sequence_around, space, teacher)
    return distribution, draw(space, sample, make_rng(seed, f"{distribution}-{kind}", index), seen)


def collect(
    trials: Trials, count: int, around: float, group: int, seed: int, note: Callable[[int], None] = lambda done: None
) -> None:
    """Train the teacher, then random architectures until there are `count`; nothing is trained twice.

    They are trained in groups of `group`; `note` is called after each with the number of random architectures so far.
    """
    teacher = trials.space.to_sequence(trials.teacher)
    if trials.teacher.arch_id not in trials.arch_ids():
        trials.record([teacher], [{"source": "teacher"}], time.perf_counter())
    trials.finish_open()
    trials.teacher_accuracy()  # raises where it has none
    while (done := count_random(trials.ledger)) < count:
        began, seen = time.perf_counter(), trials.arch_ids()
        sequences, notes = [], []
        for index in range(done, min(done + group, count)):
            distribution, drawn = draw_numbered(trials.space, teacher, around, seed, "architecture", index, seen)
            seen.add(trials.space.to_architecture(drawn.items).arch_id)
            sequences.append(drawn.items)
            notes.append({"source": distribution, "index": index, "rejected": drawn.rejected})
        trials.evaluate(trials.record(sequences, notes, began))
        note(count_random(trials.ledger))


def count_random(ledger: Ledger) -> int:
    """Return the number of random architectures that a ledger holds."""
    return len({note["index"] for note in map(json.loads, ledger.trials()["decisions"]) if "index" in note})
