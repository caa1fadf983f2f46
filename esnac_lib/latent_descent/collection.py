"""The set of random architectures (§5; 1,500 in the paper): drawn and trained in groups, over any number of runs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import floor

import numpy as np

from esnac_lib.latent_descent.random_architectures import Distribution, draw, random_sequence, sequence_around
from esnac_lib.latent_descent.sequence import Items, SequenceSpace
from esnac_lib.latent_descent.trials import Trials
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.seeding import make_rng


def distribution_of(index: int, around: float) -> Distribution:
    """Which distribution architecture number `index` comes from: every prefix of the set has the share `around`."""
    return "around" if floor((index + 1) * around + 1e-9) > floor(index * around + 1e-9) else "random"


def sampler_of(
    distribution: Distribution, space: SequenceSpace, teacher: Items
) -> Callable[[np.random.Generator], Items]:
    """What draws one sequence of a distribution."""
    return partial(random_sequence, space) if distribution == "random" else partial(sequence_around, space, teacher)


def collect(
    trials: Trials, count: int, around: float, group: int, seed: int, note: Callable[[int], None] = lambda done: None
) -> None:
    """Train the teacher, then random architectures until there are `count`, `group` side by side.

    What an earlier run trained is not trained again. note: told after each group how many there are.
    """
    teacher = trials.space.to_sequence(trials.teacher)
    if trials.teacher.arch_id not in trials.arch_ids():
        trials.record([teacher], [{"source": "teacher"}], time.perf_counter())
    trials.finish_open()
    trials.teacher_accuracy()  # raises where it has none
    while (done := len(indices(trials.ledger))) < count:
        began, seen = time.perf_counter(), trials.arch_ids()
        sequences, notes = [], []
        for index in range(done, min(done + group, count)):
            distribution = distribution_of(index, around)
            sample = sampler_of(distribution, trials.space, teacher)
            found = draw(trials.space, sample, make_rng(seed, f"{distribution}-architecture", index), seen)
            seen.add(trials.space.to_architecture(found.items).arch_id)
            sequences.append(found.items)
            notes.append({"source": distribution, "index": index, "rejected": found.rejected})
        trials.evaluate(trials.record(sequences, notes, began))
        note(len(indices(trials.ledger)))


def indices(ledger: Ledger) -> set[int]:
    """The numbers of the random architectures that a ledger holds."""
    notes = [json.loads(text) for text in ledger.trials()["decisions"]]
    return {note["index"] for note in notes if "index" in note}


def rejections(ledger: Ledger) -> dict[str, Counter[str]]:
    """For each distribution: how many draws were accepted ("accepted"), and rejected for which reason."""
    counts: dict[str, Counter[str]] = {}
    for text in ledger.trials()["decisions"]:
        note = json.loads(text)
        if "rejected" in note:
            counts.setdefault(note["source"], Counter()).update({"accepted": 1, **note["rejected"]})
    return counts
