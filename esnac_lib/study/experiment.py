"""An experiment: variants of one study, each repeated with several seeds, run one after the other.

    >>> experiment = Experiment(config)      # an ExperimentConfig; checks everything, writes nothing
    >>> experiment.run()                     # killed? the same call goes on; what is finished is not done again

Its result is the ledgers of its studies. They share the trained teachers (<outputs>/teachers) and, within the
experiment, the evaluations of equal architectures (see `evaluation_cache`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence

import yaml

from esnac_lib.config.base import check_resume
from esnac_lib.config.experiment import ExperimentConfig
from esnac_lib.config.paths import outputs_root, study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.files import write_atomically
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger, pack
from esnac_lib.study.ending import EARLY
from esnac_lib.study.session import LEDGER
from esnac_lib.study.study import Study
from esnac_lib.training.fingerprint import KIND, STARTED
from esnac_lib.training.progress import Progress, duration

_NAMES_OF_CONTENT = ("teacher", "teacher_options", "teacher_weights", "dataset", "image_channels")


class Experiment:
    """The studies of an `ExperimentConfig`; making the object checks them all as `Study` does, and writes nothing."""

    def __init__(self, config: ExperimentConfig, progress: Progress | None = None) -> None:
        self.config, self.folder = config, outputs_root() / config.study
        self.studies = config.studies()
        self.progress = progress or Progress()
        self._began = time.monotonic()
        books = [(study, ledger) for study in self.studies if (ledger := _stored(study))]
        self._started: list[tuple[StudyConfig, Mapping[str, str]]]
        self._started = [(study, parts) for study, ledger in books if (parts := ledger.results(KIND).get(STARTED))]
        if self.left or any(map(_has_own_files, self.studies)):  # also of a finished one, whose files may be edited
            self._study((self.left or self.studies)[0])

    def __repr__(self) -> str:
        done = len(self.studies) - len(self.left)
        return f"Experiment({self.config.study!r}: {len(self.studies)} studies, {done} finished)"

    @property
    def left(self) -> list[StudyConfig]:
        """The studies that are not finished."""
        return [study for study in self.studies if not is_finished(study)]

    def run(self) -> bool:
        """Run what is left; False if one was stopped, or finished early, by `max_minutes` or by who asked for it.

        `max_minutes` counts for all studies together, from when this object was made. A finished study is not touched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        return self._each(self.left, _ran_to_its_end)

    def train_references(self, studies: Sequence[StudyConfig]) -> bool:
        """No search: train the reference teachers of more studies, each into a ledger of its own, as `run` does."""
        left = [s for s in studies if (ledger := _stored(s)) is None or "reference" not in ledger.results("teacher")]
        return self._each(left, lambda study: study.train_reference() is not None)

    def pack(self) -> None:
        """Pack the ledgers of the finished studies, some 20 times smaller. Readers see no difference."""
        for study in self.studies:
            if is_finished(study) and (path := study_dir(study) / LEDGER).exists():
                pack(path)

    def _each(self, left: Sequence[StudyConfig], work: Callable[[Study], bool]) -> bool:
        """Do some work for each study; at the first that was asked to stop all stop."""
        for number, config in enumerate(left, 1):
            spent = time.monotonic() - self._began
            if self.config.max_minutes:
                remaining = max(self.config.max_minutes - spent / 60, 1e-6)
                config = StudyConfig.from_dict(config.to_dict() | {"max_minutes": remaining})
            self.progress.note(f"-- {config.study} ({number} of {len(left)}, {duration(spent)} so far)")
            if not work(self._study(config, self.progress)):
                return False
        return True

    def _study(self, config: StudyConfig, progress: Progress | None = None) -> Study:
        """Make a study. Raises ConfigError where another was started with another model or images of the same name."""
        study = Study(config, progress)
        for other, stored in self._started:
            if all(getattr(other, name) == getattr(config, name) for name in _NAMES_OF_CONTENT):
                drawn_anew = other.seed != config.seed and not config.teacher_weights
                own = {"recipe", "normalisation", "weights"} if drawn_anew else {"recipe", "normalisation"}
                study.untrained.fingerprint.check(stored, other.study, but=own)
        self._started.append((config, study.untrained.fingerprint.parts))
        return study


def _ran_to_its_end(study: Study) -> bool:
    summary = study.run()
    return summary is not None and summary["ended"] not in EARLY


def is_finished(study: StudyConfig) -> bool:
    """Whether a study came to its end with these steps."""
    try:
        summary = json.loads((study_dir(study) / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return int(summary["evaluations"]) >= study.num_evaluations


def _has_own_files(study: StudyConfig) -> bool:
    return ":" in study.teacher or study.dataset.endswith(".npz")


def _stored(study: StudyConfig) -> Ledger | None:
    """Return a study's ledger, if there is one; raises ConfigError where it is of other parameters."""
    if not has_ledger(path := study_dir(study) / LEDGER):
        return None
    ledger = Ledger(path, read_only=True)
    check_resume(ledger.config, study)
    return ledger
