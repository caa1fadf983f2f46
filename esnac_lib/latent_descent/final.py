"""Train the teacher, the student and the baselines to the end by one recipe, and record their accuracies (§5.2.1).

A test accuracy is that after the last epoch of a training on all images, and no choice depends on it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.initialisation import fresh_network
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.files import save_weights
from esnac_lib.objective import PAPERS, compression_ratio
from esnac_lib.seeding import derive_seed
from esnac_lib.study.session import Session
from esnac_lib.training.final import Finalist, FinalResult
from esnac_lib.training.recipes import CLIP_NORM, Recipe
from esnac_lib.training.teacher import Role, TrainedTeacher


def final_recipe(config: CompressionConfig) -> Recipe:
    """Return the recipe of every final training, the teacher's included."""
    return replace(
        Recipe.teacher(config.study_config, "search"),
        optimizer=config.final_optimizer,
        weight_decay=5e-4 if config.final_optimizer == "sgd" else 0.0,
        schedule=config.schedule,
        clip_norm=CLIP_NORM if config.schedule == "one_cycle" else float("inf"),
    )


class FinalStage:
    """Trains networks to the end, and records them in the session's ledger."""

    def __init__(self, config: CompressionConfig, data: StudyData, session: Session) -> None:
        self.config, self.data, self.session = config, data, session
        self.ledger, self.folder, self.watch = session.ledger, session.students, session.callbacks
        self.recipe = final_recipe(config)
        self.training = session.final_training(data, self.recipe)
        parts = json.dumps([asdict(self.recipe), config.seed], sort_keys=True)
        self._tag = hashlib.blake2b(parts.encode(), digest_size=3).hexdigest()

    def key(self, kind: str, arch_id: str) -> str:
        """Return the name of a network in final training, which depends on recipe and seed."""
        return f"{kind}-{arch_id[:8]}-{self._tag}"

    def teacher(self, role: Role) -> TrainedTeacher:
        """Return the search teacher (training split, validation) or the reference teacher (all images, test)."""
        return self.session.train_teacher(role, self.config.study_config, self.data, self.recipe)

    def finalist(self, kind: str, architecture: Architecture) -> Finalist:
        """Return a network with fresh weights, initialised like the teacher."""
        key = self.key(kind, architecture.arch_id)
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            seed = derive_seed(self.config.seed, f"final/{architecture.arch_id}")
            save_weights(path, fresh_network(architecture, seed).weights())
        return Finalist(key, architecture, path)

    def entry(self, result: FinalResult, teacher: TrainedTeacher, **more: Any) -> dict[str, Any]:
        """Return what the summary says about a network after final training, relative to the reference teacher."""
        params = teacher.architecture.num_params
        return {
            "student": result.key,
            "arch_id": result.arch_id,
            "params": result.params,
            "macs": result.macs,
            "ratio": compression_ratio(result.params, params),
            "times": params / result.params,
            "accuracy": result.accuracy,
            "delta_accuracy": result.accuracy - teacher.accuracy,
            "f": PAPERS.value(result.measurement(), teacher.measurement),
            "seconds": result.seconds,
            **more,
        }
