"""A study: from a teacher through the search (`search.py`) to a trained student (`finishing.py`).

    >>> study = Study(StudyConfig(study="mine", teacher="resnet18", dataset="cifar10", K=8, steps=20, ...))
    >>> summary = study.run()      # killed? give the same command again

Everything is in the ledger the moment it is known. A study that was killed and is started again with the same
parameters goes on where it was, and on a CPU ends with the same trials.
"""

from __future__ import annotations

from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights
from esnac_lib.config.base import check_resume
from esnac_lib.config.paths import data_root_of, outputs_root, study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData, pick_device
from esnac_lib.errors import ConfigError
from esnac_lib.files import load_weights
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.samplers.history import count_observed
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.samplers.source_kernels import hold_source
from esnac_lib.space.decisions import Limits
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.finishing import Finishing
from esnac_lib.study.pace import Pace, Stage, forward_seconds
from esnac_lib.study.search import Search
from esnac_lib.study.session import LEDGER, Session
from esnac_lib.study.students import student_key
from esnac_lib.training.fingerprint import check_content
from esnac_lib.training.progress import Progress
from esnac_lib.training.ray_evaluator import check_portable, check_ray
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import Role, TrainedTeacher, UntrainedTeacher, is_trained


class Study:
    """One study in `<outputs>/<study>`.

    Making the object checks everything that can be wrong (parameters, data, device, an older study of this name)
    within seconds, raises one line, and writes nothing; `run` does the work. Teachers are trained by `teacher_recipe`
    (None: `Recipe.teacher`).
    """

    def __init__(
        self, config: StudyConfig, progress: Progress | None = None, teacher_recipe: Recipe | None = None
    ) -> None:
        self.config, self.teacher_recipe = config, teacher_recipe
        self.folder = study_dir(config)
        self.ledger_path = self.folder / LEDGER
        self.progress = progress or Progress()
        if has_ledger(self.ledger_path):
            check_resume(Ledger(self.ledger_path, read_only=True).config, config)
        self.device = pick_device(config.device)
        if config.evaluator == "ray":
            check_ray()
        self.data = StudyData(load_dataset(config.dataset, data_root_of(config)), config, self.device)
        limits = Limits(config.max_params or None, config.max_macs or None)
        recipe = teacher_recipe or Recipe.teacher(config, "search")
        self.untrained = UntrainedTeacher.of(config, self.data, recipe=recipe)
        teacher = self.untrained.architecture
        if has_ledger(self.ledger_path):
            ledger = Ledger(self.ledger_path, read_only=True)
            check_content(ledger, self.untrained.fingerprint, teacher, config.study)
        if config.evaluator == "ray":
            check_portable(teacher)
        self.space = SearchSpace(teacher, config.operator_names, config.grouping, limits, config.sampling)

    def __repr__(self) -> str:
        config, count, best = self.config, 0, ""
        if has_ledger(self.ledger_path):
            ledger = Ledger(self.ledger_path, read_only=True)
            count = count_observed(ledger)
            best = f", best f {ledger.trials()['f'].max():.4f}" if count else ""
        return (
            f"Study({config.study!r}: {config.sampler} compresses {config.teacher} on {config.dataset}, "
            f"{count} of {config.num_evaluations} evaluated{best})"
        )

    def run(self) -> dict[str, Any] | None:
        """Search, train the best, and write and return the summary; an interrupted run goes on from its ledger.

        When `max_minutes` are nearly over, or `finish` asked for it, the search ends and the best so far are trained to
        the end. Returns None if the study stopped: it was asked to (`Ledger.request_stop`), or the time was too short.
        Raises EsnacError if it cannot go on, and Interrupted in place of a KeyboardInterrupt.
        """
        return self._run(finish=False)

    def finish(self) -> dict[str, Any] | None:
        """End the search and finish with the best found so far; `run` can go on with the search later.

        Where another process or thread runs the study, it is asked to, and None is returned at once; else it is done
        here, and the summary returned. Raises ConfigError where no student is evaluated yet.
        """
        ledger = Ledger(self.ledger_path, read_only=True) if has_ledger(self.ledger_path) else None
        if ledger is not None and ledger.writer() is not None:
            ledger.request_finish()
            return None
        if ledger is None or not (ledger.trials()["state"] == "complete").any():
            raise ConfigError(f"study {self.config.study!r} has no evaluated student to finish with: run it first")
        return self._run(finish=True)

    def _run(self, finish: bool) -> dict[str, Any] | None:
        config, data, sampler = self.config, self.data, SAMPLERS[self.config.sampler].make(self.space, self.config)
        with self._session() as session:
            if finish:
                session.ledger.request_finish()
            if config.source:
                hold_source(session.ledger, config)
            session.measure(self._pace(session.ledger))
            teacher = session.train_teacher("search", config, data, self.teacher_recipe)
            ended = Search(config, data, teacher, session).run(sampler)
            return Finishing(config, data, teacher, session, ended, self.teacher_recipe).run()
        return None

    def _pace(self, ledger: Ledger) -> Pace:
        """Return how long the study takes, by what its ledger says of earlier runs."""
        means = ledger.epochs().groupby("phase")["seconds"].mean()
        measured = {str(phase): float(seconds) for phase, seconds in means.items()}
        config, folder = self.config, outputs_root() / "teachers"
        asked: dict[Role, Stage] = {"search": "search-teacher"}
        if config.final != "none":
            asked["reference"] = "reference-teacher"
        ready = [s for role, s in asked.items() if is_trained(role, config, self.data, folder, self.teacher_recipe)]
        forward = forward_seconds(self.space.teacher, config.batch_size, self.device)
        return Pace(config, self.data, forward, measured, ready=ready)

    def train_reference(self) -> TrainedTeacher | None:
        """Train the reference teacher alone, without a search; None if the study was asked to stop."""
        with self._session() as session:
            return session.train_teacher("reference", self.config, self.data, self.teacher_recipe)
        return None

    def solution(self) -> tuple[Architecture, Weights]:
        """Return the finally trained student, independent of its teacher, and its weights, or raise ConfigError."""
        if not self.ledger_path.exists():
            raise ConfigError(f"study {self.config.study!r} has not been run: there is no solution yet")
        ledger = Ledger(self.ledger_path, read_only=True)
        if (found := ledger.results("solution").get("student")) is None:
            raise ConfigError(f"study {self.config.study!r} has no solution yet: run it again, it goes on")
        trials = ledger.trials()
        [text] = trials.loc[trials["trial"].map(student_key) == found["student"], "architecture"]
        weights = load_weights(self.folder / "students" / f"{found['student']}-full.safetensors")
        return Architecture.from_json(text).with_code_of(self.space.teacher).standing_alone(), weights

    def _session(self) -> Session:
        return Session(self.config, self.folder, self.device, self.progress, self.untrained)
