"""The two trained teachers of a study, and where they are kept.

The *search teacher* is trained on the training split alone: students inherit from it and are distilled from it. The
*reference teacher* is trained on all images, and its test accuracy is the one in the tables (ESNAC §6.1). Studies that
ask for the same teacher, trained alike with the same seed, share it: it lies in <outputs>/teachers, and a second
study that needs it at the same time waits for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build, check_weights
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import Dataset
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import EsnacError, TrainingError, one_line
from esnac_lib.files import load_weights, save_weights, write_atomically
from esnac_lib.objective import Measurement
from esnac_lib.seeding import derive_seed
from esnac_lib.space.filter_order import largest_first
from esnac_lib.teachers.registry import teacher
from esnac_lib.teachers.user import is_own, own_teacher
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks, EpochResult
from esnac_lib.training.checkpoints import clear_checkpoint
from esnac_lib.training.job import TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import train_with_retries
from esnac_lib.training.trainer import evaluate, train

WEIGHTS = "weights.safetensors"
Role = Literal["search", "reference"]


@dataclass(frozen=True, eq=False)
class TrainedTeacher:
    """A teacher with its weights."""

    role: Role
    architecture: Architecture
    weights: dict[str, Tensor]
    accuracy: float  # after the last epoch, on the validation images (search) or the test images (reference)
    curve: tuple[EpochResult, ...]

    def __repr__(self) -> str:
        return f"TrainedTeacher({self.role}, accuracy {self.accuracy:.2%}: {self.architecture!r})"

    @property
    def measurement(self) -> Measurement:
        """What an objective compares students with."""
        return Measurement(self.accuracy, self.architecture.num_params, self.architecture.macs)

    def network(self) -> Network:
        """Return a new network with these weights."""
        return build(self.architecture, self.weights)


def traced_teacher(
    config: StudyConfig, dataset: Dataset, role: Role = "search"
) -> tuple[Architecture, dict[str, Tensor]]:
    """Return a study's untrained teacher: its architecture and its initial weights, the same for the same seed.

    A teacher of the user's own may come with weights, which are then these.
    """
    seed = derive_seed(config.seed, f"{role}-teacher-weights")
    channels, size = config.image_channels or dataset.in_channels, dataset.image_size
    shape = dataset.num_classes, channels, size
    module = own_teacher(config, dataset, seed) if is_own(config) else teacher(config.teacher, *shape, seed=seed)
    return trace(module, torch.zeros(1, channels, size, size))


def train_teacher(
    role: Role,
    config: StudyConfig,
    data: StudyData,
    folder: Path,
    callbacks: Callbacks = NO_CALLBACKS,
    recipe: Recipe | None = None,
) -> TrainedTeacher:
    """Train a teacher, or load the one that is in `folder` already.

    A teacher that comes with its weights is only evaluated. If shrinking shall keep filters by their norm, the search
    teacher has them in that order (`filter_order`). Callbacks receive each epoch, also those of a teacher that is
    loaded. Without a recipe it is `Recipe.teacher`. Raises TrainingError where the training fails.
    """
    recipe = recipe or Recipe.teacher(config, role)
    own = config.teacher_weights
    found = _evaluated(role, config, data) if own else _trained(role, config, data, folder, callbacks, recipe)
    if role == "search" and config.keep == "norm":
        return replace(found, weights=largest_first(found.architecture, found.weights))
    return found


def _trained(
    role: Role, config: StudyConfig, data: StudyData, folder: Path, callbacks: Callbacks, recipe: Recipe
) -> TrainedTeacher:
    key = f"{role}-teacher"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{config.teacher}-{data.dataset.name}")
    path = folder / f"{readable}-{role}-{_identity(role, config, data, recipe)}"
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / "teacher.json").exists():
            found = _load(role, path)
            if any(layer.kind == "opaque" for layer in found.architecture.layers):
                own = traced_teacher(config, data.dataset, role)[0]
                found = replace(found, architecture=found.architecture.with_code_of(own))
            for result in found.curve:
                callbacks.on_epoch(key, result)
            return found
        architecture, weights = traced_teacher(config, data.dataset, role)
        images = (data.training, data.validation) if role == "search" else (data.everything, data.test)
        place: dict[str, Any] = {"device": data.device, "checkpoint": path / "checkpoint"}
        job = TrainingJob(*images, recipe, seed=config.seed, purpose=key, callbacks=callbacks, **place)
        networks = {key: partial(build, architecture, weights)}
        [(outcome, network)] = train_with_retries(networks, partial(train, job=job))
        if outcome.state != "complete" or outcome.last_accuracy is None:
            clear_checkpoint(path / "checkpoint")
            raise TrainingError(f"the {role} teacher could not be trained: {outcome.error}")
        network.load_state_dict(outcome.last_weights)
        trained = TrainedTeacher(role, architecture, network.cpu().weights(), outcome.last_accuracy, outcome.curve)
        _save(trained, path)
        clear_checkpoint(path / "checkpoint")
        return trained


def _evaluated(role: Role, config: StudyConfig, data: StudyData) -> TrainedTeacher:
    """Return the user's own teacher with its own weights, the same in both roles."""
    architecture, weights = traced_teacher(config, data.dataset, role)
    images = data.validation if role == "search" else data.test
    network = build(architecture, weights).to(data.device)
    return TrainedTeacher(role, architecture, weights, evaluate(network, images, device=data.device), ())


def _identity(role: Role, config: StudyConfig, data: StudyData, recipe: Recipe) -> str:
    """Return a hash of all that the trained weights depend on."""
    labels = hashlib.blake2b(data.dataset.train_labels.tobytes(), digest_size=8).hexdigest()
    held = config.validation if role == "search" else 0
    settings = {name: value for name, value in asdict(recipe).items() if name != "label_smoothing" or value}
    parts = [role, config.teacher, config.dataset, labels, config.seed, held, settings]
    defaults = (0, "", "")
    if (others := (config.image_channels, config.normalise, config.teacher_options)) != defaults:
        parts += others  # only then, so that teachers trained before there were such parameters keep their names
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=4).hexdigest()


def _save(trained: TrainedTeacher, path: Path) -> None:
    save_weights(path / WEIGHTS, trained.weights)
    record = {"accuracy": trained.accuracy, "curve": list(map(asdict, trained.curve))}
    record |= {"architecture": trained.architecture.to_json()}
    write_atomically(path / "teacher.json", json.dumps(record))


def _load(role: Role, path: Path) -> TrainedTeacher:
    try:
        record = json.loads((path / "teacher.json").read_text())
        architecture, weights = Architecture.from_json(record["architecture"]), load_weights(path / WEIGHTS)
        check_weights(architecture, weights)
        curve = tuple(EpochResult(**result) for result in record["curve"])
        return TrainedTeacher(role, architecture, weights, float(record["accuracy"]), curve)
    except (EsnacError, ValueError, KeyError, TypeError) as error:
        advice = "delete that folder, and it is trained again"
        raise TrainingError(f"the trained teacher in {path} is damaged ({one_line(error)}): {advice}") from None
