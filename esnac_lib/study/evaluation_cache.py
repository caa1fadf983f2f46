"""Evaluations that the studies of one experiment share: what one has trained, another looks up.

The studies of an experiment lie in one folder, `<outputs>/<experiment>/<variant>_seed<n>`. A student's search training
draws from (study seed, "search") alone, not from the step or the trial, so that two studies which train the same
architecture from the same teacher weights, alike, with the same seed and on the same machine, get the same bits on a
CPU (on CUDA, but for rounding). Then the second takes the first one's result out of its ledger.

The same teacher and images are those of equal fingerprints and trained weights (`content_of`).
"The same architecture" is the same text in the ledger: an `arch_id` does not count which of the teacher's layers and
channels are inherited, that text names them. Dropout draws by trial; students that have it are not looked up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import EsnacError
from esnac_lib.ledger.file import PACKED, find_ledgers
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.training.callbacks import EpochResult
from esnac_lib.training.fingerprint import KIND, STARTED
from esnac_lib.training.recipes import Recipe

_MACHINE = ("device", "hardware", "threads")


@dataclass(frozen=True)
class CachedEvaluation:
    """A finished trial of another study, with its curve."""

    study: str
    trial: int
    accuracy: float | None  # of the best epoch, a fraction; None for a student that diverged: `error` says why
    best_epoch: int
    error: str | None
    seconds: float
    curve: tuple[EpochResult, ...]


class EvaluationCache:
    """The evaluations of the other studies in the folder of an experiment, as their ledgers have them.

    For the study of `config` in `folder`, where `environment` is what `describe_environment` says of where it runs now,
    and `content` is the `content_of` its ledger. A study that is in no experiment shares nothing.
    """

    def __init__(
        self, folder: Path, config: StudyConfig, environment: Mapping[str, Any], content: Mapping[str, str]
    ) -> None:
        self._folder, self._content = folder, dict(content)
        self._wanted, self._machine = training_of(config), _machine(environment)
        self._alone = "/" not in config.study or not content
        self._stamps: dict[Path, tuple[int, ...]] = {}
        self._found: dict[str, CachedEvaluation] = {}

    def find(self, architecture: str) -> CachedEvaluation | None:
        """Return the evaluation of an architecture (the text of `Architecture.to_json`); None if there is none."""
        return self._found.get(_digest(architecture))

    def refresh(self) -> None:
        """Read what the other studies have recorded since the last time."""
        if self._alone:
            return
        for path in find_ledgers(self._folder.parent, "*/ledger.sqlite"):
            stamp = _stamp(path)
            if path.parent != self._folder and stamp and stamp != self._stamps.get(path):
                self._stamps[path] = stamp
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            ledger = Ledger(path, read_only=True)
            config = StudyConfig.from_stored(ledger.config)
            environment = json.loads((path.parent / "environment.json").read_text())
            alike = content_of(ledger) == self._content and training_of(config) == self._wanted
            if not alike or _machine(environment) != self._machine:
                return
            trials, curves = ledger.trials(), dict(list(ledger.epochs("search").groupby("name")))
        except (EsnacError, OSError, ValueError):  # a study of another version, or one that is only beginning
            return
        finished = trials[trials["told_at"].notna() & trials["f"].notna()]  # not those that a machine's fault ended
        for row in finished.to_dict("records"):
            digest = _digest(row["architecture"])
            if digest in self._found or '"dropout"' in row["architecture"]:
                continue
            complete = row["state"] == "complete"
            accuracy, epoch = (row["accuracy"], int(row["best_epoch"])) if complete else (None, 0)
            error = None if complete else row["error"]
            curve = curves.get(f"trial{row['trial']:04d}")
            epochs = () if curve is None else tuple(map(_epoch, curve.to_dict("records")))
            outcome = accuracy, epoch, error, row["seconds"], epochs
            self._found[digest] = CachedEvaluation(config.study, row["trial"], *outcome)


def content_of(ledger: Ledger) -> dict[str, str]:
    """Return by what the teacher and images of a study are known; empty where it was begun before this was recorded."""
    started, teacher = ledger.results(KIND).get(STARTED), ledger.results("teacher").get("search", {})
    return started | {"trained": teacher["weights"]} if started and "weights" in teacher else {}


def training_of(config: StudyConfig) -> dict[str, Any]:
    """Return all parameters that the evaluation of an architecture depends on, the teacher's training included."""
    names = ("dataset", "validation", "search_images", "augment", "seed")
    parameters = {
        "teacher": [config.teacher, config.teacher_options, config.teacher_weights],
        "images": [config.image_channels, config.normalise],
        **{name: getattr(config, name) for name in names},
        "search": asdict(Recipe.search(config)),
        "teacher_recipe": asdict(Recipe.teacher(config, "search")),
        "evaluator": config.evaluator,  # a cluster has other machines
    }
    # only where it is not the default, so that evaluations from before there was such a parameter stay the same ones
    return parameters if config.keep == "first" else parameters | {"keep": config.keep}


def _machine(environment: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the bits of a training depend on, its parameters aside."""
    return (*(environment.get(name) for name in _MACHINE), environment.get("versions", {}).get("torch"))


def _epoch(row: Mapping[Any, Any]) -> EpochResult:
    accuracy = None if row["accuracy"] != row["accuracy"] else row["accuracy"]
    return EpochResult(row["epoch"], row["loss"], accuracy, row["seconds"])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a ledger or its write-ahead log is written to; empty if it is gone."""
    stamp: list[int] = []
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + PACKED)):
        with suppress(OSError):
            status = file.stat()
            stamp += [status.st_mtime_ns, status.st_size]
    return tuple(stamp)
