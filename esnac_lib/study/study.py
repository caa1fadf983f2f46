"""A study: Algorithm 1 as one loop of ask, record, evaluate and tell, from a teacher to a trained student.

    >>> study = Study(StudyConfig(study="mine", teacher="resnet18", dataset="cifar10", K=8, steps=20, ...))
    >>> summary = study.run()      # killed? give the same command again

Everything is in the ledger the moment it is known. A study that was killed and is started again with the same
parameters goes on where it was, and on a CPU ends with the same trials.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights
from esnac_lib.config.paths import data_root_of, outputs_root, study_dir
from esnac_lib.config.study import StudyConfig, check_resume
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData, pick_device
from esnac_lib.errors import ConfigError, Interrupted, StorageError, one_line
from esnac_lib.files import load_weights, write_atomically
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import compression_ratio, objective
from esnac_lib.samplers.base import Sampler
from esnac_lib.samplers.history import count_observed, observations_of, row_of
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.space.decisions import Limits
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.evaluation_cache import EvaluationCache
from esnac_lib.training.callbacks import Callbacks, TrainingStopped
from esnac_lib.training.evaluator import Evaluator, LocalEvaluator, Task
from esnac_lib.training.final import Finalist, FinalResult, FinalTraining
from esnac_lib.training.progress import Progress, duration
from esnac_lib.training.ray_evaluator import Cluster, RayEvaluator, check_portable, check_ray
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import Role, TrainedTeacher, traced_teacher, train_teacher

Result = TypeVar("Result")


def student_key(trial: int) -> str:
    """The name of a trial's student in files and curves."""
    return f"trial{trial:04d}"


