"""Figures of an experiment: how the variants' best f grew, and what they decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esnac_lib.report.figures import style
from esnac_lib.report.records.experiment import ExperimentRecord, decisions_table, operators_of
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.statistics import mean_and_band

NOTHING = "No study of this experiment has been run yet."


@style.theme()
def best_f(experiment: ExperimentRecord, rows: Mapping[str, str]) -> Figure:
    """Draw the best f so far against the number of evaluations: the runs' mean and its 95 % band (Student's t).

    rows: by label, the variant. One run has no band.
    """
    figure = style.new_figure(8, 4.4)
    known = {label: records for label, variant in rows.items() if (records := experiment.studies.get(variant))}
    if not any(len(record.observed) for records in known.values() for record in records):
        return style.in_words(figure, NOTHING)
    axes = figure.add_subplot()
    band: dict[str, Any] = {"errorbar": _interval, "err_kws": {"step": "post", "alpha": 0.12}}
    band |= {"linewidth": 2, "drawstyle": "steps-post"}
    for (label, records), look in zip(known.items(), style.looks(), strict=False):
        best = pd.DataFrame(best_so_far(records)).melt(var_name="index", value_name="f")
        name = f"{label} ({len(records)} run{'s' * (len(records) > 1)})"
        sns.lineplot(x=best["index"] + 1, y=best["f"], label=name, ax=axes, **band, **look)
    ylabel = "best objective f so far (search, validation images)"
    style.tidy(axes, xlabel="evaluated architectures", ylabel=ylabel, integers=True)
    return style.legend_above(figure, axes, 3)


def _interval(runs: pd.Series) -> tuple[float, float]:
    mean, half = mean_and_band(runs.to_numpy())
    return float(mean - half), float(mean + half)


def best_so_far(records: Sequence[StudyRecord]) -> np.ndarray:
    """Return the best f among the first n evaluations, as far as every run has come; before any f it is 0.

    Shape: (runs, evaluations).
    """
    f = [np.fmax.accumulate(np.fmax(record.observed["f"].to_numpy(), 0.0)) for record in records]
    shortest = min(len(values) for values in f)
    return np.array([values[:shortest] for values in f])


def decisions_made(experiment: ExperimentRecord, rows: Mapping[str, str]) -> Figure:
    """Draw what each variant's students have lost and gained, a panel for each operator.

    A point is a student, hollow where it failed; the bar is the median.
    """
    table = decisions_table(experiment, rows)
    figure = style.new_figure(10, 1.2 + 0.42 * max(4, len(rows)))
    if table.empty:
        return style.in_words(figure, NOTHING)
    operators = operators_of(experiment)
    labels = [label for label in rows if (table["variant"] == label).any()]
    panels = figure.subplots(1, len(operators), sharey=True)
    for axes, operator in zip(panels, operators, strict=True):
        for place, label in enumerate(labels):
            mine = table[table["variant"] == label]
            _strip(axes, mine, operator.column, place, style.SERIES[place % len(style.SERIES)])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_yticks(range(len(labels)), labels)
        right = max(1.0, float(table[operator.column].max()))
        axes.set_xlim(-0.03 * right, 1.05 * right)
        style.tidy(axes, xlabel=operator.label, ylabel="", integers=operator.whole)
    return figure


def _strip(axes: Axes, rows: pd.DataFrame, column: str, place: int, colour: str) -> None:
    """Points side by side within a row of the figure, in the order of their trials."""
    values = rows[column].to_numpy(dtype=float)
    height = place + 0.28 * np.linspace(-1, 1, len(values))
    failed = (rows["state"] == "failed").to_numpy()
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "color": colour}
    axes.plot(values[~failed], height[~failed], alpha=0.6, **look)
    axes.plot(values[failed], height[failed], markerfacecolor="none", **look)
    axes.plot([np.median(values)] * 2, [place - 0.36, place + 0.36], color=style.BLACK, linewidth=2)
