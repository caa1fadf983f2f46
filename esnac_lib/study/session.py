"""One run of a study: its ledger open for writing, its progress, and when it has to stop.

    with Session(config, folder, device, progress) as session:
        ...                             # everything is recorded in session.ledger the moment it is known
        return result
    return None                         # stopped as asked: nothing raises

What ends a run early becomes one line, and the same command goes on from there. Both papers' studies run in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from safetensors import SafetensorError

from esnac_lib.config.base import check_resume
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import Interrupted, StorageError, one_line
from esnac_lib.files import write_atomically
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.environment import describe_environment
from esnac_lib.training.callbacks import Callbacks, TrainingStopped
from esnac_lib.training.final import FinalTraining
from esnac_lib.training.progress import Progress
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import Role, TrainedTeacher, train_teacher

LEDGER = "ledger.sqlite"


class Session:
    """A context manager that is the one writer of a study's folder.

    Entering starts the ledger or checks that the stored study may go on with this config, and writes config.yaml and
    environment.json. A study stops early, without an error, when `max_minutes` are over or somebody asked for it
    (`Ledger.request_stop`).

    Attributes:
        ledger: Open for writing inside the `with` block.
        students: The folder of weights and checkpoints.

    Raises:
        ConfigError: The study was started with other parameters.
        LedgerError: Another process writes to the ledger, or it is damaged.
        Interrupted: In place of a KeyboardInterrupt; what was recorded is kept.
        StorageError: A file could not be written or read; what was recorded is kept.
    """

    ledger: Ledger

    def __init__(
        self, config: StudyConfig | CompressionConfig, folder: Path, device: str, progress: Progress | None = None
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.students = folder / "students"
        self.progress = progress or Progress()
        self._deadline = math.inf

    def __enter__(self) -> Self:
        if self.config.max_minutes:
            self._deadline = time.monotonic() + 60 * self.config.max_minutes
        with ExitStack() as stack:
            stack.enter_context(_errors_in_one_line())
            self.ledger = stack.enter_context(Ledger.start(self.folder / LEDGER, self.config.to_dict()))
            check_resume(self.ledger.config, self.config)  # now that no other process can write
            self.ledger.set_config(self.config.to_dict())
            self.ledger.reset_running()
            self.ledger.clear_stop()
            self._describe()
            stack.enter_context(_until_stopped(self.progress))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, at)

    def should_stop(self) -> bool:
        """Return whether the time is over or somebody asked to stop."""
        return time.monotonic() > self._deadline or self.ledger.stop_requested()

    def check_stop(self) -> None:
        """Raise `TrainingStopped`, which ends the `with` block, if the study has to stop."""
        if self.should_stop():
            raise TrainingStopped

    def callbacks(self, phase: str) -> Callbacks:
        """Return what records the epochs of a phase of training in the ledger, and shows its batches."""
        return Callbacks(
            on_epoch=lambda key, r: self.ledger.epoch(phase, key, r.epoch, r.loss, r.accuracy, r.seconds),
            on_batch=self.progress.batch,
            should_stop=self.should_stop,
        )

    def train_teacher(
        self, role: Role, config: StudyConfig, data: StudyData, recipe: Recipe | None = None
    ) -> TrainedTeacher:
        """Train a teacher, or take it from a study that trained it alike, and record it.

        Args:
            role: "search" or "reference".
            config: What defines the teacher and its images.
            data: Its images.
            recipe: How it is trained; None stands for `Recipe.teacher`.
        """
        self.progress.begin(f"{role} teacher")
        folder = outputs_root() / "teachers"
        teacher = train_teacher(role, config, data, folder, self.callbacks(f"{role}-teacher"), recipe)
        self.progress.end()
        architecture = teacher.architecture
        record = {
            "name": config.teacher,
            "params": architecture.num_params,
            "macs": architecture.macs,
            "accuracy": teacher.accuracy,
            "architecture": architecture.to_json(),
        }
        self.ledger.result("teacher", role, record)
        images = "validation" if role == "search" else "test"
        self.progress.note(
            f"{role} teacher: {images} accuracy {teacher.accuracy:.2%}, {architecture.num_params:,} parameters"
        )
        return teacher

    def final_training(self, data: StudyData, recipe: Recipe) -> FinalTraining:
        """Return a final training that takes finished results from the ledger, and records new ones there."""
        return FinalTraining(data, recipe, self.config.seed, self.students, self.ledger, self.callbacks)

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file into the study's folder."""
        write_atomically(self.folder / name, json.dumps(value, indent=1) + "\n")

    def _describe(self) -> None:
        self.students.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        self.write_json("environment.json", describe_environment(self.device))


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("all that was recorded is kept; the same command goes on from here") from None
    except (OSError, SafetensorError) as error:
        advice = "see that the disk has room and the folder can be written; the same command goes on from there"
        raise StorageError(
            f"the study cannot use a file in {outputs_root()} ({one_line(error, kind=False)}): {advice}"
        ) from None


@contextmanager
def _until_stopped(progress: Progress) -> Iterator[None]:
    try:
        yield
    except TrainingStopped:
        progress.note("stopped as asked; the same command goes on from here")
    finally:
        progress.end()
