"""The search of a study: ESNAC's Algorithm 1 as one loop of ask, record, evaluate and tell."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.objective import OBJECTIVES, Measurement
from esnac_lib.samplers.base import Sampler
from esnac_lib.samplers.history import count_observed, observations_of, row_of
from esnac_lib.study.ending import EARLY, SearchEnd
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.evaluation_cache import EvaluationCache, content_of
from esnac_lib.study.session import Session
from esnac_lib.study.students import make_evaluator, select_finalists, student_key
from esnac_lib.training.callbacks import TrainingStopped
from esnac_lib.training.evaluator import Evaluation, Evaluator, Task
from esnac_lib.training.progress import duration
from esnac_lib.training.teacher import TrainedTeacher


class Search:
    """The search of one study, from where its ledger stands; students inherit and are distilled from `teacher`."""

    def __init__(self, config: StudyConfig, data: StudyData, teacher: TrainedTeacher, session: Session) -> None:
        self.config, self.data, self.teacher = config, data, teacher
        self.session, self.ledger, self.progress = session, session.ledger, session.progress
        self._cache = EvaluationCache(
            session.folder, config, describe_environment(session.device), content_of(self.ledger)
        )

    def run(self, sampler: Sampler) -> SearchEnd:
        """Go through the steps that are left until the search has to end; return why it ended.

        Raises TrainingStopped where the study has to stop, or asks in vain to be finished.
        """
        self._began, self._already = time.monotonic(), count_observed(self.ledger)
        self.session.enter("search", "search")
        self._enter_step(0)
        self.session.ending.searching = True
        try:
            end = self._run(sampler)
        except TrainingStopped:
            if (early := self.session.ending.early()) is None:
                raise
            end = early
        finally:
            self.session.ending.searching = False
            self.progress.end()
        if end in EARLY:
            self.ledger.reset_running()  # for a later run, which goes on with them
            why = "as asked" if end == "asked" else f"within the limit of {self.config.max_minutes:g} min"
            count = f"{count_observed(self.ledger)} of {self.config.num_evaluations}"
            self.progress.note(f"the search ends early, {count} evaluated: the study is finished with the best, {why}")
        return end

    def _run(self, sampler: Sampler) -> SearchEnd:
        # a step that a kill interrupted is observed as one, like any other, when it has ended
        done = [step for step in range(self.config.steps) if not self.ledger.pending(step)]
        sampler.tell(observations_of(self.ledger, done))
        with closing(make_evaluator(self.config, self.data, self.teacher, self.session, "search")) as evaluator:
            for step in range(self.config.steps):
                new = step not in set(self.ledger.trials()["step"])
                if new or self.ledger.pending(step):
                    if (early := self.session.ending.early()) is not None:
                        return early
                    self.session.check_stop()
                if new and not self._propose(sampler, step):
                    count = count_observed(self.ledger)
                    self.progress.note(f"the search space is exhausted after {count} architectures")
                    return "exhausted"
                if not self.ledger.pending(step):
                    continue
                self._look_up(step)
                if pending := self.ledger.pending(step):
                    self._evaluate(evaluator, step, pending)
                sampler.tell(observations_of(self.ledger, [step]))
                self._report(step)
        return "complete"

    def _enter_step(self, pending: int) -> int:
        """Say how far the search is; return how many are evaluated."""
        count = count_observed(self.ledger)
        new = count - self._already
        self.session.step(count, pending, (time.monotonic() - self._began) / new if new else math.nan)
        return count

    def _propose(self, sampler: Sampler, step: int) -> bool:
        began = time.perf_counter()
        proposals = sampler.ask(self.config.K)
        seconds = (time.perf_counter() - began) / max(1, len(proposals))
        self.ledger.record(step, [row_of(proposal, seconds) for proposal in proposals])
        return bool(proposals)

    def _look_up(self, step: int) -> None:
        """Complete the trials that another study of the experiment has evaluated; `seconds` are that training's."""
        self._cache.refresh()
        for trial, row in self.ledger.pending(step).items():
            if (found := self._cache.find(row.architecture)) is None:
                continue
            key = student_key(trial)
            for epoch in found.curve:
                self.ledger.epoch("search", key, epoch.epoch, epoch.loss, epoch.accuracy, epoch.seconds)
            self.ledger.result("shared", key, {"study": found.study, "trial": found.trial})
            evaluation = Evaluation(key, found.accuracy, found.best_epoch, found.error, False, found.seconds)
            self._complete(trial, row, evaluation)

    def _evaluate(self, evaluator: Evaluator, step: int, pending: Mapping[int, ProposalRow]) -> None:
        self.ledger.running(list(pending))
        self._enter_step(len(pending))
        self.progress.begin(f"step {step + 1}/{self.config.steps}")
        trials = {student_key(trial): trial for trial in pending}
        students = {key: Architecture.from_json(pending[trial].architecture) for key, trial in trials.items()}
        tasks = [Task(key, student.with_code_of(self.teacher.architecture)) for key, student in students.items()]
        # Index 0, not the step: the evaluation of an architecture depends on the seed alone, so it can be looked up.
        with closing(evaluator.evaluate(tasks, "search", 0)) as results:
            for result in results:
                self._complete(trials[result.key], pending[trials[result.key]], result)
        self.progress.end()
        self._drop_weights()

    def _complete(self, trial: int, row: ProposalRow, result: Evaluation) -> None:
        if result.accuracy is None:
            # a diverged student is observed as f = 0; a fault of the machine says nothing about its architecture
            self.ledger.fail(trial, result.error or "failed", result.seconds, f=None if result.machine else 0.0)
        else:
            student = Measurement(result.accuracy, row.params, row.macs)
            f = OBJECTIVES[self.config.objective].value(student, self.teacher.measurement)
            self.ledger.complete(trial, result.accuracy, f, result.best_epoch, result.seconds)
            self.session.ending.has_result = True

    def _drop_weights(self) -> None:
        """Only the weights of the best so far can still be needed."""
        kept = {student_key(row["trial"]) for row in select_finalists(self.ledger.trials(), self.config)}
        for path in self.session.students.glob("trial????.safetensors"):
            if path.stem not in kept:
                path.unlink()

    def _report(self, step: int) -> None:
        trials, count = self.ledger.trials(), self._enter_step(0)
        left = self.session.seconds_left()
        self.progress.note(
            f"step {step + 1}/{self.config.steps}: {count} evaluated, best f {trials['f'].max():.4f}, "
            f"{(trials['state'] == 'failed').sum()} failed" + (f", {duration(left)} left in all" if left else "")
        )
