"""The two trained teachers of a study, and where they are kept.

The *search teacher* is trained on the training split alone: students inherit from it and are distilled from it. The
*reference teacher* is trained on all images, and its test accuracy is the one in the tables (ESNAC §6.1). Studies that
train the same network (`fingerprint`: its graph, initial weights and images, whatever their names) alike with the same
seed share it: it lies in <outputs>/teachers, and a second study that needs it at the same time waits for the first.
"""

from __future__ import annotations

import fcntl
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
from esnac_lib.files import DIGEST, digest, load_weights, save_weights, write_atomically
from esnac_lib.objective import Measurement
from esnac_lib.seeding import derive_seed
from esnac_lib.space.filter_order import largest_first
from esnac_lib.teachers.registry import teacher
from esnac_lib.teachers.user import is_own, own_teacher
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks, EpochResult
from esnac_lib.training.checkpoints import clear_checkpoint
from esnac_lib.training.fingerprint import Fingerprint
from esnac_lib.training.job import TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import train_with_retries
from esnac_lib.training.trainer import evaluate, train

RECORD, WEIGHTS = "teacher.json", "weights.safetensors"
Role = Literal["search", "reference"]


@dataclass(frozen=True, eq=False)
class UntrainedTeacher:
    """A teacher as a study begins with it: traced once, with its initial weights or those that it comes with."""

    architecture: Architecture
    weights: dict[str, Tensor]
    fingerprint: Fingerprint  # of the study, if it is the search teacher

    @classmethod
    def of(
        cls, config: StudyConfig, data: StudyData, role: Role = "search", recipe: Recipe | None = None
    ) -> UntrainedTeacher:
        """Trace a study's teacher; a recipe is held by the fingerprint."""
        found = traced_teacher(config, data.dataset, role)
        return cls(*found, Fingerprint.of(*found, data, recipe))


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
    begun: UntrainedTeacher | None = None,
) -> TrainedTeacher:
    """Train a teacher, or load the one that is in `folder` already. begun: the untrained search teacher of the study.

    A teacher that comes with its weights is only evaluated. If shrinking shall keep filters by their norm, the search
    teacher has them in that order (`filter_order`). Callbacks receive each epoch, also those of a teacher that is
    loaded. Without a recipe it is `Recipe.teacher`.

    Raises:
        TrainingError: The training fails, or the teacher in `folder` is damaged.
        ConfigError: The user's model has changed since the study was begun.
    """
    recipe = recipe or Recipe.teacher(config, role)
    own = bool(config.teacher_weights)
    untrained = begun if begun and (own or role == "search") else UntrainedTeacher.of(config, data, role)
    if begun:  # the other teacher is the same network, drawn anew
        untrained.fingerprint.check(begun.fingerprint.parts, config.study, but=("weights", "recipe"))
    if own:
        found = _evaluated(role, untrained, data)
    else:
        found = _trained(role, config, data, folder, callbacks, recipe, untrained)
    if role == "search" and config.keep == "norm":
        return replace(found, weights=largest_first(found.architecture, found.weights))
    return found


def is_trained(role: Role, config: StudyConfig, data: StudyData, folder: Path, recipe: Recipe | None = None) -> bool:
    """Return whether `train_teacher` would find the teacher in `folder`, or has none to train."""
    if config.teacher_weights:
        return True
    fingerprint = UntrainedTeacher.of(config, data, role).fingerprint.trained_by(recipe or Recipe.teacher(config, role))
    return (folder / _name(role, config, data, fingerprint) / RECORD).exists()


def _trained(
    role: Role,
    config: StudyConfig,
    data: StudyData,
    folder: Path,
    callbacks: Callbacks,
    recipe: Recipe,
    untrained: UntrainedTeacher,
) -> TrainedTeacher:
    key, architecture = f"{role}-teacher", untrained.architecture
    path = folder / _name(role, config, data, untrained.fingerprint.trained_by(recipe))
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / RECORD).exists():
            found = _load(role, path, architecture)
            for result in found.curve:
                callbacks.on_epoch(key, result)
            return found
        images = (data.training, data.validation) if role == "search" else (data.everything, data.test)
        place: dict[str, Any] = {"device": data.device, "checkpoint": path / "checkpoint"}
        job = TrainingJob(*images, recipe, seed=config.seed, purpose=key, callbacks=callbacks, **place)
        networks = {key: partial(build, architecture, untrained.weights)}
        [(outcome, network)] = train_with_retries(networks, partial(train, job=job))
        if outcome.state != "complete" or outcome.last_accuracy is None:
            clear_checkpoint(path / "checkpoint")
            raise TrainingError(f"the {role} teacher could not be trained: {outcome.error}")
        network.load_state_dict(outcome.last_weights)
        trained = TrainedTeacher(role, architecture, network.cpu().weights(), outcome.last_accuracy, outcome.curve)
        _save(trained, path)
        clear_checkpoint(path / "checkpoint")
        return trained


def _evaluated(role: Role, untrained: UntrainedTeacher, data: StudyData) -> TrainedTeacher:
    """Return the user's own teacher with its own weights, the same in both roles."""
    architecture, weights = untrained.architecture, untrained.weights
    images = data.validation if role == "search" else data.test
    network = build(architecture, weights).to(data.device)
    return TrainedTeacher(role, architecture, weights, evaluate(network, images, device=data.device), ())


def _name(role: Role, config: StudyConfig, data: StudyData, fingerprint: Fingerprint) -> str:
    """Return the folder of a trained teacher: readable, and a hash of all that its weights and accuracy depend on."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{config.teacher}-{data.dataset.name}")
    held = config.validation if role == "search" else 0
    return f"{readable}-{role}-{fingerprint.identity(role, config.seed, held, data.augment)}"


def _save(trained: TrainedTeacher, path: Path) -> None:
    save_weights(path / WEIGHTS, trained.weights)
    record: dict[str, Any] = {"accuracy": trained.accuracy, "curve": list(map(asdict, trained.curve))}
    record |= {"architecture": trained.architecture.to_json(), "folder": path.name}  # which says what it was trained on
    write_atomically(path / RECORD, json.dumps(record | {DIGEST: digest(trained.weights, json.dumps(record))}))


def _load(role: Role, path: Path, architecture: Architecture) -> TrainedTeacher:
    """Read a trained teacher; `architecture` is the untrained one's, with the code of opaque layers."""
    try:
        record, weights = json.loads((path / RECORD).read_text()), load_weights(path / WEIGHTS, advice="")
        if record.pop(DIGEST) != digest(weights, json.dumps(record)):
            raise ValueError(f"{RECORD} and {WEIGHTS} are not as they were written")
        if record["folder"] != path.name:
            raise ValueError(f"its files are those of {record['folder']}")
        if Architecture.from_json(record["architecture"]) != architecture:
            raise ValueError("it is another network")
        check_weights(architecture, weights)
        curve = tuple(EpochResult(**result) for result in record["curve"])
        return TrainedTeacher(role, architecture, weights, float(record["accuracy"]), curve)
    except (EsnacError, AttributeError, ValueError, KeyError, TypeError) as error:
        advice = "delete that folder, and it is trained again; all else is kept"
        raise TrainingError(f"the trained teacher in {path} is damaged ({one_line(error)}): {advice}") from None
