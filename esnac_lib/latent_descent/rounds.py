"""Run the rounds of compression: descend, train the decoded networks, finetune the codec on them (§4.4 and 5.3).

A round descends from the teacher and from the best architectures so far, trains the most promising of all decoded
networks, and finetunes encoder, decoder and regressors with their accuracies.

A resumed study computes everything but the trainings again, to the same bits; the trainings are in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.latent_descent.codec import Codec
from esnac_lib.latent_descent.codec_training import CodecData, joint_settings
from esnac_lib.latent_descent.descent import CompressionLoss, DescentStep, descend
from esnac_lib.latent_descent.joint_training import refresh
from esnac_lib.latent_descent.sequence import Items
from esnac_lib.latent_descent.trials import TrainedArchitecture, Trials
from esnac_lib.seeding import derive_seed
from esnac_lib.study.ending import Ending, SearchEnd
from esnac_lib.training.callbacks import TrainingStopped

ANALYSIS_WEIGHTS = (0.1, 1.0)  # of L_a and L_p in §10


@dataclass(frozen=True)
class DecodedNetwork:
    """A network on a path of descent that may be trained; loss: L_c of its predicted accuracy and its true size."""

    items: Items
    arch_id: str
    loss: float
    note: dict[str, Any]


class Compression:
    """The rounds of one study; the codec is finetuned in place, and `note` is called with the progress in words.

    They end early where `ending` says so and a decoded network is trained; then `ended` says why.
    """

    def __init__(
        self, config: CompressionConfig, trials: Trials, codec: Codec, data: CodecData, note: Callable[[str], None],
        ending: Ending,
    ) -> None:  # fmt: skip
        self.config, self.trials, self.codec, self.data, self._note = config, trials, codec, data, note
        self._ending = ending
        self.ended: SearchEnd | None = None
        self.loss = compression_loss(config, codec, data.train[0].params)
        self._trained: dict[str, TrainedArchitecture] = {one.arch_id: one for one in trials.trained()}
        self._chosen: list[str] = []  # arch_ids of the decoded networks that were trained

    def run(self) -> list[TrainedArchitecture]:
        """Run all rounds and return the decoded networks that were trained, in that order."""
        try:
            self._run()
        except TrainingStopped:
            self.ended = self._ending.early() if self.results() else None
            if self.ended is None:
                raise
            self.trials.ledger.reset_running()
        finally:
            self._ending.searching = False
        return self.results()

    def _run(self) -> None:
        self._train_path("before")
        unbound = replace(self.codec, space=replace(self.codec.space, enforced=False))  # without the assumptions (§10)
        for_size = CompressionLoss(1.0, 0.0, *ANALYSIS_WEIGHTS)  # 0.1 L_a + L_p, and no target
        self._descend("analysis", self.data.train[0].items, unbound, for_size)
        for number in range(self.config.rounds):
            paths = [
                self._descend(f"round{number}-start{place}", start, self.codec, self.loss)
                for place, start in enumerate(self._starts())
            ]
            new = [one for one in self._decoded(paths) if one.arch_id not in self._chosen]
            self._train(sorted(new, key=lambda one: one.loss)[: self.config.candidates])
            settings, seed = joint_settings(self.config), derive_seed(self.config.seed, "refresh", number)
            labelled = self.data.tensors([*self.data.train, *self.results()])
            refresh(self.codec.autoencoder, labelled, settings, self.config.refresh_steps, self.config.refresh_lr, seed)
            self._note(f"round {number + 1} of {self.config.rounds}: {len(self._chosen)} decoded architectures trained")
        self._train_path("after")

    def results(self) -> list[TrainedArchitecture]:
        """Return the decoded networks trained so far; a fault of the machine leaves no result."""
        return [self._trained[arch_id] for arch_id in self._chosen if arch_id in self._trained]

    def _starts(self) -> list[Items]:
        """Return the teacher, then the architectures of lowest loss among all trained ones that are not held out."""

        def key(one: TrainedArchitecture) -> tuple[float, int]:
            return self.loss.of(one.accuracy, self.codec.scale.target(one.params)), one.trial

        others = sorted([*self.data.train[1:], *self.results()], key=key)
        return [self.data.train[0].items, *(one.items for one in others[: self.config.starts - 1])]

    def _descend(self, name: str, start: Items, codec: Codec, loss: CompressionLoss) -> list[DescentStep]:
        path = descend(codec, start, loss, self.config.descent_steps, self.config.descent_lr, self.config.reembed)
        self._record(name, path, start=[list(item) for item in start])
        return path

    def _record(self, name: str, path: Sequence[DescentStep], **more: Any) -> None:
        self.trials.ledger.result("path", name, {"steps": [step.to_dict() for step in path]} | more)

    def _decoded(self, paths: Sequence[Sequence[DescentStep]]) -> list[DecodedNetwork]:
        """Return the distinct networks that paths decode to, except those that the codec was trained on or held out."""
        collected = {one.arch_id for one in (*self.data.train, *self.data.held_out)}
        found: dict[str, DecodedNetwork] = {}
        for place, path in enumerate(paths):
            for step in path:
                if step.items is None or step.arch_id is None or step.arch_id in collected:
                    continue
                accuracy, params = step.decoded_accuracy or 0.0, self.codec.scale.target(step.true_params or 0)
                note = {"source": "descent", "start": place, "step": step.step}
                network = DecodedNetwork(step.items, step.arch_id, self.loss.of(accuracy, params), note)
                found.setdefault(step.arch_id, network)
        return list(found.values())

    def _train(self, networks: Sequence[DecodedNetwork]) -> None:
        """Train what the ledger does not have yet."""
        began, recorded = time.perf_counter(), self.trials.arch_ids()
        new = [one for one in networks if one.arch_id not in recorded]
        if self.results() and self._ending.early():
            raise TrainingStopped
        self._ending.searching = bool(self.results())
        if new:
            self.trials.evaluate(self.trials.record([one.items for one in new], [one.note for one in new], began))
        self._trained = {one.arch_id: one for one in self.trials.trained()}
        self._chosen += [one.arch_id for one in networks if one.arch_id not in self._chosen]

    def _train_path(self, name: str) -> None:
        """Descend from the teacher and train what the first steps decode to, to compare predictions with the truth."""
        if not self.config.path_steps:
            return
        start = self.data.train[0].items
        path = descend(self.codec, start, self.loss, self.config.path_steps, self.config.descent_lr)
        self._train(self._decoded([path]))
        trained = [self._trained.get(step.arch_id or "") for step in path]
        self._record(name, path, true_accuracy=[None if one is None else one.accuracy for one in trained])


def compression_loss(config: CompressionConfig, codec: Codec, teacher_params: int) -> CompressionLoss:
    """Return Eq. 17 with the study's targets; without a target for the parameters p₀ is 0 (Eq. 16)."""
    target = codec.scale.target(teacher_params / config.target_times) if config.target_times else 0.0
    return CompressionLoss(config.target_accuracy, target, config.accuracy_weight, config.params_weight)


def select(
    results: Sequence[TrainedArchitecture], loss: CompressionLoss, codec: Codec, most_params: float
) -> list[TrainedArchitecture]:
    """Sort trained networks, best first: those within the size by accuracy, then the others by their loss."""

    def key(one: TrainedArchitecture) -> tuple[bool, float, int]:
        fits = one.params <= most_params
        value = -one.accuracy if fits else loss.of(one.accuracy, codec.scale.target(one.params))
        return not fits, value, one.trial

    return sorted(results, key=key)
