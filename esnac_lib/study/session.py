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
from esnac_lib.files import digest, write_atomically
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.environment import describe_environment
from esnac_lib.training.callbacks import Callbacks, TrainingStopped
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
    (`Ledger.request_stop`). What was recorded is kept whatever ends it.

    Raises ConfigError where the study was started with other parameters, LedgerError where another process writes to
    the ledger or it is damaged, Interrupted in place of a KeyboardInterrupt, and StorageError for a file's OSError.
    """

    ledger: Ledger  # open for writing inside the `with` block

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
        self._deadline = math.inf

    def __enter__(self) -> Self:
        if self.config.max_minutes:
            self._deadline = time.monotonic() + 60 * self.config.max_minutes
        with ExitStack() as stack:
            stack.enter_context(_errors_in_one_line())
            self.ledger = stack.enter_context(Ledger.start(self.folder / LEDGER, self.config.to_dict()))
            check_resume(self.ledger.config, self.config)  # now that no other process can write
            self._hold_content()
            self.ledger.set_config(self.config.to_dict())
            self.ledger.reset_running()
            self.ledger.clear_stop()
            self.students.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
            self.write_json("environment.json", describe_environment(self.device))
            stack.enter_context(_until_stopped(self.progress))
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
        """Train a teacher by a recipe (None: `Recipe.teacher`), or take it from a study that did, and record it."""
        self.progress.begin(f"{role} teacher")
        folder = outputs_root() / "teachers"
        teacher = train_teacher(role, config, data, folder, self.callbacks(f"{role}-teacher"), recipe, self.begun)
        self.progress.end()
        architecture = teacher.architecture
        params, macs, text = architecture.num_params, architecture.macs, architecture.to_json()
        record = {"name": config.teacher, "params": params, "macs": macs, "accuracy": teacher.accuracy}
        record |= {"weights": digest(teacher.weights)}
        before = self.ledger.results("teacher").get(role, {}).get("weights", record["weights"])
        if before != record["weights"]:
            what = "by another recipe or on another machine, and differs: what was evaluated until now had the old one"
            self.progress.note(f"the {role} teacher was trained again, {what}")
        self.ledger.result("teacher", role, record | {"architecture": text})
        images = "validation" if role == "search" else "test"
        self.progress.note(f"{role} teacher: {images} accuracy {teacher.accuracy:.2%}, {params:,} parameters")
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
def _until_stopped(progress: Progress) -> Iterator[None]:
    try:
        yield
    except TrainingStopped:
        progress.note("stopped as asked; the same command goes on from here")
    finally:
        progress.end()
