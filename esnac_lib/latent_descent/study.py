"""An Architecture Compression study: random architectures, the codec, the descent, and what is trained at the end.

    >>> study = CompressionStudy(CompressionConfig(study="mine", teacher="conv7", dataset="fashion_mnist", ...))
    >>> study.run()      # killed? give the same command again

Everything is in the study's ledger the moment it is known.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from esnac_lib.config.base import check_resume
from esnac_lib.config.latent_descent import STAGES, CompressionConfig
from esnac_lib.config.paths import data_root_of, study_dir
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData, pick_device
from esnac_lib.errors import ConfigError
from esnac_lib.latent_descent.baselines import Baselines
from esnac_lib.latent_descent.codec import Codec
from esnac_lib.latent_descent.codec_training import CodecData, codec_identity, codec_record, train_or_load_codec
from esnac_lib.latent_descent.collection import collect, count_random
from esnac_lib.latent_descent.final import FinalStage
from esnac_lib.latent_descent.rounds import Compression, select
from esnac_lib.latent_descent.sequence import SequenceSpace
from esnac_lib.latent_descent.trials import TrainedArchitecture, Trials
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.ending import SearchEnd
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.session import LEDGER, Session
from esnac_lib.training.callbacks import TrainingStopped
from esnac_lib.training.evaluator import LocalEvaluator
from esnac_lib.training.final import FinalResult
from esnac_lib.training.fingerprint import check_content
from esnac_lib.training.progress import Progress, duration
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import UntrainedTeacher

LEAST = 8  # random architectures that a codec is trained on, as in the config


class CompressionStudy:
    """One study in `<outputs>/<study>`; making it checks all that can be wrong within seconds, and writes nothing."""

    def __init__(self, config: CompressionConfig, progress: Progress | None = None) -> None:
        self.config, self.shared = config, config.study_config
        self.folder = study_dir(self.shared)
        self.ledger_path = self.folder / LEDGER
        self.progress = progress or Progress()
        if has_ledger(self.ledger_path):
            check_resume(Ledger(self.ledger_path, read_only=True).config, config)
        self.device = pick_device(config.device)
        dataset = load_dataset(config.dataset, data_root_of(self.shared))
        self.data = StudyData(dataset, self.shared, self.device)
        self.untrained = UntrainedTeacher.of(self.shared, self.data)
        self.teacher = self.untrained.architecture
        if has_ledger(self.ledger_path):
            ledger = Ledger(self.ledger_path, read_only=True)
            check_content(ledger, self.untrained.fingerprint, self.teacher, config.study)
        options = {"max_length": config.max_length, "width_step": config.width_step}
        space = SequenceSpace.around(self.teacher, enforced=config.assumptions == "enforced", **options)
        self.space = replace(space, max_macs=config.max_macs)

    def run(self) -> bool:
        """Go through the stages as far as `stop_after` says; a run that was interrupted goes on from its ledger.

        Where `finish` asks for it, or once there are decoded networks and `max_minutes` are nearly over, what is left
        before the final training is left out. Returns False if the study stopped: it was asked to
        (`Ledger.request_stop`), or the time was too short. Raises an EsnacError where it cannot go on, and Interrupted
        in place of a KeyboardInterrupt.
        """
        return self._run(finish=False)

    def finish(self) -> bool:
        """Finish with the best that can be found from the architectures trained so far; `run` can go on later.

        Where another process or thread runs the study, it is asked to, and False is returned at once. Raises
        ConfigError where too few architectures are trained.
        """
        ledger = Ledger(self.ledger_path, read_only=True) if has_ledger(self.ledger_path) else None
        if ledger is not None and ledger.writer() is not None:
            ledger.request_finish()
            return False
        if ledger is None or count_random(ledger) < LEAST:
            few = f"study {self.config.study!r} has fewer than {LEAST} random architectures"
            raise ConfigError(f"{few}: too few to finish with, run it first")
        return self._run(finish=True)

    def _run(self, finish: bool) -> bool:
        with Session(self.config, self.folder, self.device, self.progress, self.untrained) as session:
            if finish:
                session.ledger.request_finish()
            self._stages(session)
            return True
        return False

    def _stages(self, session: Session) -> None:
        last = STAGES.index(self.config.stop_after)
        trials = self._trials(session)
        ended = self._collect(session, trials)
        if last < STAGES.index("codec"):
            return
        found, surrogate = self._codec(session, trials)
        if last < STAGES.index("compression"):
            return
        self.progress.begin("decoded architectures")
        session.ending.reserve = partial(self._seconds_of_final, session.ledger, self.config.top)
        compression = Compression(self.config, trials, surrogate, found, self.progress.note, session.ending)
        results = compression.run()
        ended = compression.ended or ended
        if ended:
            self.progress.note("the search ends early: final training of the best decoded so far")
        if last < STAGES.index("final"):
            return
        stage = FinalStage(self.config, self.data, session)
        student, accuracy = self._student(stage, compression, surrogate, results, ended)
        if last >= STAGES.index("baselines"):
            self._baselines(stage, found, student, accuracy)

    def _trials(self, session: Session) -> Trials:
        config, callbacks = self.config, session.callbacks("search")
        recipe = Recipe(config.epochs, config.search_lr, config.batch_size, optimizer="adam", weight_decay=0.0)
        recipe = replace(recipe, schedule=config.search_schedule, augment=config.search_augment)
        evaluator = LocalEvaluator(None, self.data, recipe, config.seed, session.students, callbacks)
        return Trials(session.ledger, evaluator, self.space, self.teacher, config.initialisations)

    def _seconds_of_final(self, ledger: Ledger, chosen: int) -> float:
        """Return the seconds that final training takes, of `chosen` on the training split and of one on all images."""
        config, sizes = self.config, self.data.splits
        found = ledger.trials().dropna(subset="told_at")
        image = found["seconds"].mean() / (config.initialisations * config.epochs * len(sizes.search))
        everything = len(self.data.dataset.train_labels)
        networks = 1 + (chosen > 0 and "reference" not in ledger.results("teacher"))
        return float(image * config.final_epochs * (chosen * len(sizes.train) + networks * everything))

    def _collect(self, session: Session, trials: Trials) -> SearchEnd | None:
        """Train the random architectures; return "asked" where somebody asked to finish with those that there are."""
        config, began, ending = self.config, time.monotonic(), session.ending
        ending.has_result, ending.searching = count_random(session.ledger) >= LEAST, True

        def note(done: int) -> None:
            ending.has_result = done >= LEAST
            if ending.early():
                raise TrainingStopped
            session.check_stop()
            seconds = time.monotonic() - began
            self.progress.note(f"{done} of {config.architectures} random architectures trained, {duration(seconds)}")
            self.progress.begin("random architectures")

        self.progress.begin("the teacher and random architectures")
        try:
            collect(trials, config.architectures, config.around, config.K, config.seed, note)
        except TrainingStopped:
            if ending.early() != "asked":
                raise
            session.ledger.reset_running()
            return "asked"
        finally:
            ending.searching = False
        return None

    def _codec(self, session: Session, trials: Trials) -> tuple[CodecData, Codec]:
        config, labelled = self.config, trials.trained()
        (teacher,) = [one for one in labelled if one.source == "teacher"]
        random = [one for one in labelled if one.source in ("random", "around")]
        found = CodecData.of(config, self.space, teacher, random)
        decoded_space = replace(self.space, max_macs=max(config.max_macs, self.teacher.macs) if config.max_macs else 0)
        surrogate = train_or_load_codec(config, decoded_space, found, session)
        record = {"identity": codec_identity(config, found)} | codec_record(surrogate, found)
        session.ledger.result("codec", "trained", record)
        return found, surrogate

    def _student(
        self, stage: FinalStage, compression: Compression, surrogate: Codec, results: Sequence[TrainedArchitecture],
        ended: SearchEnd | None,
    ) -> tuple[FinalResult, float]:  # fmt: skip
        """Return the student: of the best found, that of highest validation accuracy after final training."""
        space, reference = replace(self.space, max_macs=0), stage.teacher("reference")
        most = self.teacher.num_params / (self.config.target_times or 1.0)
        fits = stage.session.ending.seconds >= self._seconds_of_final(stage.ledger, self.config.top)
        best = select(results, compression.loss, surrogate, most)[: self.config.top if fits else 1]
        if not best:
            raise ConfigError("no decoded architecture could be trained: see the errors in the ledger's trials")
        self.progress.begin(f"final training of {len(best)}")
        finalists = [stage.finalist("student", space.to_architecture(one.items)) for one in best]
        validated = stage.training.on_training_split(finalists)
        chosen = max(validated, key=lambda result: (result.params <= most, result.accuracy))
        self.progress.begin("final training of the student on all images")
        (finalist,) = [finalist for finalist in finalists if finalist.key == chosen.key]
        (student,) = stage.training.on_all_images([finalist])
        (trial,) = [one.trial for one in best if one.arch_id == student.arch_id]
        more = {"trial": trial, "validation_accuracy": chosen.accuracy, "architecture": finalist.architecture.to_json()}
        more |= {"ended": ended} if ended else {}
        stage.ledger.result("compressed", "student", stage.entry(student, reference, **more))
        self._summarise(stage.session)
        return student, chosen.accuracy

    def _baselines(self, stage: FinalStage, found: CodecData, student: FinalResult, accuracy: float) -> None:
        space = replace(self.space, max_macs=0)
        baselines = Baselines(stage, space, stage.teacher("reference"), student, accuracy, self.progress)
        work: dict[str, Callable[[], dict[str, Any] | None]] = {
            "random": lambda: baselines.random([*found.train[1:], *found.held_out]),
            "narrowed": lambda: baselines.narrowed(student.params),
            "fitnet": baselines.fitnet,
            "pruning": baselines.pruning,
            "n2n": baselines.n2n,
        }
        ending = stage.session.ending
        ending.reserve = partial(self._seconds_of_final, stage.ledger, 0)
        for name in self.config.baseline_names:
            if ending.early():
                left = self.config.baseline_names[self.config.baseline_names.index(name) :]
                self.progress.note(f"finished early, without {', '.join(left)}: the same command goes on with them")
                return
            stage.ledger.result("compared", name, work[name]() or {})
            self._summarise(stage.session)
        for times in self.config.width_times:
            stage.ledger.result("width", f"{times:g}", baselines.narrowed(round(self.teacher.num_params / times)))
        self._summarise(stage.session)

    def _summarise(self, session: Session) -> None:
        summary = summary_of(session.ledger, self.config)
        session.write_json("summary.json", summary | {"environment": describe_environment(self.device)})


def summary_of(ledger: Ledger, config: CompressionConfig) -> dict[str, Any]:
    """Return the study in short, from its ledger; what is not known yet is None."""
    trials, reference = ledger.trials(), ledger.results("teacher").get("reference")
    finished = trials[trials["told_at"].notna()]
    sources = [json.loads(text)["source"] for text in finished["decisions"]]
    quality = ledger.results("codec").get("trained", {}).get("held_out", {})
    summary: dict[str, Any] = {
        **{name: getattr(config, name) for name in ("study", "dataset", "seed")},
        "teacher": reference and {name: reference[name] for name in ("name", "params", "macs", "accuracy")},
        "student": _entry(ledger.results("compressed").get("student")),
        "architectures_trained": len(finished),
        "random_architectures": sum(source in ("random", "around") for source in sources),
        "failed": int((finished["state"] == "failed").sum()),
        **{name: quality.get(name) for name in ("reconstruction", "accuracy_regressor", "params_regressor")},
        "seconds": {"architectures": float(finished["seconds"].sum())},
    }
    compared = ledger.results("compared")
    summary |= {name: _entry(compared[name]) for name in config.baseline_names if name in compared}
    return summary | {"widths": {times: _entry(entry) for times, entry in ledger.results("width").items()}}


def _entry(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return an entry without its architecture; None where there is none."""
    return {name: value for name, value in found.items() if name != "architecture"} if found else None
