"""A comparison of samplers: what sampler_comparison.ipynb claims, from the ledgers of its studies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from esnac_lib.config.comparison import PROXY, REFERENCE, sampler_variants
from esnac_lib.files import write_atomically
from esnac_lib.objective import Measurement
from esnac_lib.report.figures.variants import best_so_far
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord, trial_of
from esnac_lib.report.statistics import LEAST, mean_and_band, rank_correlation, stat

PRUNING, TIMES = "magnitude pruning", "compression (×)"


def comparison_summary(experiment: ExperimentRecord) -> dict[str, dict[str, Any]]:
    """Return the numbers of each sampler with a finished run.

    They are best_f {mean, std, ci95}, evaluations_to_random_best {mean, std, reached}, rank_correlation {mean, std}
    where it predicts, seeds, evaluations. ci95 is half the width of Student's 95 % confidence interval of the mean. A
    run that never reaches random search's final best with the same seed counts with all its evaluations, and not as
    reached.
    """
    found, references = {}, _bests(experiment, REFERENCE)
    for name in searched(experiment):
        records = experiment.finished(name)
        if not records:
            continue
        needed = [_needed(record, references.get(record.config.seed)) for record in records]
        ranks = [rank for record in records if (rank := _rank_correlation(record)) is not None]
        best = list(_bests(experiment, name).values())
        counted = [n for n, _ in needed if n is not None]
        found[name] = {
            "best_f": _spread(best) | {"ci95": _half_width(best)},
            "evaluations_to_random_best": _spread(counted) | {"reached": sum(reached for _, reached in needed)},
            **({"rank_correlation": _spread(ranks)} if ranks else {}),
            "seeds": [record.config.seed for record in records],
            "evaluations": [len(record.observed) for record in records],
        }
    return found


def comparison_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """Return `comparison_summary` as one line a sampler, with the seconds that a proposal and an evaluation took."""
    lines = []
    for name, entry in comparison_summary(experiment).items():
        records = experiment.finished(name)
        trials = pd.concat([record.trials for record in records])
        best, to_best, ranks = entry["best_f"], entry["evaluations_to_random_best"], entry.get("rank_correlation", {})
        lines.append(
            {
                "sampler": label_of(name),
                "best f": best["mean"],
                "best f ±": best["std"],
                "95 % half-width": best["ci95"],
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
    """Return by how much a sampler's best f is above each other one's, seed by seed.

    One line has the mean difference, half the width of its 95 % interval, the number of seeds, and whether the
    difference is beyond that band.
    """
    mine, lines = _bests(experiment, ahead), []
    for name in searched(experiment):
        theirs = _bests(experiment, name)
        seeds = sorted(mine.keys() & theirs.keys())
        if name == ahead or not seeds:
            continue
        differences = [mine[seed] - theirs[seed] for seed in seeds]
        mean, half = float(np.mean(differences)), _half_width(differences)
        said = "above" if half is None or mean > half else "below" if mean < -half else "within"
        said = "one seed tells nothing" if half is None else said
        lines.append((label_of(name), mean, half, len(seeds), said))
    return pd.DataFrame(lines, columns=["against", "difference in best f", "95 % half-width", "seeds", "the band says"])


def without_a_search(experiment: ExperimentRecord) -> pd.DataFrame:
    """Return width scaling and magnitude pruning at the same sizes: seed, method, params, times, accuracy, f."""
    names = [variant.name for variant in sampler_variants().values() if not variant.searches]
    lines = []
    for record in (record for name in names for record in experiment.finished(name)):
        teacher = record.search_teacher
        assert teacher is not None
        found: list[tuple[str, dict[Any, Any]]] = [(record.name, row) for row in record.complete.to_dict("records")]
        found += [(PRUNING, row) for row in record.results["pruned"].values()]
        for method, row in sorted(found, key=lambda one: (one[0], one[1]["params"])):
            times, accuracy = teacher.params / row["params"], 100 * row["accuracy"]
            lines.append((record.config.seed, method, row["params"], times, accuracy, row["f"]))
    return pd.DataFrame(lines, columns=["seed", "method", "params", TIMES, "accuracy [%]", "f"])


def without_a_search_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """Return the best of each seed without a search: mean and deviation of f and of its compression, and the seeds."""
    lines = []
    for method, rows in without_a_search(experiment).groupby("method", sort=False):
        best = rows.loc[rows.groupby("seed")["f"].idxmax()]
        lines.append((method, *stat(list(best["f"])), *stat(list(best[TIMES])), len(best), len(rows) // len(best)))
    columns = ["method", "best f", "best f ±", TIMES, f"{TIMES} ±", "seeds", "sizes tried"]
    return pd.DataFrame(lines, columns=columns)


def draws_table(experiment: ExperimentRecord) -> pd.DataFrame:
    """Return the f of what was drawn at random, and of width scaling: mean, quartiles, best, and the accuracy."""
    lines = []
    variants = sorted(sampler_variants().values(), key=lambda variant: not variant.searches)
    for name in (one.name for one in variants if one.sampler == REFERENCE or not one.searches):
        if trials := [record.observed for record in experiment.finished(name)]:
            rows = pd.concat(trials)
            f = rows["f"].fillna(0.0)
            quartiles, accuracy = np.percentile(f, (25, 50, 75)), 100 * rows["accuracy"].fillna(0.0).median()
            lines.append((label_of(name), len(rows), float(f.mean()), *quartiles, float(f.max()), accuracy))
    columns = ["drawn", "students", "mean f", "lower quartile", "median f", "upper quartile", "best f"]
    return pd.DataFrame(lines, columns=[*columns, "median accuracy [%]"])


def read_proxy(experiment: ExperimentRecord) -> StudyRecord | None:
    """Return the study whose students were all trained to the end; None before it has begun."""
    return experiment.first(PROXY)


def proxy_table(record: StudyRecord) -> pd.DataFrame:
    """Return what search f is worth: search epochs, rank correlation with f after final training, students.

    Search training has one learning rate throughout, so the first n epochs of a longer one are a training of n epochs,
    whose best epoch counts. Both f are of the validation images.
    """
    teacher, finalists = record.search_teacher, record.finalists
    columns = ["search epochs", "rank correlation", "students"]
    if teacher is None or len(finalists) < LEAST:
        return pd.DataFrame(columns=columns)
    sizes = {row["trial"]: (row["params"], row["macs"]) for row in record.trials.to_dict("records")}
    curves = record.epochs[record.epochs["phase"] == "search"].copy()
    curves["trial"] = curves["name"].map(trial_of)
    final = dict(zip(finalists["trial"], finalists["final_f"], strict=True))
    lines = []
    for epochs in range(1, record.config.epochs + 1):
        best = curves[curves["epoch"] <= epochs].groupby("trial")["accuracy"].max()
        trials = [trial for trial in final if trial in best.index]
        searched = [record.objective.value(Measurement(float(best[t]), *sizes[t]), teacher.measurement) for t in trials]
        lines.append((epochs, rank_correlation(searched, [final[t] for t in trials]), len(trials)))
    return pd.DataFrame(lines, columns=columns)


def write_summary(experiment: ExperimentRecord) -> dict[str, Any]:
    """Write each sampler's numbers, the best without a search and what search f is worth to summary.json; return it."""
    config, proxy = experiment.config, read_proxy(experiment)
    without = without_a_search_table(experiment).rename(columns=lambda name: name.replace(TIMES, "times"))
    summary: dict[str, Any] = {
        "study": config.study,
        "teacher": config.teacher,
        "dataset": config.dataset,
        "evaluations": config.num_evaluations,
        "samplers": comparison_summary(experiment),
        "without_a_search": _records(without),
        "proxy": [] if proxy is None else _records(proxy_table(proxy)),
    }
    write_atomically(experiment.folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary


def searched(experiment: ExperimentRecord) -> tuple[str, ...]:
    """Return who is compared, in the order of `sampler_variants`."""
    return tuple(name for name in sampler_variants() if name in experiment.studies)


def label_of(variant: str) -> str:
    """Return the name in tables and figures of what takes part in a comparison.

    >>> label_of("esnac_ours_k8")
    'ESNAC ours, K = 8'
    """
    return sampler_variants()[variant].label


def _bests(experiment: ExperimentRecord, name: str) -> dict[int, float]:
    """Return the best f of each finished run, by seed."""
    return {record.config.seed: float(best_so_far([record])[0, -1]) for record in experiment.finished(name)}


def _needed(record: StudyRecord, wanted: float | None) -> tuple[int | None, bool]:
    """Return how many evaluations it took to reach the random study's final best, and whether it was reached."""
    if wanted is None:
        return None, False
    best = best_so_far([record])[0]
    reached = np.flatnonzero(best >= wanted)
    return (int(reached[0]) + 1, True) if len(reached) else (len(best), False)


def _rank_correlation(record: StudyRecord) -> float | None:
    """Return the rank correlation of f with its prediction before the evaluation; None without predictions."""
    rows = record.observed[record.observed["mean"].notna() & record.observed["f"].notna()]
    return rank_correlation(rows["mean"], rows["f"])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return stat(values)._asdict()


def _half_width(values: Sequence[float]) -> float | None:
    """Return half of Student's 95 % interval of the mean; None for one value."""
    return float(mean_and_band(np.array(values, float)[:, None])[1][0]) if len(values) > 1 else None


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return plain data, missing numbers as None."""
    rows: list[dict[Any, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows
