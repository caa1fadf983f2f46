"""The students of a study: their names, who trains them in the search, and which go into final training."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData
from esnac_lib.study.session import Session
from esnac_lib.training.evaluator import Evaluator, LocalEvaluator
from esnac_lib.training.ray_evaluator import Cluster, RayEvaluator
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher


def student_key(trial: int) -> str:
    """Return the name of a trial's student in files and curves."""
    return f"trial{trial:04d}"


def make_evaluator(
    config: StudyConfig, data: StudyData, teacher: TrainedTeacher, session: Session, phase: str
) -> Evaluator:
    """Return the evaluator that trains students as the search does; `phase` is what the ledger calls their curves."""
    given = teacher, data, Recipe.search(config), config.seed, session.students, session.callbacks(phase)
    time_limit = 60 * config.student_minutes or math.inf
    if config.evaluator == "local":
        return LocalEvaluator(*given, time_limit=time_limit)
    cluster = Cluster(config.ray_address, config.students_per_gpu, config.device)
    return RayEvaluator(*given, cluster, time_limit=time_limit)


def select_finalists(trials: pd.DataFrame, config: StudyConfig) -> list[dict[Any, Any]]:
    """Return the trials that go into final training, as rows of the ledger: by search f, of equals the earlier first.

    Where an accuracy is demanded, those come first that have it already, and then those that are nearest to it.
    """
    complete = trials[trials["state"] == "complete"]
    short = (config.min_accuracy - complete["accuracy"]).clip(lower=0)
    order = complete.assign(short=short).sort_values(["short", "f", "trial"], ascending=[True, False, True])
    return order.drop(columns="short").head(config.top).to_dict("records")