class Study:
    """One study in `<outputs>/<study>`.

    Making the object checks everything that can be wrong (parameters, data, device, an older study of this name)
    within seconds, raises one line, and writes nothing; `run` does the work. teacher_recipe: how teachers are trained,
    None stands for `Recipe.teacher`.
    """

    def __init__(
        self, config: StudyConfig, progress: Progress | None = None, teacher_recipe: Recipe | None = None
    ) -> None:
        self.config = config
        self.teacher_recipe = teacher_recipe
        self.folder = study_dir(config)
        self.ledger_path = self.folder / "ledger.sqlite"
        self.progress = progress or Progress()
        if has_ledger(self.ledger_path):
            check_resume(Ledger(self.ledger_path, read_only=True).config, config)
        self.device = pick_device(config.device)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device = {config.device!r}: this machine has no CUDA device; give 'cpu' or 'auto'")
        if config.evaluator == "ray":
            check_ray()
        dataset = load_dataset(config.dataset, data_root_of(config))
        self.data = StudyData(dataset, config, self.device)
        limits = Limits(config.max_params or None, config.max_macs or None)
        teacher = traced_teacher(config, self.data.dataset)[0]
        if config.evaluator == "ray":
            check_portable(teacher)
        self.space = SearchSpace(teacher, config.operator_names, config.grouping, limits, config.sampling)
        self._deadline = float("inf")

    def __repr__(self) -> str:
        config, told, best = self.config, 0, ""
        if has_ledger(self.ledger_path):
            ledger = Ledger(self.ledger_path, read_only=True)
            told = count_observed(ledger)
            best = f", best f {ledger.trials()['f'].max():.4f}" if told else ""
        return (
            f"Study({config.study!r}: {config.sampler} compresses {config.teacher} on {config.dataset}, "
            f"{told} of {config.num_evaluations} evaluated{best})"
        )

    # -- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any] | None:
        """Search, train the best, and write `summary.json`; returns it, or None if the study was asked to stop.

        A study stops early when `max_minutes` are over or somebody asked for it (`Ledger.request_stop`); nothing
        that was told is lost. Raises EsnacError, one line, if it cannot go on, and Interrupted for a
        KeyboardInterrupt; then, too, the same command goes on from there.
        """
        sampler = SAMPLERS[self.config.sampler].make(self.space, self.config)

        def work(ledger: Ledger) -> dict[str, Any]:
            teacher = self._teacher("search", ledger)
            self._search(ledger, teacher, sampler)
            return self._finish(ledger, teacher)

        return self._with_ledger(work)

    def train_reference(self) -> TrainedTeacher | None:
        """No search: train the reference teacher alone, into the ledger; None if the study was asked to stop."""
        return self._with_ledger(partial(self._teacher, "reference"))

    def _with_ledger(self, work: Callable[[Ledger], Result]) -> Result | None:
        """Do `work` as the one writer of the ledger; None if it was asked to stop."""
        try:
            return self._write_with(work)
        except KeyboardInterrupt:
            raise Interrupted("all that was told is kept; the same command goes on from here") from None
        except (OSError, SafetensorError) as error:
            advice = "see that the disk has room and the folder can be written; the same command goes on from there"
            raise StorageError(
                f"the study cannot use a file in {outputs_root()} ({one_line(error, kind=False)}): {advice}"
            ) from None

    def _write_with(self, work: Callable[[Ledger], Result]) -> Result | None:
        if self.config.max_minutes:
            self._deadline = time.monotonic() + 60 * self.config.max_minutes
        with Ledger.start(self.ledger_path, self.config.to_dict()) as ledger:
            check_resume(ledger.config, self.config)  # now that nobody else can write
            ledger.set_config(self.config.to_dict())
            ledger.reset_running()
            ledger.clear_stop()
            self._describe()
            try:
                return work(ledger)
            except TrainingStopped:
                self.progress.note("stopped as asked; the same command goes on from here")
                return None
            finally:
                self.progress.end()

    def _describe(self) -> None:
        (self.folder / "students").mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        write_atomically(
            self.folder / "environment.json", json.dumps(describe_environment(self.device), indent=1) + "\n"
        )

    def _should_stop(self, ledger: Ledger) -> bool:
        return time.monotonic() > self._deadline or ledger.stop_requested()

    def _teacher(self, role: Role, ledger: Ledger) -> TrainedTeacher:
        self.progress.begin(f"{role} teacher")
        teacher = train_teacher(
            role,
            self.config,
            self.data,
            outputs_root() / "teachers",
            self._watch(ledger, f"{role}-teacher"),
            self.teacher_recipe,
        )
        self.progress.end()
        architecture = teacher.architecture
        record = {
            "name": self.config.teacher,
            "params": architecture.num_params,
            "macs": architecture.macs,
            "accuracy": teacher.accuracy,
            "architecture": architecture.to_json(),
        }
        ledger.result("teacher", role, record)
        judged = "validation" if role == "search" else "test"
        self.progress.note(
            f"{role} teacher: {judged} accuracy {teacher.accuracy:.2%}, {architecture.num_params:,} parameters"
        )
        return teacher

    def _watch(self, ledger: Ledger, phase: str) -> Callbacks:
        """Curves go to the ledger, batches to the progress; time and the ledger may ask to stop."""
        return Callbacks(
            on_epoch=lambda key, r: ledger.epoch(phase, key, r.epoch, r.loss, r.accuracy, r.seconds),
            on_batch=self.progress.batch,
            should_stop=partial(self._should_stop, ledger),
        )

    # -- the search (ESNAC Algorithm 1) ------------------------------------------------------------------------------

    def _search(self, ledger: Ledger, teacher: TrainedTeacher, sampler: Sampler) -> None:
        # a step of which a kill left a part untold is told whole, like any other, when it has ended
        done = [step for step in range(self.config.steps) if not ledger.pending(step)]
        sampler.tell(observations_of(ledger, done))
        shared = EvaluationCache(self.folder, self.config, describe_environment(self.device))
        began, already = time.monotonic(), count_observed(ledger)
        with closing(self._evaluator(ledger, teacher, "search")) as evaluator:
            for step in range(self.config.steps):
                if step not in set(ledger.trials()["step"]):
                    self._stop_if_asked(ledger)
                    if not self._propose(ledger, sampler, step):
                        self.progress.note(
                            f"the search space is exhausted after {count_observed(ledger)} architectures"
                        )
                        return
                if not ledger.pending(step):
                    continue
                self._look_up(ledger, shared, teacher, step)
                if ledger.pending(step):
                    self._evaluate(ledger, evaluator, teacher, step)
                sampler.tell(observations_of(ledger, [step]))
                self._report_step(ledger, step, began, already)

    def _stop_if_asked(self, ledger: Ledger) -> None:
        if self._should_stop(ledger):
            raise TrainingStopped

    def _propose(self, ledger: Ledger, sampler: Sampler, step: int) -> bool:
        began = time.perf_counter()
        proposals = sampler.ask(self.config.K)
        seconds = (time.perf_counter() - began) / max(1, len(proposals))
        ledger.record(step, [row_of(proposal, seconds) for proposal in proposals])
        return bool(proposals)

    def _evaluator(self, ledger: Ledger, teacher: TrainedTeacher, phase: str) -> Evaluator:
        config, watch = self.config, self._watch(ledger, phase)
        recipe, students = Recipe.search(config), self.folder / "students"
        time_limit = 60 * config.student_minutes or math.inf
        if config.evaluator == "local":
            return LocalEvaluator(teacher, self.data, recipe, config.seed, students, watch, time_limit=time_limit)
        cluster = Cluster(config.ray_address, config.students_per_gpu, config.device)
        return RayEvaluator(teacher, self.data, recipe, config.seed, students, watch, cluster, time_limit=time_limit)

    def _look_up(self, ledger: Ledger, shared: EvaluationCache, teacher: TrainedTeacher, step: int) -> None:
        """Tell the trials that another study of the experiment has evaluated; `seconds` are that training's."""
        shared.refresh()
        for trial, row in ledger.pending(step).items():
            found = shared.find(row.architecture)
            if found is None:
                continue
            key = student_key(trial)
            for epoch in found.curve:
                ledger.epoch("search", key, epoch.epoch, epoch.loss, epoch.accuracy, epoch.seconds)
            ledger.result("shared", key, {"study": found.study, "trial": found.trial})
            if found.accuracy is None:
                ledger.fail(trial, found.error or "failed", found.seconds)
            else:
                f = objective(row.params, self.space.teacher.num_params, found.accuracy, teacher.accuracy)
                ledger.complete(trial, found.accuracy, f, found.best_epoch, found.seconds)

    def _evaluate(self, ledger: Ledger, evaluator: Evaluator, teacher: TrainedTeacher, step: int) -> None:
        pending = ledger.pending(step)
        ledger.running(list(pending))
        self.progress.begin(f"step {step + 1}/{self.config.steps}")
        trials = {student_key(trial): trial for trial in pending}
        tasks = [Task(key, self._student(pending[trial].architecture)) for key, trial in trials.items()]
        # Not the step: what becomes of an architecture depends on the seed alone, so that it can be looked up.
        with closing(evaluator.evaluate(tasks, "search", 0)) as results:
            for result in results:
                trial = trials[result.key]
                if result.accuracy is None:
                    # a diverged student is told as f = 0; a fault of the machine says nothing about its architecture
                    ledger.fail(trial, result.error or "failed", result.seconds, f=None if result.machine else 0.0)
                else:
                    params = pending[trial].params
                    f = objective(params, self.space.teacher.num_params, result.accuracy, teacher.accuracy)
                    ledger.complete(trial, result.accuracy, f, result.best_epoch, result.seconds)
        self.progress.end()
        self._drop_weights(ledger)

    def _student(self, text: str) -> Architecture:
        """An architecture of the ledger, with the code of the teacher's opaque layers."""
        return Architecture.from_json(text).with_code_of(self.space.teacher)

    def _drop_weights(self, ledger: Ledger) -> None:
        """Only the weights of the best so far can still be needed."""
        kept = {student_key(row["trial"]) for row in self._finalists(ledger)}
        for path in (self.folder / "students").glob("trial????.safetensors"):
            if path.stem not in kept:
                path.unlink()

    def _report_step(self, ledger: Ledger, step: int, began: float, already: int) -> None:
        trials = ledger.trials()
        told = count_observed(ledger)
        left = (time.monotonic() - began) / (told - already) * (self.config.num_evaluations - told)
        self.progress.note(
            f"step {step + 1}/{self.config.steps}: {told} evaluated, best f {trials['f'].max():.4f}, "
            f"{(trials['state'] == 'failed').sum()} failed, {duration(left)} left in the search"
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, ledger: Ledger, teacher: TrainedTeacher) -> dict[str, Any]:
        reference = None
        solution: FinalResult | None = None
        if self.config.final != "none":
            reference = self._teacher("reference", ledger)
            solution = self._solution(ledger, teacher, reference)
            ledger.result("solution", "student", self._entry(solution, reference))
            if self.config.baseline:
                narrowed = self._narrowed(ledger, teacher, solution)
                ledger.result("baseline", "narrowed", self._entry(narrowed, reference))
        summary = self._summary(ledger, reference)
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def _final_training(self, ledger: Ledger) -> FinalTraining:
        return FinalTraining(
            self.data,
            Recipe.final(self.config),
            self.config.seed,
            self.folder / "students",
            ledger,
            partial(self._watch, ledger),
        )

    def _finalists(self, ledger: Ledger) -> list[dict[Any, Any]]:
        """The trials that go into final training, as rows of the ledger: the best by search f; of equals the earlier.

        Where an accuracy is demanded, those come first that have it after their search training already, and then
        those that are nearest to it.
        """
        trials = ledger.trials()
        complete = trials[trials["state"] == "complete"]
        short = (self.config.min_accuracy - complete["accuracy"]).clip(lower=0)
        order = complete.assign(short=short).sort_values(["short", "f", "trial"], ascending=[True, False, True])
        return order.drop(columns="short").head(self.config.top).to_dict("records")

    def solution(self) -> tuple[Architecture, Weights]:
        """The finally trained student, which needs its teacher no more, and its weights.

        Raises ConfigError before there is one.
        """
        if not self.ledger_path.exists():
            raise ConfigError(f"study {self.config.study!r} has not been run: there is no solution yet")
        ledger = Ledger(self.ledger_path, read_only=True)
        if (found := ledger.results("solution").get("student")) is None:
            raise ConfigError(f"study {self.config.study!r} has no solution yet: run it again, it goes on")
        trials = ledger.trials()
        [text] = trials.loc[trials["trial"].map(student_key) == found["student"], "architecture"]
        weights = load_weights(self.folder / "students" / f"{found['student']}-full.safetensors")
        return self._student(text).standing_alone(), weights

    def _solution(self, ledger: Ledger, teacher: TrainedTeacher, reference: TrainedTeacher) -> FinalResult:
        finalists = [
            Finalist(
                student_key(row["trial"]),
                self._student(row["architecture"]),
                self.folder / "students" / f"{student_key(row['trial'])}.safetensors",
            )
            for row in self._finalists(ledger)
        ]
        if not finalists:
            raise ConfigError("no student of the search could be trained: see the errors in the ledger's trials")
        self._restore_weights(ledger, teacher, finalists)
        training = self._final_training(ledger)
        params = self.space.teacher.num_params
        self.progress.begin(f"final training of {len(finalists)}")
        if self.config.final == "paper":
            results = training.on_all_images(finalists)
            return max(results, key=lambda r: r.f(params, reference.accuracy, best_epoch=True))
        to_choose = len(finalists) > 1 or self.config.min_accuracy
        chosen = self._validated(training, finalists, teacher) if to_choose else finalists[0]
        self.progress.begin("final training of the solution on all images")
        return training.on_all_images([chosen])[0]

    def _validated(self, training: FinalTraining, finalists: Sequence[Finalist], teacher: TrainedTeacher) -> Finalist:
        """The best of several by f on the validation images, among those that keep the accuracy asked for."""
        judged = training.on_training_split(finalists)
        kept = [result for result in judged if result.accuracy >= self.config.min_accuracy]
        if not kept:
            best = max(judged, key=lambda r: r.accuracy)
            self.progress.note(
                f"no student keeps the accuracy {self.config.min_accuracy:.2%} that was asked for: the best has "
                f"{best.accuracy:.2%} on the validation images, and is taken"
            )
            kept = [best]
        chosen = max(kept, key=lambda r: r.f(self.space.teacher.num_params, teacher.accuracy))
        [finalist] = [finalist for finalist in finalists if finalist.key == chosen.key]
        return finalist

    def _restore_weights(self, ledger: Ledger, teacher: TrainedTeacher, finalists: Sequence[Finalist]) -> None:
        """Train the students again whose evaluation was looked up: a ledger holds results, not weights."""
        done = {**ledger.results("final"), **ledger.results("full")}
        lost = [item for item in finalists if not item.weights.exists() and item.key not in done]
        if lost:
            self.progress.begin(f"search training of {len(lost)} looked up")
            tasks = [Task(item.key, item.architecture) for item in lost]
            with closing(self._evaluator(ledger, teacher, "search")) as evaluator:
                for _ in evaluator.evaluate(tasks, "search", 0):
                    pass  # each writes its weights

    def _narrowed(self, ledger: Ledger, teacher: TrainedTeacher, solution: FinalResult) -> FinalResult:
        """The teacher with all widths scaled by one factor to the solution's size, trained like a student (SPEC §1)."""
        widths = SearchSpace(self.space.teacher, ("shrink",), self.config.grouping)
        architecture = widths.apply(widths.narrow(solution.params))
        key = f"narrowed-{architecture.arch_id[:8]}"
        weights = self.folder / "students" / f"{key}.safetensors"
        if key not in ledger.results("full") and not weights.exists():
            self.progress.begin("search training of the narrowed teacher")
            with closing(self._evaluator(ledger, teacher, "baseline")) as evaluator:
                [result] = evaluator.evaluate([Task(key, architecture)], "baseline", 0)
            ledger.result("narrowed", key, asdict(result) | {"architecture": architecture.to_json()})
        self.progress.begin("final training of the narrowed teacher")
        return self._final_training(ledger).on_all_images([Finalist(key, architecture, weights)])[0]

    def _entry(self, result: FinalResult, reference: TrainedTeacher) -> dict[str, Any]:
        """What the summary says about a finally trained student; f is relative to our reference teacher."""
        params = self.space.teacher.num_params
        return {
            "student": result.key,
            "arch_id": result.arch_id,
            "params": result.params,
            "macs": result.macs,
            "ratio": compression_ratio(result.params, params),
            "times": params / result.params,
            "accuracy": result.accuracy,
            "best_epoch_accuracy": result.best_epoch_accuracy,
            "f": result.f(params, reference.accuracy, best_epoch=self.config.final == "paper"),
        }

    def _summary(self, ledger: Ledger, reference: TrainedTeacher | None) -> dict[str, Any]:
        trials, config, teacher = ledger.trials(), self.config, self.space.teacher
        finals = [*ledger.results("final").values(), *ledger.results("full").values()]
        return {
            "study": config.study,
            "sampler": config.sampler,
            "dataset": config.dataset,
            "seed": config.seed,
            "teacher": {
                "name": config.teacher,
                "params": teacher.num_params,
                "macs": teacher.macs,
                "accuracy": reference.accuracy if reference else None,
            },
            "solution": ledger.results("solution").get("student"),
            "narrowed": ledger.results("baseline").get("narrowed"),
            "limits": {name: getattr(config, name) for name in ("max_params", "max_macs", "min_accuracy")},
            "final": config.final,
            "evaluations": count_observed(ledger),
            "failed": int((trials["state"] == "failed").sum()),
            "seconds": {
                "proposing": float(trials["propose_seconds"].sum()),
                "evaluating": float(trials["seconds"].sum()),
                "final": float(sum(result["seconds"] for result in finals)),
            },
            "environment": describe_environment(self.device),
        }
