"""The end of a study: the best students are trained to the end, one of them is the solution, and a summary is written.

Alongside stands a baseline: the teacher uniformly narrowed to the solution's size, and trained like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError
from esnac_lib.objective import OBJECTIVES, compression_ratio
from esnac_lib.samplers.history import count_observed
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.ending import EARLY, SearchEnd
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.pace import Stage
from esnac_lib.study.session import Session
from esnac_lib.study.students import make_evaluator, select_finalists, student_key
from esnac_lib.training.evaluator import Task
from esnac_lib.training.final import Finalist, FinalResult, FinalTraining
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher


@dataclass(eq=False, repr=False)
class Finishing:
    """What is left of a study when its search is over; everything is in the ledger the moment it is known.

    `teacher` is the search teacher, which search trainings inherit from and validation f is against; `ended` says why
    the search ended; `teacher_recipe` says how the reference teacher is trained (None: `Recipe.teacher`).
    """

    config: StudyConfig
    data: StudyData
    teacher: TrainedTeacher
    session: Session
    ended: SearchEnd
    teacher_recipe: Recipe | None = None

    def __post_init__(self) -> None:
        self.ledger, self.progress = self.session.ledger, self.session.progress

    def run(self) -> dict[str, Any]:
        """Train what the config asks for, write summary.json, and return what it holds."""
        reference = None
        if self.config.final != "none":
            reference = self.session.train_teacher("reference", self.config, self.data, self.teacher_recipe)
            solution = self._solution(reference)
            entry = self._entry(solution, reference) | {"evaluations": count_observed(self.ledger), "ended": self.ended}
            self.ledger.result("solution", "student", entry)
            known = self.ledger.results("baseline").get("narrowed", {}).get("of") == solution.key
            without = "the narrowed teacher is not trained"
            if self.config.baseline and (known or self._has_time(without, "baseline", "narrowed")):
                narrowed = self._entry(self._narrowed(solution), reference)
                self.ledger.result("baseline", "narrowed", narrowed | {"of": solution.key})
        summary = self._summary(reference)
        self.session.write_json("summary.json", summary)
        if self.ended in EARLY:
            self.progress.note(
                f"finished early, {summary['evaluations']} evaluated: the same command goes on searching"
            )
        return summary

    def _has_time(self, without: str, *stages: Stage) -> bool:
        """Return whether some stages can be done within the limit; say what is left out otherwise."""
        fits = self.session.has_time_for(*stages)
        if not fits:
            self.progress.note(f"{without}: no time is left within {self.config.max_minutes:g} min")
        return fits

    @cached_property
    def _training(self) -> FinalTraining:
        return self.session.final_training(self.data, Recipe.final(self.config))

    def _solution(self, reference: TrainedTeacher) -> FinalResult:
        if not (finalists := self._finalists()):
            raise ConfigError("no student of the search could be trained: see the errors in the ledger's trials")
        best_alone = f"only the best of {len(finalists)} is trained to the end"
        trained = self.ledger.results("full" if self.config.final == "paper" else "final")
        known = all(finalist.key in trained for finalist in finalists)
        if len(finalists) > 1 and not known and not self._has_time(best_alone, "final", "full"):
            finalists = finalists[:1]
        self._restore_weights(finalists)
        self.session.enter("final", f"final training of {len(finalists)}")
        if self.config.final == "paper":
            self.session.enter("full", f"final training of {len(finalists)} on all images")
            return max(self._training.on_all_images(finalists), key=lambda result: self._f(result, reference))
        to_choose = len(finalists) > 1 or self.config.min_accuracy
        chosen = self._best_validated(finalists) if to_choose else finalists[0]
        self.session.enter("full", "final training of the solution on all images")
        return self._training.on_all_images([chosen])[0]

    def _finalists(self) -> list[Finalist]:
        rows = select_finalists(self.ledger.trials(), self.config)
        students = {student_key(row["trial"]): Architecture.from_json(row["architecture"]) for row in rows}
        return [self._finalist(key, it.with_code_of(self.teacher.architecture)) for key, it in students.items()]

    def _finalist(self, key: str, architecture: Architecture) -> Finalist:
        return Finalist(key, architecture, self.session.students / f"{key}.safetensors")

    def _best_validated(self, finalists: Sequence[Finalist]) -> Finalist:
        """Return the best of several by f on the validation images, among those that keep the accuracy asked for."""
        results = self._training.on_training_split(finalists)
        kept = [result for result in results if result.accuracy >= self.config.min_accuracy]
        if not kept:
            kept = [max(results, key=lambda result: result.accuracy)]
            self.progress.note(
                f"no student keeps the accuracy {self.config.min_accuracy:.2%} that was asked for: the best has "
                f"{kept[0].accuracy:.2%} on the validation images, and is taken"
            )
        chosen = max(kept, key=lambda result: self._f(result, self.teacher))
        return next(finalist for finalist in finalists if finalist.key == chosen.key)

    def _restore_weights(self, finalists: Sequence[Finalist]) -> None:
        """Train the students again whose evaluation was looked up: a ledger holds results, not weights."""
        done = {**self.ledger.results("final"), **self.ledger.results("full")}
        lost = [item for item in finalists if not item.weights.exists() and item.key not in done]
        if lost:
            self.progress.begin(f"search training of {len(lost)} looked up")
            tasks = [Task(item.key, item.architecture) for item in lost]
            with closing(make_evaluator(self.config, self.data, self.teacher, self.session, "search")) as evaluator:
                for _ in evaluator.evaluate(tasks, "search", 0):
                    pass  # each writes its weights

    def _narrowed(self, solution: FinalResult) -> FinalResult:
        """Return the teacher with all widths scaled by one factor to the solution's size, trained like a student.

        Where that is the solution itself, it is trained already.
        """
        widths = SearchSpace(self.teacher.architecture, ("shrink",), self.config.grouping)
        architecture = widths.apply(widths.narrow(solution.params))
        if architecture.arch_id == solution.arch_id:
            return solution
        finalist = self._finalist(f"narrowed-{architecture.arch_id[:8]}", architecture)
        if finalist.key not in self.ledger.results("full") and not finalist.weights.exists():
            self.session.enter("baseline", "search training of the narrowed teacher")
            with closing(make_evaluator(self.config, self.data, self.teacher, self.session, "baseline")) as evaluator:
                [result] = evaluator.evaluate([Task(finalist.key, architecture)], "baseline", 0)
            self.ledger.result("narrowed", finalist.key, asdict(result) | {"architecture": architecture.to_json()})
        self.session.enter("narrowed", "final training of the narrowed teacher")
        return self._training.on_all_images([finalist])[0]

    def _f(self, result: FinalResult, teacher: TrainedTeacher) -> float:
        measured = result.measurement(best_epoch=self.config.final == "paper")
        return OBJECTIVES[self.config.objective].value(measured, teacher.measurement)

    def _entry(self, result: FinalResult, reference: TrainedTeacher) -> dict[str, Any]:
        """Return what the summary says about a finally trained student; f is relative to our reference teacher."""
        params = reference.architecture.num_params
        return {
            "student": result.key,
            **{name: getattr(result, name) for name in ("arch_id", "params", "macs")},
            "ratio": compression_ratio(result.params, params),
            "times": params / result.params,
            **{name: getattr(result, name) for name in ("accuracy", "best_epoch_accuracy")},
            "f": self._f(result, reference),
        }

    def _summary(self, reference: TrainedTeacher | None) -> dict[str, Any]:
        trials, config, teacher = self.ledger.trials(), self.config, self.teacher.architecture
        accuracy = reference.accuracy if reference else None
        solution = self.ledger.results("solution").get("student")
        narrowed = self.ledger.results("baseline").get("narrowed")
        if solution and narrowed and narrowed.get("of", solution["student"]) != solution["student"]:
            narrowed = None  # of an earlier solution
        size = {"params": teacher.num_params, "macs": teacher.macs}
        proposing, evaluating = (float(trials[name].sum()) for name in ("propose_seconds", "seconds"))
        finals = [found["seconds"] for kind in ("final", "full") for found in self.ledger.results(kind).values()]
        return {
            **{name: getattr(config, name) for name in ("study", "sampler", "dataset", "objective", "seed")},
            "teacher": {"name": config.teacher, **size, "accuracy": accuracy},
            "solution": solution,
            "narrowed": narrowed,
            "narrowed_is_solution": bool(solution and narrowed and solution["arch_id"] == narrowed["arch_id"]),
            "limits": {name: getattr(config, name) for name in ("max_params", "max_macs", "min_accuracy")},
            "final": config.final,
            "evaluations": count_observed(self.ledger),
            "ended": self.ended,
            "failed": int((trials["state"] == "failed").sum()),
            "seconds": {"proposing": proposing, "evaluating": evaluating, "final": float(sum(finals))},
            "environment": describe_environment(self.session.device),
        }
