"""Compression (§4.4): rounds of descent, of training what was found, and of refreshing the codec.

A round: descend from the teacher and from the best architectures so far; of all decoded networks train the most
promising; refresh encoder, decoder and regressors with what was learned (§5.3).

Everything but the trainings is computed again when a study goes on, to the same bits; the trainings are in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.latent_descent.codec import Surrogate
from esnac_lib.latent_descent.codec_training import CodecSet, joint_settings
from esnac_lib.latent_descent.descent import CompressionLoss, PathStep, descend
from esnac_lib.latent_descent.joint_training import refresh
from esnac_lib.latent_descent.sequence import Items
from esnac_lib.latent_descent.trials import Labelled, Trials
from esnac_lib.seeding import derive_seed

ANALYSIS_WEIGHTS = (0.1, 1.0)
"""Of L_a and L_p in §10."""


@dataclass(frozen=True)
class Found:
    """A decoded network that is worth training."""

    items: Items
    arch_id: str
    loss: float
    note: dict[str, Any]


class Compression:
    """The rounds of one study.

    on_path: told (name, path, what else is known) of every descent. note: told how far it is, in words.
    """

    def __init__(
        self,
        config: CompressionConfig,
        trials: Trials,
        surrogate: Surrogate,
        found: CodecSet,
        *,
        on_path: Callable[[str, Sequence[PathStep], dict[str, Any]], None],
        note: Callable[[str], None],
    ) -> None:
        self.config, self.trials, self.surrogate, self.found = config, trials, surrogate, found
        self.loss = compression_loss(config, surrogate, found.train[0].params)
        self._on_path, self._note = on_path, note
        self._known: dict[str, Labelled] = {one.arch_id: one for one in trials.labelled()}
        self._chosen: list[str] = []  # arch_ids of what the descents found and was trained

    def run(self) -> list[Labelled]:
        """All rounds; returns what they found and trained, in that order."""
        self._record("before")
        self._analyse()
        for number in range(self.config.rounds):
            paths = [self._descend(f"round{number}-start{place}", start) for place, start in enumerate(self._starts())]
            best = self._best(paths, self.config.candidates)
            self._train(best)
            settings = joint_settings(self.config)
            seed = derive_seed(self.config.seed, "refresh", number)
            labelled = self.found.tensors([*self.found.train, *self.results()])
            refresh(self.surrogate.codec, labelled, settings, self.config.refresh_steps, self.config.refresh_lr, seed)
            self._note(f"round {number + 1} of {self.config.rounds}: {len(self._chosen)} decoded architectures trained")
        self._record("after")
        return self.results()

    def results(self) -> list[Labelled]:
        """What the descents found and was trained so far; a fault of the machine leaves no result."""
        return [self._known[arch_id] for arch_id in self._chosen if arch_id in self._known]

    def _starts(self) -> list[Items]:
        """The teacher, then the architectures of lowest loss among all that were trained and may be learned from."""
        others = [*self.found.train[1:], *self.results()]
        others.sort(key=lambda one: (self._true_loss(one), one.trial))
        return [self.found.train[0].items, *(one.items for one in others[: self.config.starts - 1])]

    def _true_loss(self, one: Labelled) -> float:
        return self.loss.of(one.accuracy, self.surrogate.scale.target(one.params))

    def _descend(self, name: str, start: Items) -> list[PathStep]:
        steps, lr = self.config.descent_steps, self.config.descent_lr
        path = descend(self.surrogate, start, self.loss, steps, lr, self.config.reembed)
        self._on_path(name, path, {"start": [list(item) for item in start]})
        return path

    def _best(self, paths: Sequence[Sequence[PathStep]], count: int) -> list[Found]:
        """The decoded networks that promise most: by the accuracy predicted for the decoded network itself and its true
        size, without those that are known already."""
        collected = {one.arch_id for one in (*self.found.train, *self.found.held_out)}
        candidates: dict[str, Found] = {}
        for place, path in enumerate(paths):
            for step in path:
                if step.items is None or step.arch_id is None or step.arch_id in {*collected, *self._chosen}:
                    continue
                accuracy, params = step.decoded_accuracy or 0.0, self.surrogate.scale.target(step.true_params or 0)
                note = {"source": "descent", "start": place, "step": step.step}
                found = Found(step.items, step.arch_id, self.loss.of(accuracy, params), note)
                candidates.setdefault(step.arch_id, found)
        return sorted(candidates.values(), key=lambda one: one.loss)[:count]

    def _train(self, found: Sequence[Found]) -> None:
        """Train what the ledger does not have yet."""
        began, recorded = time.perf_counter(), self.trials.arch_ids()
        new = [one for one in found if one.arch_id not in recorded]
        if new:
            self.trials.evaluate(self.trials.record([one.items for one in new], [one.note for one in new], began))
        self._known = {one.arch_id: one for one in self.trials.labelled()}
        self._chosen += [one.arch_id for one in found if one.arch_id not in self._chosen]

    def _analyse(self) -> None:
        """§10: the teacher compressed with L = 0.1 L_a + L_p and no target, decoded without §3's assumptions."""
        space = replace(self.surrogate.space, enforced=False)
        surrogate = replace(self.surrogate, space=space)
        steps, lr = self.config.descent_steps, self.config.descent_lr
        start = self.found.train[0].items
        path = descend(surrogate, start, CompressionLoss(1.0, 0.0, *ANALYSIS_WEIGHTS), steps, lr, self.config.reembed)
        self._on_path("analysis", path, {"start": [list(item) for item in start]})

    def _record(self, name: str) -> None:
        """Descend from the teacher and train what each of the first steps decodes to: predicted against true."""
        steps = self.config.path_steps
        if not steps:
            return
        path = descend(self.surrogate, self.found.train[0].items, self.loss, steps, self.config.descent_lr)
        collected = {one.arch_id for one in (*self.found.train, *self.found.held_out)}
        new: dict[str, Found] = {}
        for step in path:
            if step.items is not None and step.arch_id is not None and step.arch_id not in collected:
                note = {"source": "descent", "start": 0, "step": step.step}
                new.setdefault(step.arch_id, Found(step.items, step.arch_id, 0.0, note))
        self._train(list(new.values()))
        true = [self._known.get(step.arch_id or "") for step in path]
        self._on_path(name, path, {"true_accuracy": [None if one is None else one.accuracy for one in true]})


def compression_loss(config: CompressionConfig, surrogate: Surrogate, teacher_params: int) -> CompressionLoss:
    """Eq. 17 with the study's targets; without a target for the parameters p₀ is 0 (Eq. 16)."""
    target = surrogate.scale.target(teacher_params / config.target_times) if config.target_times else 0.0
    return CompressionLoss(config.target_accuracy, target, config.accuracy_weight, config.params_weight)


def select(
    found: Sequence[Labelled], loss: CompressionLoss, surrogate: Surrogate, most_params: float
) -> list[Labelled]:
    """What was found, best first: those within the size asked for by their accuracy, then the others by their loss."""

    def key(one: Labelled) -> tuple[bool, float, int]:
        fits = one.params <= most_params
        value = -one.accuracy if fits else loss.of(one.accuracy, surrogate.scale.target(one.params))
        return not fits, value, one.trial

    return sorted(found, key=key)
