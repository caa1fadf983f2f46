"""Samplers side by side: what sampler_comparison.ipynb claims, from the ledgers of its studies.

>>> experiment = read_experiment(config)                  # a ComparisonConfig
>>> comparison_table(experiment), margins_table(experiment, "esnac_ours_k8")
>>> write_summary(experiment)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from esnac_lib.config.comparison import PROXY, WITHOUT_A_SEARCH
from esnac_lib.objective import objective
from esnac_lib.report.figures.variants import best_so_far
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord, trial_of
from esnac_lib.report.statistics import LEAST, mean_and_band, rank_correlation, stat

LABELS = {
    "narrow": "width scaling, no search",
    "random": "random",
    "evolution": "evolution",
    "tpe": "TPE",
    "tpe_multivariate": "TPE, multivariate",
    "n2n": "N2N",
    "esnac_k1": "ESNAC, K = 1",
    "esnac_k8": "ESNAC, K = 8",
    "random_mild": "random, mild",
    "evolution_mild": "evolution, mild",
    "evolution_narrowed": "evolution from narrowed",
    "esnac_ours_f_k8": "ours, but f is learned",
    "esnac_ours_evolution_k8": "ours, but candidates evolve",
    "esnac_ours_random_k8": "ours, but from random students",
    "esnac_ours_half_k8": "ours, but on half of the observed",
    "esnac_ours_k1": "ESNAC ours, K = 1",
    "esnac_ours_k8": "ESNAC ours, K = 8",
}


def comparison_summary(experiment: ExperimentRecord) -> dict[str, dict[str, Any]]:
    """For each sampler with a finished run: best_f {mean, std, ci95}, evaluations_to_random_best {mean, std, reached},
    rank_correlation {mean, std} where it predicts, seeds, evaluations.

    ci95 is half the width of Student's 95 % confidence interval of the mean. A run that never reaches random search's
    final best with the same seed counts with all its evaluations, and not as reached.
    """
    found = {}
    for name in searched(experiment):
        records = experiment.finished(name)
        if not records:
            continue
        best = [float(best_so_far([record])[0, -1]) for record in records]
        needed = [_needed(record, _of_seed(experiment, "random", record.config.seed)) for record in records]
        counted = [n for n, _ in needed if n is not None]
        ranks = [rank for record in records if (rank := _foreseen(record)) is not None]
        entry: dict[str, Any] = {"best_f": _spread(best) | {"ci95": _half_width(best)}}
        entry["evaluations_to_random_best"] = _spread(counted) | {"reached": sum(reached for _, reached in needed)}
        if ranks:
            entry["rank_correlation"] = _spread(ranks)
        found[name] = entry | {
            "seeds": [record.config.seed for record in records],
            "evaluations": [len(record.observed) for record in records],
        }
    return found


def comparison_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """`comparison_summary` as one line a sampler, with the seconds that a proposal and an evaluation took."""
    lines = []
    for name, entry in comparison_summary(experiment).items():
        records = experiment.finished(name)
        trials = pd.concat([record.trials for record in records])
        to_best, ranks = entry["evaluations_to_random_best"], entry.get("rank_correlation", {})
        lines.append(
            {
                "sampler": LABELS[name],
                "best f": entry["best_f"]["mean"],
                "best f ±": entry["best_f"]["std"],
                "95 % half-width": entry["best_f"]["ci95"],
                "evaluations to random's best": to_best["mean"],
                "evaluations to random's best ±": to_best["std"],
                "reached": f"{to_best['reached']} of {len(records)}",
                "rank correlation": ranks.get("mean"),
                "rank correlation ±": ranks.get("std"),
                "seeds": len(records),
                "evaluations": max(entry["evaluations"]),
                "proposing [s]": float(trials["propose_seconds"].mean()),
                "evaluating [s]": float(trials["seconds"].mean()),
            }
        )
    return pd.DataFrame(lines)


def margins_table(experiment: ExperimentRecord, ahead: str) -> pd.DataFrame:
    """By how much a sampler's best f is above each other one's, seed by seed: the mean difference, half the width of
    its 95 % interval, the number of seeds, and whether the difference is beyond that band."""
    mine = {record.config.seed: best_so_far([record])[0, -1] for record in experiment.finished(ahead)}
    lines = []
    for name in searched(experiment):
        theirs = {record.config.seed: best_so_far([record])[0, -1] for record in experiment.finished(name)}
        seeds = sorted(set(mine) & set(theirs))
        if name == ahead or not seeds:
            continue
        differences = [float(mine[seed] - theirs[seed]) for seed in seeds]
        mean, half = float(np.mean(differences)), _half_width(differences)
        said = (
            "one seed tells nothing"
            if half is None
            else "above"
            if mean > half
            else "below"
            if mean < -half
            else "within"
        )
        lines.append((LABELS[name], mean, half, len(seeds), said))
    return pd.DataFrame(lines, columns=["against", "difference in best f", "95 % half-width", "seeds", "the band says"])


def without_a_search(experiment: ExperimentRecord) -> pd.DataFrame:
    """Width scaling and magnitude pruning at the same sizes: seed, method, params, times, accuracy, f."""
    lines = []
    for record in experiment.finished(WITHOUT_A_SEARCH):
        teacher = record.search_teacher
        assert teacher is not None
        found = [
            ("width scaling", row["params"], row["accuracy"], row["f"]) for row in record.complete.to_dict("records")
        ]
        found += [
            ("magnitude pruning", one["params"], one["accuracy"], one["f"]) for one in record.results["pruned"].values()
        ]
        for method, params, accuracy, f in sorted(found):
            lines.append((record.config.seed, method, params, teacher.params / params, 100 * accuracy, f))
    return pd.DataFrame(lines, columns=["seed", "method", "params", "times", "accuracy [%]", "f"])


def without_a_search_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """The best of each seed without a search: mean and deviation of f, its times, and the seeds."""
    table = without_a_search(experiment)
    lines = []
    for method, rows in table.groupby("method", sort=False):
        best = rows.loc[rows.groupby("seed")["f"].idxmax()]
        f, times = stat(list(best["f"])), stat(list(best["times"]))
        sizes = len(rows) // len(best)
        lines.append((method, f.mean, f.std, times.mean, times.std, len(best), sizes))
    columns = ["method", "best f", "best f ±", "times", "times ±", "seeds", "sizes tried"]
    return pd.DataFrame(lines, columns=columns)


def draws_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """f of the students that were drawn at random, and of width scaling: mean, quartiles, best, and the accuracy."""
    lines = []
    for name in ("random", "random_mild", WITHOUT_A_SEARCH):
        trials = [record.observed for record in experiment.finished(name)]
        if trials:
            rows = pd.concat(trials)
            f = rows["f"].fillna(0.0)
            low, middle, high = np.percentile(f, (25, 50, 75))
            accuracy = 100 * rows["accuracy"].fillna(0.0).median()
            lines.append((LABELS[name], len(rows), float(f.mean()), low, middle, high, float(f.max()), accuracy))
    columns = ["drawn", "students", "mean f", "lower quartile", "median f", "upper quartile", "best f"]
    return pd.DataFrame(lines, columns=[*columns, "median accuracy [%]"])


def read_proxy(experiment: ExperimentRecord) -> StudyRecord | None:
    """The study whose students were all trained to the end; None before it has begun."""
    return experiment.first(PROXY)


def proxy_table(record: StudyRecord) -> pd.DataFrame:
    """What search f is worth: epochs of search training, rank correlation with f after final training, students.

    Search training has one learning rate throughout, so the first n epochs of a longer one are a training of n epochs,
    whose best epoch counts. Both f are of the validation images.
    """
    teacher, finalists = record.search_teacher, record.finalists
    columns = ["search epochs", "rank correlation", "students"]
    if teacher is None or len(finalists) < LEAST:
        return pd.DataFrame(columns=columns)
    params = dict(zip(record.trials["trial"], record.trials["params"], strict=True))
    curves = record.epochs[record.epochs["phase"] == "search"].copy()
    curves["trial"] = curves["name"].map(trial_of)
    final = dict(zip(finalists["trial"], finalists["final_f"], strict=True))
    lines = []
    for epochs in range(1, record.config.epochs + 1):
        best = curves[curves["epoch"] <= epochs].groupby("trial")["accuracy"].max()
        trials = [trial for trial in final if trial in best.index]
        searched = [objective(params[t], teacher.params, float(best[t]), teacher.accuracy) for t in trials]
        lines.append((epochs, rank_correlation(searched, [final[t] for t in trials]), len(trials)))
    return pd.DataFrame(lines, columns=columns)


def write_summary(experiment: ExperimentRecord) -> dict[str, Any]:
    """Write summary.json into the experiment's folder: one entry a sampler, what wins without a search, and the proxy's
    worth. Returns what it holds."""
    config = experiment.config
    proxy = read_proxy(experiment)
    summary: dict[str, Any] = {
        "study": config.study,
        "teacher": config.teacher,
        "dataset": config.dataset,
        "evaluations": config.num_evaluations,
        "samplers": comparison_summary(experiment),
        "without_a_search": _records(without_a_search_table(experiment)),
        "proxy": [] if proxy is None else _records(proxy_table(proxy)),
    }
    path = experiment.folder / "summary.json"
    _write(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary


def searched(experiment: ExperimentRecord) -> tuple[str, ...]:
    """Who is compared, in the order of `LABELS`."""
    return tuple(name for name in LABELS if name in experiment.studies)


# -- parts -------------------------------------------------------------------------------------------------------------


def _of_seed(experiment: ExperimentRecord, name: str, seed: int) -> StudyRecord | None:
    return next((record for record in experiment.finished(name) if record.config.seed == seed), None)


def _needed(record: StudyRecord, random: StudyRecord | None) -> tuple[int | None, bool]:
    """How many evaluations until the random study's final best is reached, and whether it is."""
    if random is None:
        return None, False
    best, wanted = best_so_far([record])[0], best_so_far([random])[0, -1]
    reached = np.flatnonzero(best >= wanted)
    return (int(reached[0]) + 1, True) if len(reached) else (len(best), False)


def _foreseen(record: StudyRecord) -> float | None:
    """Rank correlation of f with what was predicted before the evaluation; None where nothing was."""
    rows = record.observed[record.observed["mean"].notna() & record.observed["f"].notna()]
    return rank_correlation(rows["mean"], rows["f"])


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    mean, std = stat(values)
    return {"mean": mean, "std": std}


def _half_width(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of the mean; None for one value."""
    return float(mean_and_band(np.array(values, float)[:, None])[1][0]) if len(values) > 1 else None


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain data, missing numbers as None."""
    return [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
