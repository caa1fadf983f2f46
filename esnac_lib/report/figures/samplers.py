"""Figures of the comparison of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esnac_lib.config.comparison import DASHED, REFERENCE, Variant, sampler_variants
from esnac_lib.report.figures import style
from esnac_lib.report.figures.variants import NOTHING, best_so_far
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.statistics import mean_and_band
from esnac_lib.report.tables.samplers import PRUNING, proxy_table, searched, without_a_search


def panels_of(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    """Return what is drawn in each panel, by its title; random search is in both."""
    published = [one for one in variants if one.searches and not one.beyond_the_paper]
    beyond = [one for one in variants if one.beyond_the_paper]
    fixed = [*(one for one in variants if one.name == REFERENCE), *(one for one in variants if not one.searches)]
    return {"as published": published, "beyond the papers, and no search": beyond + fixed}


def samplers_figure(experiment: ExperimentRecord) -> Figure:
    """Draw the best f so far against evaluations, mean over the seeds with its 95 % band.

    Left: as published. Right: what goes beyond the papers, with random search and width scaling without a search.
    """
    figure = style.new_figure(11, 5.2)
    if not any(len(record.observed) for name in searched(experiment) for record in experiment.studies[name]):
        return style.in_words(figure, NOTHING)
    panels = panels_of(list(sampler_variants().values()))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (title, variants) in zip((left, right), panels.items(), strict=True):
        for variant in variants:
            if records := [record for record in experiment.studies.get(variant.name, ()) if len(record.observed)]:
                _draw(axes, variant, records, experiment.config.num_evaluations)
        label = "best f so far (search, validation images)" if axes is left else ""
        style.tidy(axes, xlabel="evaluated architectures", ylabel=label, title=title, integers=True)
        style.legend(axes, loc="lower right")
    _zoom(left, experiment)
    return figure


def _draw(axes: Axes, variant: Variant, records: Sequence[StudyRecord], evaluations: int) -> None:
    mean, half = mean_and_band(best_so_far(records))
    index = np.arange(1, len(mean) + 1)
    if not variant.searches and len(mean) < evaluations:  # it is done: its best is drawn to the end
        index, mean, half = (np.append(index, evaluations), *(np.append(v, v[-1]) for v in (mean, half)))
    look: dict[str, Any] = {"color": variant.colour, "linestyle": variant.linestyle, "linewidth": 1.8}
    axes.plot(index, mean, drawstyle="steps-post", label=variant.label, **look)
    axes.fill_between(index, mean - half, mean + half, step="post", color=variant.colour, alpha=0.12, linewidth=0)


def _zoom(axes: Axes, experiment: ExperimentRecord) -> None:
    """Show f from a little below the worst sampler's mean best after a quarter of the evaluations."""
    quarter = max(0, experiment.config.num_evaluations // 4 - 1)
    curves = [best_so_far(records) for name in searched(experiment) if (records := experiment.studies[name])]
    means = [curve.mean(0)[min(quarter, curve.shape[1] - 1)] for curve in curves if curve.shape[1]]
    low, top = min(means), max(curve.max() for curve in curves if curve.size)
    axes.set_ylim(low - 0.15 * (top - low), top + 0.1 * (top - low))


def sizes_figure(experiment: ExperimentRecord) -> Figure:
    """Draw f against parameters: width scaling and magnitude pruning at the same sizes, and each search's bests."""
    table = without_a_search(experiment)
    figure = style.new_figure(9, 5.2)
    if table.empty:
        return style.in_words(figure, NOTHING)
    axes = figure.add_subplot()
    for method, rows in table.groupby("method"):
        marker, colour = ("^", style.GREY) if method == PRUNING else ("D", style.PURPLE)
        look: dict[str, Any] = {"color": colour, "markersize": 5, "alpha": 0.7, "markerfacecolor": "none"}
        axes.plot(rows["params"], rows["f"], marker, linestyle="none", label=f"{method}, no search", **look)
    for variant in (one for one in sampler_variants().values() if one.searches):
        best = [(r.best.params, r.best.f) for r in experiment.finished(variant.name) if r.best is not None]
        hollow = variant.beyond_the_paper or variant.linestyle == DASHED
        look = {"color": variant.colour, "markersize": 9 if variant.marker == "*" else 6}
        look |= {"markerfacecolor": "none" if hollow else None, "label": f"best of {variant.label}"}
        if best:
            axes.plot(*zip(*best, strict=True), variant.marker, linestyle="none", **look)
    bests = [r.best for name in searched(experiment) for r in experiment.studies[name] if r.best is not None]
    top = max([table["f"].max(), *(one.f for one in bests)])
    low = max(table["f"].min(), top - 0.35)
    shown = [*table["params"][table["f"] >= low], *(one.params for one in bests)]
    axes.set(ylim=(low, top + 0.02), xlim=(0.8 * min(shown), 1.25 * max(shown)))
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="f (search, validation images)", counts=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return figure


def proxy_figure(record: StudyRecord | None) -> Figure:
    """Draw the rank correlation of search f with final f by the number of search epochs, and both f of each student."""
    figure = style.new_figure(10, 4.2)
    if record is None or (table := proxy_table(record)).empty:
        return style.in_words(figure, "No student has been trained to the end for this comparison.")
    left, right = figure.subplots(1, 2)
    left.plot(table["search epochs"], table["rank correlation"], "o-", color=style.BLUE)
    left.set_ylim(min(0.0, 1.1 * float(table["rank correlation"].min())), 1.05)
    ylabel, title = "rank correlation with final f", f"{int(table['students'].iloc[-1])} students"
    style.tidy(left, xlabel="epochs of search training", ylabel=ylabel, title=title, integers=True)
    search_f, final_f = record.finalists["search_f"], record.finalists["final_f"]
    right.plot(search_f, final_f, "o", color=style.BLUE)
    ends = style.span([*search_f, *final_f], 0.02)
    right.plot(ends, ends, color=style.GREY, linestyle="--", linewidth=1)
    xlabel = f"f after {record.config.epochs} search epochs"
    style.tidy(right, xlabel=xlabel, ylabel="f after final training (validation images)")
    return figure
