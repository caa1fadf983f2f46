"""Which surrogate predicts the order of unseen students? Answered from the table, without training a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor

from esnac_lib.architecture.encoding import encode
from esnac_lib.benchmarks.tabular.emulator import features
from esnac_lib.benchmarks.tabular.table import OfflineTable, Problem, decisions_of
from esnac_lib.errors import DataError
from esnac_lib.objective import PAPERS
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import learn_kernel

FOREST = 200  # trees


@dataclass(frozen=True)
class Observed:
    """n students in the forms that predictors read."""

    encodings: tuple[np.ndarray, ...]  # each (L, d)
    features: np.ndarray  # (n, d)
    gains: np.ndarray  # (n,): C (2 - C), known before a training
    f: np.ndarray  # (n,)

    def part(self, index: np.ndarray) -> Observed:
        """Return some of them."""
        return Observed(tuple(self.encodings[i] for i in index), self.features[index], self.gains[index], self.f[index])


Predictor = Callable[[Observed, Observed, int], np.ndarray]
"""(seen, unseen, seed) -> predicted f of the unseen (n,); it must not look at their f."""


def kernel(settings: KernelSettings, scale: str = "raw", centred: bool = False) -> Predictor:
    """Return ESNAC's kernel as a predictor; `centred`: the mean of the seen f is subtracted before, and added again.

    scale: "raw" encodings as in the authors' code, or each feature relative to its largest seen value ("unit").
    """

    def predict(seen: Observed, unseen: Observed, seed: int) -> np.ndarray:
        scales = 1.0 if scale == "raw" else np.maximum(1, np.max([e.max(0) for e in seen.encodings], axis=0))
        known, wanted = ([(e / scales).astype(np.float32) for e in part.encodings] for part in (seen, unseen))
        shift = float(seen.f.mean()) if centred else 0.0
        learned = learn_kernel(known, seen.f - shift, settings, torch.Generator().manual_seed(seed))
        return learned.predict(wanted)[0] + shift

    return predict


def forest(seen: Observed, unseen: Observed, seed: int) -> np.ndarray:
    """Predict with a random forest on the decisions and the size."""
    trees = RandomForestRegressor(FOREST, random_state=seed % 2**32)
    return trees.fit(seen.features, seen.f).predict(unseen.features)


def accuracy(predictor: Predictor) -> Predictor:
    """Return a predictor of the accuracy, relative to the teacher's and standardised; f follows with the exact size."""

    def predict(seen: Observed, unseen: Observed, seed: int) -> np.ndarray:
        known = seen.part(np.flatnonzero(seen.gains > 0))
        relative = known.f / known.gains
        mean, scale = relative.mean(), relative.std() or 1.0
        predicted = predictor(replace(known, f=(relative - mean) / scale), unseen, seed)
        return unseen.gains * (predicted * scale + mean)

    return predict


PAPER = KernelSettings()
PREDICTORS: Mapping[str, Predictor] = {
    "paper's kernel": kernel(PAPER),
    "features scaled to 1": kernel(PAPER, "unit"),
    "f centred": kernel(PAPER, centred=True),
    "noise 0.005": kernel(replace(PAPER, noise=0.005), centred=True),
    "wider kernel (σ² 0.1)": kernel(replace(PAPER, sigma2=0.1), centred=True),
    "marginal": kernel(replace(PAPER, objective="marginal")),
    "accuracy learned, size exact": accuracy(kernel(PAPER)),
    "random forest on decisions": forest,
    "random forest, size exact": accuracy(forest),
}
"""The paper's surrogate, what could be changed about it one by one, and one without an embedding."""


def surrogate_quality(
    table: OfflineTable,
    problem: Problem,
    predictors: Mapping[str, Predictor] = PREDICTORS,
    seen: int = 40,
    splits: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Return surrogate, rank correlation (Spearman's, mean over splits), its standard deviation, seconds a split.

    In each split `seen` students of the problem, drawn at random, are known, and the rest are predicted. All predictors
    have the same splits. Raises DataError if fewer than 10 are left to predict.
    """
    rows = table.of(problem)
    if len(rows) - seen < 10:
        raise DataError(f"seen = {seen}: {problem!r} has {len(rows)} evaluations, and at least 10 must be left unseen")
    observed = observe(problem, rows)
    lines = []
    for name, predictor in predictors.items():
        found, began = [], time.perf_counter()
        for split in range(splits):
            order = make_rng(seed, "surrogate-split", split).permutation(len(rows))
            parts = observed.part(order[:seen]), observed.part(order[seen:])
            predicted = predictor(*parts, derive_seed(seed, "surrogate", split))
            found.append(float(spearmanr(predicted, parts[1].f).statistic))
        seconds = (time.perf_counter() - began) / splits
        lines.append((name, float(np.mean(found)), float(np.std(found, ddof=1)) if splits > 1 else np.nan, seconds))
    return pd.DataFrame(lines, columns=["surrogate", "rank correlation", "standard deviation", "seconds"])


def observe(problem: Problem, rows: pd.DataFrame) -> Observed:
    """Return the students of some evaluations of a problem, encoded."""
    space, decisions = problem.space(), decisions_of(rows)
    encodings = tuple(encode(space.apply(one), PAPER.max_edge) for one in decisions)
    gains = np.array([max(PAPERS.gain(size, problem.teacher.num_params), 0.0) for size in rows["params"]])
    seen = features(space, decisions, rows["params"], rows["macs"])
    return Observed(encodings, seen, gains, rows["f"].to_numpy())
