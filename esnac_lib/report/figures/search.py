"""How the search went: f by index, accuracy against parameters, predictions, and f after final training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
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
    looks = zip(cycle(style.SERIES), cycle(style.LINES), strict=False)
    for record, label, (colour, line) in zip(records, labels or _labels(records), looks, strict=False):
        observed, complete = record.observed, record.complete
        x, f = complete["trial"] + 1, complete["f"]
        sns.scatterplot(x=x, y=f, color=colour, alpha=0.6, label=f"{label}: f", ax=left)
        best = np.fmax.accumulate(observed["f"].where(observed["state"] == "complete").to_numpy())
        drawn = {"drawstyle": "steps-post", "color": colour, "linestyle": line, "linewidth": 2}
        left.plot(observed["trial"] + 1, best, label=f"{label}: best so far", **drawn)
        _mark_failed(left, record, label, colour)
        sns.histplot(
            y=f, bins=bins, kde=True, kde_kws={"cut": 0}, color=colour, element="step", alpha=0.25, ax=right
        )  # fmt: skip
    margin = 0.06 * (bins[-1] - low)
    left.set_ylim(low - margin, bins[-1] + margin / 2)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.tidy(left, xlabel="index of the evaluated architecture", ylabel="objective f (search, validation images)")
    style.tidy(right, xlabel="number of architectures\n(curve: kernel density estimate)", ylabel="")
    style.legend_above(figure, left, 3)
    return figure


def _mark_failed(axes: Axes, record: StudyRecord, label: str, colour: str) -> None:
    """Mark trials at the bottom that count as f = 0, and those that a machine fault left without f."""
    failed, bottom = record.failed, axes.get_xaxis_transform()
    for marker, rows, what in (
        ("x", failed[failed["f"].notna()], "failed (counts as f = 0)"),
        ("1", failed[failed["f"].isna()], "machine fault (no f)"),
    ):
        if len(rows):
            at = np.full(len(rows), 0.025)
            axes.plot(
                rows["trial"] + 1, at, marker, transform=bottom, color=colour, markersize=7, markeredgewidth=1.5,
                label=f"{label}: {what}",
            )  # fmt: skip


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
    order = complete.sort_values("f")
    points = axes.scatter(
        order["params"], 100 * order["accuracy"], c=order["f"], cmap=style.F_COLOURS, s=30,
        label="student (search, validation)",
    )  # fmt: skip
    front = pareto_front(complete)
    axes.plot(
        front["params"], 100 * front["accuracy"], drawstyle="steps-post", color=style.GREEN, linewidth=1.5,
        label="Pareto front of the students",
    )  # fmt: skip
    _mark_final_networks(axes, record, teacher)
    axes.set_title(_message(record, teacher), fontsize="medium")
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="accuracy [%]")
    style.count_ticks(axes)
    figure.colorbar(points, ax=axes, label="objective f (search)", pad=0.01)
    style.legend_above(figure, axes, 2)
    return figure


def _mark_final_networks(axes: Axes, record: StudyRecord, teacher: Measured) -> None:
    """Mark the teacher, the uniformly narrowed teacher, and the solution, or before there is one the best student."""
    solution, narrowed, best = record.solution, record.narrowed, record.best
    stage = "final training, test" if solution is not None else "validation"
    axes.plot(teacher.params, 100 * teacher.accuracy, **style.TEACHER, label=f"teacher ({teacher.evaluated_on})")
    if narrowed is not None:
        label = f"uniformly narrowed teacher ({stage})"
        axes.plot(narrowed.params, 100 * narrowed.accuracy, **style.NARROWED, label=label)
    if solution is not None:
        after_search = record.complete.loc[record.complete["trial"] == solution.trial, "accuracy"]
        ends = [100 * float(after_search.iloc[0]), 100 * solution.accuracy]
        axes.plot([solution.params] * 2, ends, color=style.VERMILLION, linewidth=1, zorder=1)
        axes.plot(solution.params, ends[1], **style.SOLUTION, label=f"solution ({stage})")
    elif best is not None:
        axes.plot(best.params, 100 * best.accuracy, **style.SOLUTION, label="best f of the search (validation)")


def _message(record: StudyRecord, teacher: Measured) -> str:
    student = record.student
    assert student is not None
    which = "solution" if record.solution is not None else "best f"
    points = f"{100 * (student.accuracy - teacher.accuracy):+.2f} points of {student.evaluated_on} accuracy"
    return f"{which}: {teacher.params / student.params:.2f}× fewer parameters, {points}"


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
        why = (
            f"{record.name} predicts nothing"
            if record.config.sampler == "random"
            else "none was made before these trials"
        )
        return style.in_words(figure, f"There are no predictions to compare with:\n{why}.")
    axes = figure.add_subplot()
    mean, f = predicted["mean"].to_numpy(), predicted["f"].to_numpy()
    std = np.sqrt(predicted["variance"].to_numpy())
    axes.errorbar(f, mean, std, fmt="none", ecolor=style.PALE, elinewidth=1.2, zorder=1)
    points = axes.scatter(f, mean, c=predicted["step"] + 1, cmap=style.F_COLOURS, s=32, zorder=2, label="trial")
    _regression(axes, f, mean)
    style.identity_line(axes, style.span([*f, *mean], 0.2))
    style.tidy(
        axes,
        xlabel="observed f",
        ylabel="predicted f (mean ± standard deviation,\nincluding observation noise)",
        title=f"{len(f)} predictions, {_correlation(mean, f)}",
    )
    if predicted["step"].nunique() > 1:
        figure.colorbar(points, ax=axes, label="search step", pad=0.01, ticks=MaxNLocator(integer=True))
    style.legend_above(figure, axes, 4)
    return figure


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
    solution = record.solution
    ends = [*x, *y]
    if solution is not None:
        chosen = float(record.trials.loc[record.trials["trial"] == solution.trial, "f"].iloc[0])
        axes.plot(chosen, solution.f, **style.SOLUTION, label=f"solution, trial {solution.trial} (test images)")
        ends += [solution.f, chosen]
    _regression(axes, x, y)
    style.identity_line(axes, style.span(ends, 0.02))
    for trial, at_x, at_y in zip(finalists["trial"], x, y, strict=True):
        axes.annotate(f"trial {trial}", (at_x, at_y), (9, -13), textcoords="offset points", fontsize="small")
    style.tidy(
        axes,
        xlabel="f after search training (validation images)",
        ylabel=f"f after final training ({images})",
        title=f"{len(x)} finalist{'s' * (len(x) > 1)}, {_correlation(x, y)}",
    )
    style.legend_above(figure, axes, 2)
    return figure


def _regression(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A linear fit with its 95 % band, where there are enough points for one."""
    if len(x) >= FEWEST_FOR_FIT and np.ptp(x) > 0:
        look: dict[str, Any] = {"color": style.BLUE, "label": "linear fit (95 % band)", "line_kws": {"linewidth": 1.5}}
        sns.regplot(x=x, y=y, scatter=False, seed=0, ax=axes, **look)


def _correlation(a: np.ndarray, b: np.ndarray) -> str:
    found = rank_correlation(a, b)
    if found is None:
        return "too few for a rank correlation"
    return f"rank correlation (Spearman) {round(found, 2) + 0.0:.2f}"  # no -0.00


def _labels(records: Sequence[StudyRecord]) -> list[str]:
    """The samplers' names; the studies' where two share a sampler."""
    names = [record.name for record in records]
    return names if len(set(names)) == len(names) else [record.config.study for record in records]
