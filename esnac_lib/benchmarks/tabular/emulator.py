"""A stand-in for training: f of any member of a problem's space, as a regression on its table predicts it.

It is for comparing samplers in seconds, not for results: what it knows is what was evaluated, and it says itself how
well it predicts what it has not seen (`rank_correlation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from esnac_lib.architecture.graph import Architecture
from esnac_lib.benchmarks.tabular.table import OfflineTable, Problem, decisions_of
from esnac_lib.errors import DataError
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.samplers.base import Observation, Sampler
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

TREES, FOLDS = 100, 5
LEAST = 20  # evaluations, below which nothing is emulated


class Emulator:
    """Extremely randomised trees on the decisions predict the validation accuracy; the size in f is exact.

    noise: standard deviation that is added to the accuracy, drawn for each architecture from `seed`; None: that of
    what the trees leave unexplained in cross-validation, so that the emulated problem is as rough as the real one.
    Raises DataError for a problem with fewer than 20 evaluations.
    """

    def __init__(self, table: OfflineTable, problem: Problem, noise: float | None = None, seed: int = 0) -> None:
        rows = table.of(problem)
        if len(rows) < LEAST:
            raise DataError(f"{problem!r} has {len(rows)} evaluations in the table: at least {LEAST} are needed")
        self.problem, self.space, self.seed = problem, problem.space(), seed
        self._f, self._params = rows["f"].to_numpy(), rows["params"].to_numpy()
        self._accuracy = rows["accuracy"].fillna(0.0).to_numpy()  # a student that diverged has f = 0
        self._features = features(self.space, decisions_of(rows), rows["params"], rows["macs"])
        self._trees = _trees().fit(self._features, self._accuracy)
        self.noise = float(np.std(self._unseen - self._accuracy)) if noise is None else noise

    def __repr__(self) -> str:
        return f"Emulator({self.problem!r}, from {len(self._f)} evaluations, noise {self.noise:.4f})"

    @cached_property
    def _unseen(self) -> np.ndarray:
        """(n,): the accuracies in the table, each predicted by trees that did not see it."""
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        return cross_val_predict(_trees(), self._features, self._accuracy, cv=folds)

    @cached_property
    def rank_correlation(self) -> float:
        """Spearman's, of f in the table with f predicted by trees that did not see it."""
        foreseen = [self._value(accuracy, params) for params, accuracy in zip(self._params, self._unseen, strict=True)]
        return float(spearmanr(foreseen, self._f).statistic)

    def f(self, decisions: Decisions, architecture: Architecture) -> float:
        """Return what an evaluation might give: the same for the same architecture."""
        sizes = pd.Series([architecture.num_params]), pd.Series([architecture.macs])
        accuracy = float(self._trees.predict(features(self.space, [decisions], *sizes))[0])
        accuracy += self.noise * float(make_rng(self.seed, f"emulator {architecture.arch_id}").standard_normal())
        return self._value(min(max(accuracy, 0.0), 1.0), architecture.num_params)

    def _value(self, accuracy: float, params: int) -> float:
        teacher = Measurement(self.problem.accuracy, self.problem.teacher.num_params)
        return PAPERS.value(Measurement(accuracy, int(params)), teacher)


def replay(sampler: Sampler, emulator: Emulator, K: int, steps: int) -> list[float]:
    """Run a study's loop of ask and tell without training; return f of each proposal, in order."""
    found: list[float] = []
    for _ in range(steps):
        proposals = sampler.ask(K)
        values = [emulator.f(p.decisions, p.architecture) for p in proposals]
        pairs = zip(proposals, values, strict=True)
        sampler.tell([Observation(p.decisions, p.architecture, f) for p, f in pairs])
        found += values
    return found


def features(space: SearchSpace, decisions: Sequence[Decisions], params: pd.Series, macs: pd.Series) -> np.ndarray:
    """Return each decision as a number, and the size: (n, d)."""
    kinds, rows = sorted({space.teacher.layers[i].kind for i in space.removable}), []
    for one, size, cost in zip(decisions, params, macs, strict=True):
        one = space.normalise(one)
        removed = [space.teacher.layers[i].kind for i in one.removed]
        counts = [removed.count(kind) for kind in kinds]
        flags = [float(i in one.removed) for i in space.removable]
        rows.append([*one.ratios, *flags, *counts, len(one.skips), np.log(size), np.log(max(cost, 1))])
    return np.array(rows, np.float64)


def _trees() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)
