"""One run of a study: its ledger open for writing, its progress, and when it has to stop.

    with Session(config, folder, device, progress) as session:
        ...                             # everything is recorded in session.ledger the moment it is known
        return result
    return None                         # stopped, as asked or by the time limit: nothing raises

What ends a run early becomes one line, and the same command goes on from there. Both papers' studies run in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from safetensors import SafetensorError

from esnac_lib.config.base import check_resume
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.noise import commonest_share, is_near_chance, near_chance
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import Interrupted, StorageError, one_line
from esnac_lib.files import digest, write_atomically
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.ending import Ending
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.pace import Pace, Stage
from esnac_lib.training.callbacks import Callbacks, EpochResult, TrainingStopped
from esnac_lib.training.final import FinalTraining
from esnac_lib.training.fingerprint import KIND, RESUMED, STARTED, check_content
from esnac_lib.training.progress import Progress
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import Role, TrainedTeacher, UntrainedTeacher, train_teacher

LEDGER = "ledger.sqlite"


class Session:
    """A context manager that is the one writer of a study's folder.

    Entering starts the ledger or checks that the stored study may go on with this config, and writes config.yaml and
    environment.json. A study stops early, without an error, when `max_minutes` are over or somebody asked for it
    (`Ledger.request_stop`); before that its search ends, so that it can be finished (`ending`). What was recorded is
    kept whatever ends it.

    Raises ConfigError where the study was started with other parameters, LedgerError where another process writes to
    the ledger or it is damaged, Interrupted in place of a KeyboardInterrupt, and StorageError for a file's OSError.
    """

    ledger: Ledger  # open for writing inside the `with` block
    ending: Ending

    def __init__(
        self,
        config: StudyConfig | CompressionConfig,
        folder: Path,
        device: str,
        progress: Progress | None = None,
        begun: UntrainedTeacher | None = None,  # with the study's fingerprint; None trains no teacher
    ) -> None:
        self.config, self.folder, self.device, self.begun = config, folder, device, begun
        self.students = folder / "students"  # weights and checkpoints
        self.progress = progress or Progress()
        self._pace: Pace | None = None
        self._told = -math.inf  # when the ledger was told the time left

    def __enter__(self) -> Self:
        began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(_errors_in_one_line())
            self.ledger = stack.enter_context(Ledger.start(self.folder / LEDGER, self.config.to_dict()))
            check_resume(self.ledger.config, self.config)  # now that no other process can write
            self._hold_content()
            self.ledger.set_config(self.config.to_dict())
            self.ledger.reset_running()
            self.ledger.clear_requests()
            self.ending = Ending(self.ledger, self.config.max_minutes, began)
            self.students.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
            self.write_json("environment.json", describe_environment(self.device))
            stack.enter_context(_until_stopped(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, at)

    def _hold_content(self) -> None:
        """Record what the study begins with, or check that it is what the study began with."""
        if (begun := self.begun) is None:
            return
        if check_content(self.ledger, begun.fingerprint, begun.architecture, self.config.study):
            return
        older = len(self.ledger.trials()) > 0 or bool(self.ledger.results("teacher"))
        self.ledger.result(KIND, RESUMED if older else STARTED, begun.fingerprint.parts)
        if older:
            what = "of its images and weights nothing is recorded that could be compared"
            self.progress.note(f"this study was begun by an earlier version: {what}; from now on they must stay")

    def check_stop(self) -> None:
        """Raise `TrainingStopped`, which ends the `with` block, if the study has to stop."""
        if self.ending.is_over():
            raise TrainingStopped

    def measure(self, pace: Pace) -> None:
        """From now on, say how long the study takes, and keep the time for what follows its search."""
        self._pace, self.ending.reserve, self.progress.left = pace, pace.ending, self.seconds_left

    def seconds_left(self) -> float | None:
        """Return an estimate for all that is left; None where there is none."""
        return None if self._pace is None else self._pace.left(max(0.0, self.ending.seconds))

    def enter(self, stage: Stage, label: str) -> None:
        """Begin a stage of the study; `label` is what the progress calls it."""
        if self._pace is not None:
            self._pace.enter(stage)
        self.progress.begin(label)
        self._tell_left()

    def step(self, observed: int, pending: int, trial_seconds: float) -> None:
        """Begin a step of the search, as `Pace.step` asks."""
        if self._pace is not None:
            self._pace.step(observed, pending, trial_seconds)
        self._tell_left()

    def has_time_for(self, *stages: Stage) -> bool:
        """Return whether some stages can be done within the limit."""
        return self._pace is None or self.ending.seconds >= self._pace.of(*stages)

    def _tell_left(self) -> None:
        """Tell those who watch, at most once a second."""
        if (left := self.seconds_left()) is not None and time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self.ledger.set_left(left)

    def callbacks(self, phase: str) -> Callbacks:
        """Return what records the epochs of a phase of training in the ledger, and shows its batches."""
        return Callbacks(
            on_epoch=partial(self._on_epoch, phase), on_batch=self._on_batch, should_stop=self.ending.must_stop
        )

    def _on_epoch(self, phase: str, key: str, result: EpochResult) -> None:
        self.ledger.epoch(phase, key, result.epoch, result.loss, result.accuracy, result.seconds)
        if self._pace is not None:
            self._pace.epoch(phase, result.seconds)
            self._tell_left()

    def _on_batch(self, done: int, total: int) -> None:
        if self._pace is not None:
            self._pace.batch(done, total)
        self.progress.batch(done, total)

    def train_teacher(
        self, role: Role, config: StudyConfig, data: StudyData, recipe: Recipe | None = None
    ) -> TrainedTeacher:
        """Train a teacher by a recipe (None: `Recipe.teacher`), or take it from a study that did, and record it."""
        self.enter("search-teacher" if role == "search" else "reference-teacher", f"{role} teacher")
        folder = outputs_root() / "teachers"
        teacher = train_teacher(role, config, data, folder, self.callbacks(f"{role}-teacher"), recipe, self.begun)
        self.progress.end()
        architecture = teacher.architecture
        params, macs, text = architecture.num_params, architecture.macs, architecture.to_json()
        labels = data.dataset.train_labels[data.splits.validation] if role == "search" else data.dataset.test_labels
        record = {"name": config.teacher, "params": params, "macs": macs, "accuracy": teacher.accuracy}
        record |= {"images": len(labels), "chance": (chance := commonest_share(labels))}
        record |= {"weights": digest(teacher.weights)}
        before = self.ledger.results("teacher").get(role, {}).get("weights", record["weights"])
        if before != record["weights"]:
            what = "by another recipe or on another machine, and differs: what was evaluated until now had the old one"
            self.progress.note(f"the {role} teacher was trained again, {what}")
        self.ledger.result("teacher", role, record | {"architecture": text})
        images = "validation" if role == "search" else "test"
        self.progress.note(f"{role} teacher: {images} accuracy {teacher.accuracy:.2%}, {params:,} parameters")
        if is_near_chance(teacher.accuracy, chance, len(labels)):
            self.progress.note(f"warning: {near_chance(f'the {role} teacher', teacher.accuracy, chance)}")
        return teacher

    def final_training(self, data: StudyData, recipe: Recipe) -> FinalTraining:
        """Return a final training that takes finished results from the ledger, and records new ones there."""
        return FinalTraining(data, recipe, self.config.seed, self.students, self.ledger, self.callbacks)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file into the study's folder."""
        write_atomically(self.folder / name, json.dumps(value, indent=1) + "\n")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("all that was recorded is kept; the same command goes on from here") from None
    except (OSError, SafetensorError) as error:
        what = f"the study cannot use a file in {outputs_root()} ({one_line(error, kind=False)})"
        advice = "see that the disk has room and the folder can be written; the same command goes on from there"
        raise StorageError(f"{what}: {advice}") from None


@contextmanager
def _until_stopped(session: Session) -> Iterator[None]:
    try:
        yield
    except TrainingStopped:
        session.progress.note(session.ending.farewell())
    finally:
        session.progress.end()
        session.progress.left = lambda: None
