"""How the search went: f by index, accuracy against parameters, predictions, and f after final training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esnac_lib.report.figures import style
from esnac_lib.report.records.study import Measured, StudyRecord
from esnac_lib.report.statistics import rank_correlation

BINS = 25
FEWEST_FOR_FIT = 5  # points
NOTHING = "No architecture has been evaluated yet."


@style.theme()
def f_against_index(*records: StudyRecord, labels: Sequence[str] = ()) -> Figure:
    """Draw f of each evaluated architecture in order, the best so far, and the distribution (ESNAC Figures 1 and 2).

    Several studies are overlaid, named after their samplers or by `labels`. Failed trials are marked at the bottom.
    """
    figure = style.new_figure(10, 4.4)
    values = np.concatenate([record.complete["f"] for record in records])
    if not sum(len(record.observed) for record in records):
        return style.in_words(figure, NOTHING)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.6, 1))
    low = np.floor(10 * values.min(initial=1.0)) / 10 if len(values) else 0.0
    bins = np.linspace(low, max(1.0, values.max(initial=0.0)), BINS + 1)
    shape: dict[str, Any] = {"bins": bins, "kde": True, "kde_kws": {"cut": 0}, "element": "step", "alpha": 0.25}
    for record, label, look in zip(records, labels or _labels(records), style.looks(), strict=False):
        x, f = record.complete["trial"] + 1, record.complete["f"]
        sns.scatterplot(x=x, y=f, color=look["color"], alpha=0.6, label=f"{label}: f", ax=left)
        left.plot(*best_so_far(record), drawstyle="steps-post", linewidth=2, label=f"{label}: best so far", **look)
        _mark_failed(left, record, label, look["color"])
        sns.histplot(y=f, color=look["color"], ax=right, **shape)
    margin = 0.06 * (bins[-1] - low)
    left.set_ylim(low - margin, bins[-1] + margin / 2)
    ylabel = "objective f (search, validation images)"
    style.tidy(left, xlabel="index of the evaluated architecture", ylabel=ylabel, integers=True)
    xlabel = "number of architectures\n(curve: kernel density estimate)"
    style.tidy(right, xlabel=xlabel, ylabel="", integers=True)
    return style.legend_above(figure, left, 3)


def best_so_far(record: StudyRecord) -> tuple[pd.Series, np.ndarray]:
    """Return the indices of the evaluated architectures, from 1, and the best f up to each; NaN before the first."""
    observed = record.observed
    f = observed["f"].where(observed["state"] == "complete").to_numpy(dtype=float)
    return observed["trial"] + 1, np.fmax.accumulate(f)


def _mark_failed(axes: Axes, record: StudyRecord, label: str, colour: str) -> None:
    """Mark trials at the bottom that count as f = 0, and those that a machine fault left without f."""
    look: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "markersize": 7, "markeredgewidth": 1.5}
    for has_f, marker, what in ((True, "x", "failed (counts as f = 0)"), (False, "1", "machine fault (no f)")):
        at = record.failed.loc[record.failed["f"].notna() == has_f, "trial"] + 1
        if len(at):
            axes.plot(at, np.full(len(at), 0.025), marker, color=colour, label=f"{label}: {what}", **look)


@style.theme()
def accuracy_against_parameters(record: StudyRecord) -> Figure:
    """Draw the search's students by size and validation accuracy, their Pareto front, and the final networks.

    A thin line joins the solution's accuracy after the search with its test accuracy after final training.
    """
    figure = style.new_figure(8, 4.8)
    complete, teacher = record.complete, record.teacher
    if complete.empty or teacher is None:
        return style.in_words(figure, "No student has an accuracy yet.")
    axes = figure.add_subplot()
    points = draw_students(axes, complete, 30, "Pareto front of the students", label="student (search, validation)")
    _mark_final_networks(axes, record, teacher)
    title = _message(record, teacher)
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="accuracy [%]", title=title, counts=True)
    figure.colorbar(points, ax=axes, label="objective f (search)", pad=0.01)
    return style.legend_above(figure, axes, 2)


def draw_students(axes: Axes, complete: pd.DataFrame, size: float, front: str, **look: Any) -> PathCollection:
    """Draw trials by parameters and accuracy, the highest f on top, and their Pareto front under its label."""
    best = pareto_front(complete)
    style_of_front: dict[str, Any] = {"drawstyle": "steps-post", "color": style.GREEN, "linewidth": 1.5}
    order = complete.sort_values("f")
    points = axes.scatter(order["params"], 100 * order["accuracy"], size, order["f"], cmap=style.F_COLOURS, **look)
    axes.plot(best["params"], 100 * best["accuracy"], label=front, **style_of_front)
    return points


def _mark_final_networks(axes: Axes, record: StudyRecord, teacher: Measured) -> None:
    """Mark the teacher, the uniformly narrowed teacher, and the solution, or before there is one the best student."""
    solution, narrowed, best = record.solution, record.narrowed, record.best
    stage = "final training, test" if solution is not None else "validation"
    axes.plot(teacher.params, 100 * teacher.accuracy, **style.TEACHER, label=f"teacher ({teacher.evaluated_on})")
    if narrowed is not None and not record.narrowed_is_solution:
        label = f"uniformly narrowed teacher ({stage})"
        axes.plot(narrowed.params, 100 * narrowed.accuracy, **style.NARROWED, label=label)
    if solution is not None:
        after_search = record.complete.loc[record.complete["trial"] == solution.trial, "accuracy"]
        ends = [100 * float(after_search.iloc[0]), 100 * solution.accuracy]
        axes.plot([solution.params] * 2, ends, color=style.VERMILLION, linewidth=1, zorder=1)
        which = "solution, the narrowed teacher itself" if record.narrowed_is_solution else "solution"
        axes.plot(solution.params, ends[1], **style.SOLUTION, label=f"{which} ({stage})")
    elif best is not None:
        axes.plot(best.params, 100 * best.accuracy, **style.SOLUTION, label="best f of the search (validation)")


def _message(record: StudyRecord, teacher: Measured) -> str:
    student, objective = record.student, record.objective
    assert student is not None
    which = "best f" if record.solution is None else "solution" if record.is_final else "solution so far"
    change = student.minus(teacher)
    points = f"{change.signed} of {student.evaluated_on} accuracy{change.caveat}"
    times = objective.size(teacher.measurement) / objective.size(student.measurement)
    return f"{which}: {times:.2f}× fewer {objective.label}, {points}"


def pareto_front(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that no other one beats in both parameters and accuracy, by parameters."""
    ordered = trials.sort_values(["params", "accuracy"], ascending=[True, False])
    before = ordered["accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["accuracy"] > before]


@style.theme()
def predicted_against_observed(record: StudyRecord) -> Figure:
    """Draw f as the proposing kernel predicted it (mean ± standard deviation) against f as it was observed then."""
    figure = style.new_figure(6.2, 5.6)
    predicted = record.observed[record.observed["mean"].notna() & record.observed["f"].notna()]
    if predicted.empty:
        random, none = f"{record.name} predicts nothing", "none was made before these trials"
        why = random if record.config.sampler == "random" else none
        return style.in_words(figure, f"There are no predictions to compare with:\n{why}.")
    axes = figure.add_subplot()
    mean, f = predicted["mean"].to_numpy(), predicted["f"].to_numpy()
    std = np.sqrt(predicted["variance"].to_numpy())
    axes.errorbar(f, mean, std, fmt="none", ecolor=style.PALE, elinewidth=1.2, zorder=1)
    points = axes.scatter(f, mean, c=predicted["step"] + 1, cmap=style.F_COLOURS, s=32, zorder=2, label="trial")
    _regression(axes, f, mean)
    style.identity_line(axes, style.span([*f, *mean], 0.2))
    ylabel = "predicted f (mean ± standard deviation,\nincluding observation noise)"
    style.tidy(axes, xlabel="observed f", ylabel=ylabel, title=f"{len(f)} predictions, {_correlation(mean, f)}")
    if predicted["step"].nunique() > 1:
        figure.colorbar(points, ax=axes, label="search step", pad=0.01, ticks=MaxNLocator(integer=True))
    return style.legend_above(figure, axes, 4)


@style.theme()
def search_f_against_final_f(record: StudyRecord) -> Figure:
    """Draw f after the search against f after final training, for the students that had one."""
    figure = style.new_figure(6.2, 5.2)
    finalists = record.finalists
    if finalists.empty:
        why = "none was asked for" if record.config.final == "none" else "it has not been reached yet"
        return style.in_words(figure, f"There is no final training to show:\n{why}.")
    axes = figure.add_subplot()
    x, y = finalists["search_f"].to_numpy(), finalists["final_f"].to_numpy()
    images = f"{finalists['evaluated_on'].iloc[0]} images"
    sns.scatterplot(x=x, y=y, color=style.BLUE, s=110, label=f"finalist ({images})", ax=axes)
    ends = [*x, *y]
    if (solution := record.solution) is not None:
        chosen = float(record.trials.loc[record.trials["trial"] == solution.trial, "f"].iloc[0])
        axes.plot(chosen, solution.f, **style.SOLUTION, label=f"solution, trial {solution.trial} (test images)")
        ends += [solution.f, chosen]
    _regression(axes, x, y)
    style.identity_line(axes, style.span(ends, 0.02))
    for trial, at_x, at_y in zip(finalists["trial"], x, y, strict=True):
        axes.annotate(f"trial {trial}", (at_x, at_y), (9, -13), textcoords="offset points", fontsize="small")
    title = f"{len(x)} finalist{'s' * (len(x) > 1)}, {_correlation(x, y)}"
    xlabel, ylabel = "f after search training (validation images)", f"f after final training ({images})"
    style.tidy(axes, xlabel=xlabel, ylabel=ylabel, title=title)
    return style.legend_above(figure, axes, 2)


def _regression(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Return a linear fit with its 95 % band, where there are enough points for one."""
    if len(x) >= FEWEST_FOR_FIT and np.ptp(x) > 0:
        look: dict[str, Any] = {"color": style.BLUE, "label": "linear fit (95 % band)", "line_kws": {"linewidth": 1.5}}
        sns.regplot(x=x, y=y, scatter=False, seed=0, ax=axes, **look)


def _correlation(a: np.ndarray, b: np.ndarray) -> str:
    if (found := rank_correlation(a, b)) is None:
        return "too few for a rank correlation"
    return f"rank correlation (Spearman) {round(found, 2) + 0.0:.2f}"  # no -0.00


def _labels(records: Sequence[StudyRecord]) -> list[str]:
    """Return the samplers' names; the studies' where two share a sampler."""
    names = [record.name for record in records]
    return names if len(set(names)) == len(names) else [record.config.study for record in records]
