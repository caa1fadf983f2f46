"""Kernel transfer: what the source's kernels have observed, and what they proposed for a target (ESNAC Table 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esnac_lib.architecture.graph import Architecture
from esnac_lib.report.figures import style
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord

Tables = Mapping[str, Mapping[str, str]]


def kernels_table(experiment: ExperimentRecord, tables: Tables) -> pd.DataFrame:
    """Return a line for the source and for each target: the teacher's layers, and the kinds that no observation has."""
    source = experiment.first("source")
    columns = ["setting", "teacher", "layers", "parameters", "observations", "kinds never observed"]
    if source is None or source.search_teacher is None:
        return pd.DataFrame(columns=columns)
    observed = [source.search_teacher.architecture, *map(Architecture.from_json, source.observed["architecture"])]
    seen = {layer.kind for architecture in observed if architecture for layer in architecture.layers}
    lines = [_line("source", source, len(source.observed), seen)]
    for target, rows in tables.items():
        studies = [study for variant in rows.values() if (study := experiment.first(variant)) is not None]
        lines += [_line(target, study, None, seen) for study in studies[:1]]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype({"layers": "Int64", "parameters": "Int64", "observations": "Int64"})


def _line(setting: str, study: StudyRecord, observations: int | None, seen: set[str]) -> tuple:
    teacher = study.search_teacher
    name = f"{study.config.teacher} on {study.config.dataset}"
    if teacher is None or teacher.architecture is None:
        return (setting, name, None, None, observations, None)
    unseen = {layer.kind for layer in teacher.architecture.layers} - seen
    kinds = ", ".join(sorted(unseen)) or "none"
    return (setting, name, len(teacher.architecture.layers), teacher.params, observations, kinds)


@style.theme()
def transfer_figure(experiment: ExperimentRecord, tables: Tables) -> Figure:
    """Draw search f of every student that was evaluated in each target, all runs together, with median and best."""
    rows = max((len(table) for table in tables.values()), default=1)
    figure = style.new_figure(10, 1.5 + 0.5 * rows * len(tables))
    if not any(experiment.first(variant) for table in tables.values() for variant in table.values()):
        return style.in_words(figure, "No target study has been run yet.")
    panels = np.atleast_1d(figure.subplots(len(tables), 1, sharex=True))
    for axes, (target, table) in zip(panels, tables.items(), strict=True):
        named = {}
        for label, variant in table.items():
            f = [x for study in experiment.studies.get(variant, ()) for x in study.observed["f"].dropna()]
            named[f"{label} ({len(f)} evaluated)"] = f
        data = pd.DataFrame([(name, x) for name, f in named.items() for x in f], columns=["variant", "f"])
        _strip(axes, data, [*named])
        style.tidy(axes, xlabel="", ylabel="", title=target)
    panels[-1].set_xlabel("objective f (search, validation images)")
    return style.legend_above(figure, panels[0], 2)


def _strip(axes: Axes, data: pd.DataFrame, order: list[str]) -> None:
    """One row of points a variant, with its median and the 95 % interval of that, and its best."""
    colours = [style.SERIES[place % len(style.SERIES)] for place in range(len(order))]
    known: dict[str, Any] = {"data": data, "x": "f", "y": "variant", "order": order, "ax": axes, "legend": False}
    sns.swarmplot(hue="variant", hue_order=order, palette=colours, size=4, alpha=0.65, **known)
    look: dict[str, Any] = {"color": style.BLACK, "marker": "d", "markersize": 5, "linestyle": "none", "seed": 0}
    sns.pointplot(estimator="median", err_kws={"linewidth": 1.5}, label="median (95 % interval)", **look, **known)
    best = data.groupby("variant")["f"].max().reindex(order)
    axes.plot(best, range(len(order)), "|", color=style.VERMILLION, markersize=18, markeredgewidth=2, label="best")
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.5)
