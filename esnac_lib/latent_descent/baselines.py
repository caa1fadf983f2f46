"""Train what the student is compared with, at its size, on the same images and with the same final training.

- random: the best random architecture that is no larger, by its validation accuracy after the short training;
- narrowed: the teacher with all widths scaled by one factor, from scratch;
- fitnet, pruning, n2n: the baselines of §5.3.1 (Table 2), each by its own method and then, unless that has a final
  training of its own, by ours from the weights that the method ended with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

import numpy as np
from torch import Tensor

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.initialisation import fresh_network
from esnac_lib.architecture.network import build
from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.batches import DeviceData
from esnac_lib.errors import ConfigError, TrainingError
from esnac_lib.files import load_weights, save_weights
from esnac_lib.latent_descent import fitnet
from esnac_lib.latent_descent.final import FinalStage
from esnac_lib.latent_descent.sequence import SequenceSpace
from esnac_lib.latent_descent.taylor_pruning import Pruned, prune
from esnac_lib.latent_descent.trials import TrainedArchitecture
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.ending import EARLY
from esnac_lib.study.students import student_key
from esnac_lib.study.study import Study
from esnac_lib.training.callbacks import TrainingStopped
from esnac_lib.training.checkpoints import clear_checkpoint
from esnac_lib.training.final import Finalist, FinalResult
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.progress import Progress
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher
from esnac_lib.training.trainer import train

HINT_LR = 1e-3  # of Adam
PRUNING_LR_SHARE = 0.1  # learning rate after a step of pruning, as a share of the final training's


class Baselines:
    """The baselines of one study, for its `student` and that student's validation `accuracy` after final training."""

    def __init__(
        self, stage: FinalStage, space: SequenceSpace, reference: TrainedTeacher, student: FinalResult, accuracy: float,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.stage, self.space, self.reference = stage, space, reference
        self.student, self.student_accuracy, self.progress = student, accuracy, progress
        self.config, self.data = stage.config, stage.data

    def random(self, found: Sequence[TrainedArchitecture]) -> dict[str, Any] | None:
        """Train the best random architecture of at most the student's size; None if there is none."""
        small = [one for one in found if one.params <= self.student.params]
        if not small:
            return None
        best = max(small, key=lambda one: (one.accuracy, -one.trial))
        return self._from_scratch("random", self.space.to_architecture(best.items), trial=best.trial)

    def narrowed(self, params: int) -> dict[str, Any]:
        """Train the teacher uniformly narrowed to so many parameters."""
        widths = SearchSpace(self.reference.architecture, ("shrink",))
        return self._from_scratch("narrowed", widths.apply(widths.narrow(params)))

    def _from_scratch(self, kind: str, architecture: Architecture, **more: Any) -> dict[str, Any]:
        """Train a network from scratch; one that is the student itself has been."""
        if architecture.arch_id == self.student.arch_id:
            return self._entry(self.student, architecture, **more)
        return self._final(kind, self.stage.finalist(kind, architecture), **more)

    def _final(self, name: str, finalist: Finalist, **more: Any) -> dict[str, Any]:
        self.progress.begin(f"final training: {name}")
        (result,) = self.stage.training.on_all_images([finalist])
        return self._entry(result, finalist.architecture, **more)

    def _entry(self, result: FinalResult, architecture: Architecture, **more: Any) -> dict[str, Any]:
        return self.stage.entry(result, self.reference, architecture=architecture.to_json(), **more)

    def fitnet(self) -> dict[str, Any]:
        """Train a FitNet by hints, then by distillation, from the reference teacher and on all images."""
        teacher = self.space.to_sequence(self.reference.architecture)
        wide = replace(self.space, width_step=1, max_length=2 * self.space.max_length, max_macs=0)
        architecture = wide.to_architecture(fitnet.fitnet_sequence(self.space, teacher, self.student.params))
        key = self.stage.key(f"fitnet-{self.config.hint_epochs}", architecture.arch_id)
        stored = self.stage.ledger.results("full").get(key)
        if stored is None:
            stored = asdict(self._train_fitnet(key, architecture))
            self.stage.ledger.result("full", key, stored)
        return self._entry(FinalResult(**stored), architecture)

    def _train_fitnet(self, key: str, architecture: Architecture) -> FinalResult:
        path = self.stage.folder / f"{key}-hinted.safetensors"
        if not path.exists():
            save_weights(path, self._hinted(key, architecture))
        self.progress.begin("FitNet: distillation")
        seed, epochs = self.config.seed, self.stage.recipe.epochs
        network = fitnet.SoftenedStudent(build(architecture, load_weights(path)))
        teacher, classes = self.reference.network(), self.space.num_classes
        targets = fitnet.SoftTargets(self.data.everything, teacher, classes, seed, "fitnet", epochs)
        job = TrainingJob(
            targets, self.data.test, self.stage.recipe, seed=seed, purpose="fitnet", device=self.data.device,
            checkpoint=self.stage.folder / "checkpoint-fitnet", callbacks=self.stage.watch("full"),
        )  # fmt: skip
        outcome = train([Trainee(key, network)], job)[key]
        clear_checkpoint(self.stage.folder / "checkpoint-fitnet")
        if outcome.last_accuracy is None or outcome.best_accuracy is None:
            raise TrainingError(f"the FitNet could not be trained: {outcome.error}")
        accuracies = outcome.last_accuracy, outcome.best_accuracy
        shape = architecture.num_params, architecture.macs, architecture.arch_id
        return FinalResult(key, *shape, *accuracies, True, outcome.seconds)

    def _hinted(self, key: str, architecture: Architecture) -> dict[str, Tensor]:
        """Return the weights of a fresh FitNet after its hint training."""
        self.progress.begin("FitNet: hints")
        seed, teacher = derive_seed(self.config.seed, f"final/{architecture.arch_id}"), self.reference
        channels = teacher.architecture.shapes[fitnet.middle_layer(teacher.architecture, 1)][0]
        network = fresh_network(fitnet.guided_network(architecture, channels), seed)
        recipe = Recipe(
            self.config.hint_epochs, HINT_LR, self.config.batch_size, optimizer="adam", weight_decay=0.0,
            schedule="one_cycle", loss="distillation", augment=self.config.augment,
        )  # fmt: skip
        job = TrainingJob(
            self.data.everything, None, recipe, seed=self.config.seed, purpose="hints",
            device=self.data.device, teacher=fitnet.hint_network(teacher.architecture, teacher.weights),
            checkpoint=self.stage.folder / "checkpoint-hints", callbacks=self.stage.watch("hints"),
        )  # fmt: skip
        outcome = train([Trainee(key, network)], job)[key]
        clear_checkpoint(self.stage.folder / "checkpoint-hints")
        if outcome.state != "complete":
            raise TrainingError(f"the FitNet's hint training failed: {outcome.error}")
        network.cpu().load_state_dict(outcome.last_weights)
        learned = {n: t for n, t in network.weights().items() if not n.startswith(f"{fitnet.HINT_REGRESSOR}.")}
        return fresh_network(architecture, seed).weights() | learned

    def pruning(self) -> dict[str, Any]:
        """Prune the search teacher several times, and train the best of those that reached the size, or else of all."""
        config, teacher, runs = self.config, self.stage.teacher("search"), []
        tag = f"{self.student.arch_id[:6]}-{config.pruning_filters}-{config.pruning_images}"
        for run in range(config.pruning_runs):
            key = self.stage.key(f"pruned{run}-{tag}", self.reference.architecture.arch_id)
            stored = self.stage.ledger.results("pruned").get(key)
            if stored is None:
                self.progress.begin(f"pruning {run + 1} of {config.pruning_runs}")
                pruned = self._prune(teacher, run)
                save_weights(self.stage.folder / f"{key}.safetensors", pruned.weights)
                stored = {name: getattr(pruned, name) for name in ("accuracy", "stopped", "steps")}
                stored["architecture"] = pruned.architecture.to_json()
                self.stage.ledger.result("pruned", key, stored)
            runs.append((key, stored))
        key, best = max(runs, key=lambda pair: (pair[1]["stopped"] == "size", pair[1]["accuracy"]))
        architecture, weights = Architecture.from_json(best["architecture"]), self.stage.folder / f"{key}.safetensors"
        more = {"runs": len(runs), "stopped": best["stopped"], "pruned_accuracy": best["accuracy"]}
        return self._final("pruned", Finalist(key, architecture, weights), **more)

    def _prune(self, teacher: TrainedTeacher, run: int) -> Pruned:
        config, lr = self.config, PRUNING_LR_SHARE * self.config.final_lr
        recipe = Recipe(1, lr, config.batch_size, schedule="constant", augment=config.augment)
        if config.final_optimizer == "adam":
            recipe = replace(recipe, optimizer="adam", weight_decay=0.0)
        return prune(
            teacher.architecture, teacher.weights, lambda step: self._some_images(run, step), self.data.validation,
            least_params=self.student.params, least_accuracy=self.student_accuracy, filters=config.pruning_filters,
            recipe=recipe, seed=config.seed, run=run, device=self.data.device, watch=self.stage.watch("pruning"),
        )  # fmt: skip

    def _some_images(self, run: int, step: int) -> DeviceData:
        """Return a random part of the training split, another one for every step."""
        rng, positions = make_rng(self.config.seed, "pruning-images", run, step), self.data.splits.train
        count = min(self.config.pruning_images, len(positions))
        return self.data.part(np.sort(rng.choice(positions, count, replace=False)))

    def n2n(self) -> dict[str, Any]:
        """Run N2N in a study of its own, and train the student that is nearest in size (§5.3.1)."""
        config, seconds = self.config, self.stage.session.ending.seconds
        changes = {
            "study": f"{config.study}_n2n", "sampler": "n2n", "steps": config.n2n_steps, "operators": "remove,shrink",
            "epochs": config.n2n_epochs, "final": "none", "top": config.n2n_steps * config.K, "baseline": False,
            "compare_with": "", "max_minutes": max(1e-6, seconds / 60) if isfinite(seconds) else 0.0,
        }  # fmt: skip
        asked = StudyConfig.from_dict(config.study_config.to_dict() | changes)
        study = Study(asked, self.progress, self.stage.recipe)
        summary = study.run()
        if summary is None or summary["ended"] in EARLY:
            raise TrainingStopped
        trials = Ledger(study_dir(asked) / "ledger.sqlite", read_only=True).trials()
        complete = trials[trials["state"] == "complete"]
        if complete.empty:
            raise ConfigError("no student of N2N could be trained: see the errors in its ledger's trials")
        row = complete.loc[np.log(complete["params"] / self.student.params).abs().idxmin()]
        architecture = Architecture.from_json(row["architecture"])
        key = self.stage.key(f"n2n-{config.n2n_steps}-{config.n2n_epochs}", architecture.arch_id)
        weights = study.folder / "students" / f"{student_key(int(row['trial']))}.safetensors"
        return self._final(
            "N2N", Finalist(key, architecture, weights), trial=int(row["trial"]), evaluations=len(trials)
        )
