"""Figures of the comparison of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esnac_lib.report.figures import style
from esnac_lib.report.figures.variants import NOTHING, best_so_far
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.statistics import mean_and_band
from esnac_lib.report.tables.samplers import LABELS, proxy_table, searched, without_a_search

PAPER = ("random", "evolution", "tpe", "tpe_multivariate", "n2n", "esnac_k1", "esnac_k8")
OURS = (
    "random_mild",
    "evolution_mild",
    "evolution_narrowed",
    "esnac_ours_f_k8",
    "esnac_ours_evolution_k8",
    "esnac_ours_random_k8",
    "esnac_ours_half_k8",
    "esnac_ours_k1",
    "esnac_ours_k8",
    "random",
    "narrow",
)
DASHED = (0, (4, 2))
LOOKS = {
    **{"random": (style.BLACK, ":"), "narrow": (style.PURPLE, (0, (3, 1, 1, 1)))},
    **{"evolution": (style.GREEN, "-"), "n2n": (style.GREY, "-")},
    **{"tpe": (style.SKY, "-"), "tpe_multivariate": (style.SKY, DASHED)},
    **{"esnac_k1": (style.ORANGE, "-"), "esnac_k8": (style.VERMILLION, "-"), "random_mild": (style.BLUE, "-")},
    **{"evolution_mild": (style.GREEN, "-"), "evolution_narrowed": (style.GREEN, DASHED)},
    **{"esnac_ours_f_k8": (style.SKY, "-"), "esnac_ours_evolution_k8": (style.SKY, DASHED)},
    **{"esnac_ours_random_k8": (style.GREY, "-"), "esnac_ours_half_k8": (style.GREY, DASHED)},
    **{"esnac_ours_k1": (style.ORANGE, "-"), "esnac_ours_k8": (style.VERMILLION, "-")},
}


def samplers_figure(experiment: ExperimentRecord) -> Figure:
    """Best f so far against evaluations, mean over the seeds with its 95 % band.

    Left: as published. Right: what goes beyond the papers, beside random search and width scaling without a search.
    """
    figure = style.new_figure(11, 5.2)
    if not any(len(record.observed) for name in searched(experiment) for record in experiment.studies[name]):
        return style.in_words(figure, NOTHING)
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("as published", "beyond the papers, and no search")
    for axes, names, title in zip(panels, (PAPER, OURS), titles, strict=True):
        for name in names:
            if records := [record for record in experiment.studies.get(name, ()) if len(record.observed)]:
                _draw(axes, name, records, experiment.config.num_evaluations)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label = "best f so far (search, validation images)" if axes is panels[0] else ""
        style.tidy(axes, xlabel="evaluated architectures", ylabel=label, title=title)
        style.legend(axes, loc="lower right")
    _zoom(panels[0], experiment)
    return figure


def _draw(axes: Axes, name: str, records: Sequence[StudyRecord], evaluations: int) -> None:
    mean, half = mean_and_band(best_so_far(records))
    colour, line = LOOKS[name]
    index = np.arange(1, len(mean) + 1)
    if name == "narrow" and len(mean) < evaluations:  # it is done: its best is drawn to the end
        index, mean, half = (np.append(index, evaluations), *(np.append(v, v[-1]) for v in (mean, half)))
    axes.plot(index, mean, drawstyle="steps-post", color=colour, linestyle=line, linewidth=1.8, label=LABELS[name])
    axes.fill_between(index, mean - half, mean + half, step="post", color=colour, alpha=0.12, linewidth=0)


def _zoom(axes: Axes, experiment: ExperimentRecord) -> None:
    """From a little below the worst sampler's mean best after a quarter of the evaluations: there the race is."""
    quarter = max(0, experiment.config.num_evaluations // 4 - 1)
    curves = [best_so_far(records) for name in searched(experiment) if (records := experiment.studies[name])]
    means = [curve.mean(0)[min(quarter, curve.shape[1] - 1)] for curve in curves if curve.shape[1]]
    top = max(curve.max() for curve in curves if curve.size)
    low = min(means)
    axes.set_ylim(low - 0.15 * (top - low), top + 0.1 * (top - low))


def sizes_figure(experiment: ExperimentRecord) -> Figure:
    """f against parameters: width scaling and magnitude pruning at the same sizes, and each search's best a seed."""
    table = without_a_search(experiment)
    figure = style.new_figure(9, 5.2)
    if table.empty:
        return style.in_words(figure, NOTHING)
    axes = figure.add_subplot()
    for method, marker, colour in (("width scaling", "D", style.PURPLE), ("magnitude pruning", "^", style.GREY)):
        rows = table[table["method"] == method]
        look: dict[str, Any] = {"color": colour, "markersize": 5, "alpha": 0.7, "markerfacecolor": "none"}
        axes.plot(rows["params"], rows["f"], marker, linestyle="none", label=f"{method}, no search", **look)
    for name in (name for name in LOOKS if name != "narrow"):
        best = [record.best for record in experiment.finished(name) if record.best is not None]
        marker = "*" if name.startswith("esnac") else "o"
        hollow = name not in PAPER or LOOKS[name][1] == DASHED
        if best:
            axes.plot(
                [one.params for one in best], [one.f for one in best], marker, linestyle="none", color=LOOKS[name][0],
                markersize=9 if marker == "*" else 6, markerfacecolor="none" if hollow else None,
                label=f"best of {LABELS[name]}",
            )  # fmt: skip
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="f (search, validation images)")
    bests = [r.best for name in searched(experiment) for r in experiment.studies[name] if r.best is not None]
    top = max([table["f"].max(), *(one.f for one in bests)])
    low = max(table["f"].min(), top - 0.35)
    shown = [*table["params"][table["f"] >= low], *(one.params for one in bests)]
    axes.set_ylim(low, top + 0.02)
    axes.set_xlim(0.8 * min(shown), 1.25 * max(shown))
    style.count_ticks(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return figure


def proxy_figure(record: StudyRecord | None) -> Figure:
    """Rank correlation of search f with final f, by the number of search epochs; and both f of each student."""
    figure = style.new_figure(10, 4.2)
    table = None if record is None else proxy_table(record)
    if record is None or table is None or table.empty:
        return style.in_words(figure, "No student has been trained to the end for this comparison.")
    left, right = figure.subplots(1, 2)
    left.plot(table["search epochs"], table["rank correlation"], "o-", color=style.BLUE)
    left.set_ylim(min(0.0, 1.1 * float(table["rank correlation"].min())), 1.05)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"{int(table['students'].iloc[-1])} students"
    style.tidy(left, xlabel="epochs of search training", ylabel="rank correlation with final f", title=title)
    finalists = record.finalists
    right.plot(finalists["search_f"], finalists["final_f"], "o", color=style.BLUE)
    ends = style.span([*finalists["search_f"], *finalists["final_f"]], 0.02)
    right.plot(ends, ends, color=style.GREY, linestyle="--", linewidth=1)
    epochs = record.config.epochs
    style.tidy(right, xlabel=f"f after {epochs} search epochs", ylabel="f after final training (validation images)")
    return figure
