"""The end of a study: the best students are trained to the end, one of them is the solution, and a summary is written.

Beside the solution stands a baseline: the teacher uniformly narrowed to the solution's size, and trained like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError
from esnac_lib.objective import OBJECTIVES, compression_ratio
from esnac_lib.samplers.history import count_observed
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.session import Session
from esnac_lib.study.students import make_evaluator, select_finalists, student_key
from esnac_lib.training.evaluator import Task
from esnac_lib.training.final import Finalist, FinalResult, FinalTraining
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher


class Finishing:
    """What is left of a study when its search is over.

    Args:
        teacher: The search teacher, which search trainings inherit from; validation f is against it.
        session: Whose ledger gets everything the moment it is known.
        teacher_recipe: How the reference teacher is trained; None stands for `Recipe.teacher`.
    """

    def __init__(
        self,
        config: StudyConfig,
        data: StudyData,
        teacher: TrainedTeacher,
        session: Session,
        teacher_recipe: Recipe | None = None,
    ) -> None:
        self.config, self.data, self.teacher, self.session = config, data, teacher, session
        self.ledger, self.progress = session.ledger, session.progress
        self.teacher_recipe = teacher_recipe
        self._objective = OBJECTIVES[config.objective]

    def run(self) -> dict[str, Any]:
        """Train what the config asks for, write summary.json, and return what it holds."""
        reference = None
        if self.config.final != "none":
            reference = self.session.train_teacher("reference", self.config, self.data, self.teacher_recipe)
            solution = self._solution(reference)
            self.ledger.result("solution", "student", self._entry(solution, reference))
            if self.config.baseline:
                self.ledger.result("baseline", "narrowed", self._entry(self._narrowed(solution), reference))
        summary = self._summary(reference)
        self.session.write_json("summary.json", summary)
        return summary

    @cached_property
    def _training(self) -> FinalTraining:
        return self.session.final_training(self.data, Recipe.final(self.config))

    # -- the solution ------------------------------------------------------------------------------------------------

    def _solution(self, reference: TrainedTeacher) -> FinalResult:
        finalists = self._finalists()
        if not finalists:
            raise ConfigError("no student of the search could be trained: see the errors in the ledger's trials")
        self._restore_weights(finalists)
        self.progress.begin(f"final training of {len(finalists)}")
        if self.config.final == "paper":
            return max(self._training.on_all_images(finalists), key=lambda result: self._f(result, reference))
        to_choose = len(finalists) > 1 or self.config.min_accuracy
        chosen = self._best_validated(finalists) if to_choose else finalists[0]
        self.progress.begin("final training of the solution on all images")
        return self._training.on_all_images([chosen])[0]

    def _finalists(self) -> list[Finalist]:
        found = []
        for row in select_finalists(self.ledger.trials(), self.config):
            key, architecture = student_key(row["trial"]), Architecture.from_json(row["architecture"])
            weights = self.session.students / f"{key}.safetensors"
            found.append(Finalist(key, architecture.with_code_of(self.teacher.architecture), weights))
        return found

    def _best_validated(self, finalists: Sequence[Finalist]) -> Finalist:
        """The best of several by f on the validation images, among those that keep the accuracy asked for."""
        results = self._training.on_training_split(finalists)
        kept = [result for result in results if result.accuracy >= self.config.min_accuracy]
        if not kept:
            best = max(results, key=lambda result: result.accuracy)
            self.progress.note(
                f"no student keeps the accuracy {self.config.min_accuracy:.2%} that was asked for: the best has "
                f"{best.accuracy:.2%} on the validation images, and is taken"
            )
            kept = [best]
        chosen = max(kept, key=lambda result: self._f(result, self.teacher))
        [finalist] = [finalist for finalist in finalists if finalist.key == chosen.key]
        return finalist

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
        """The teacher with all widths scaled by one factor to the solution's size, trained like a student."""
        widths = SearchSpace(self.teacher.architecture, ("shrink",), self.config.grouping)
        architecture = widths.apply(widths.narrow(solution.params))
        key = f"narrowed-{architecture.arch_id[:8]}"
        weights = self.session.students / f"{key}.safetensors"
        if key not in self.ledger.results("full") and not weights.exists():
            self.progress.begin("search training of the narrowed teacher")
            with closing(make_evaluator(self.config, self.data, self.teacher, self.session, "baseline")) as evaluator:
                [result] = evaluator.evaluate([Task(key, architecture)], "baseline", 0)
            self.ledger.result("narrowed", key, asdict(result) | {"architecture": architecture.to_json()})
        self.progress.begin("final training of the narrowed teacher")
        return self._training.on_all_images([Finalist(key, architecture, weights)])[0]

    # -- the summary -------------------------------------------------------------------------------------------------

    def _f(self, result: FinalResult, teacher: TrainedTeacher) -> float:
        measured = result.measurement(best_epoch=self.config.final == "paper")
        return self._objective.value(measured, teacher.measurement)

    def _entry(self, result: FinalResult, reference: TrainedTeacher) -> dict[str, Any]:
        """What the summary says about a finally trained student; f is relative to our reference teacher."""
        params = reference.architecture.num_params
        return {
            "student": result.key,
            "arch_id": result.arch_id,
            "params": result.params,
            "macs": result.macs,
            "ratio": compression_ratio(result.params, params),
            "times": params / result.params,
            "accuracy": result.accuracy,
            "best_epoch_accuracy": result.best_epoch_accuracy,
            "f": self._f(result, reference),
        }

    def _summary(self, reference: TrainedTeacher | None) -> dict[str, Any]:
        trials, config, teacher = self.ledger.trials(), self.config, self.teacher.architecture
        finals = [*self.ledger.results("final").values(), *self.ledger.results("full").values()]
        return {
            "study": config.study,
            "sampler": config.sampler,
            "dataset": config.dataset,
            "objective": config.objective,
            "seed": config.seed,
            "teacher": {
                "name": config.teacher,
                "params": teacher.num_params,
                "macs": teacher.macs,
                "accuracy": reference.accuracy if reference else None,
            },
            "solution": self.ledger.results("solution").get("student"),
            "narrowed": self.ledger.results("baseline").get("narrowed"),
            "limits": {name: getattr(config, name) for name in ("max_params", "max_macs", "min_accuracy")},
            "final": config.final,
            "evaluations": count_observed(self.ledger),
            "failed": int((trials["state"] == "failed").sum()),
            "seconds": {
                "proposing": float(trials["propose_seconds"].sum()),
                "evaluating": float(trials["seconds"].sum()),
                "final": float(sum(result["seconds"] for result in finals)),
            },
            "environment": describe_environment(self.session.device),
        }
