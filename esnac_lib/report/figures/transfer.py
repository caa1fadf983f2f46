"""Kernel transfer: what the source's kernels have seen of a target, and what they proposed there (ESNAC Table 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from esnac_lib.architecture.graph import Architecture
from esnac_lib.report.figures import style
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord

Tables = Mapping[str, Mapping[str, str]]


def kernels_table(experiment: ExperimentRecord, tables: Tables) -> pd.DataFrame:
    """One line for the source, and one a target: the teacher's layers, and those kinds that no observation has."""
    source = experiment.first("source")
    columns = ["setting", "teacher", "layers", "parameters", "observations", "kinds never observed"]
    if source is None or source.search_teacher is None:
        return pd.DataFrame(columns=columns)
    observed = [source.search_teacher.architecture, *map(Architecture.from_json, source.told["architecture"])]
    seen = {layer.kind for architecture in observed if architecture for layer in architecture.layers}
    lines: list[tuple[str, StudyRecord, int | None]] = [("source", source, len(source.told))]
    for target, rows in tables.items():
        studies = [study for variant in rows.values() if (study := experiment.first(variant)) is not None]
        lines += [(target, study, None) for study in studies[:1]]
    table = pd.DataFrame([_line(*line, seen) for line in lines], columns=columns)
    return table.astype({"layers": "Int64", "parameters": "Int64", "observations": "Int64"})


def _line(setting: str, study: StudyRecord, observations: int | None, seen: set[str]) -> tuple:
    teacher = study.search_teacher
    name = f"{study.config.teacher} on {study.config.dataset}"
    if teacher is None or teacher.architecture is None:
        return (setting, name, None, None, observations, None)
    unseen = {layer.kind for layer in teacher.architecture.layers} - seen
    kinds = ", ".join(sorted(unseen)) or "none"
    return (setting, name, len(teacher.architecture.layers), teacher.params, observations, kinds)


def transfer_figure(experiment: ExperimentRecord, tables: Tables) -> Figure:
    """Search f of every student that was evaluated in each target, all runs together; a bar marks the best."""
    rows = max((len(table) for table in tables.values()), default=1)
    figure = style.new_figure(10, 1.3 + 0.45 * rows * len(tables))
    if not any(experiment.first(variant) for table in tables.values() for variant in table.values()):
        return style.in_words(figure, "No target study has been run yet.")
    panels = np.atleast_1d(figure.subplots(len(tables), 1, sharex=True))
    for axes, (target, table) in zip(panels, tables.items(), strict=True):
        labels = []
        for place, (label, variant) in enumerate(table.items()):
            told = [study.told for study in experiment.studies.get(variant, ())]
            f = np.concatenate([trials["f"].dropna().to_numpy() for trials in told]) if told else np.array([])
            labels.append(f"{label} ({len(f)} evaluated)")
            if len(f):
                look = {"color": style.SERIES[place % len(style.SERIES)], "markersize": 5, "alpha": 0.65}
                axes.plot(f, place + 0.25 * np.linspace(-1, 1, len(f)), "o", **look)
                axes.plot([f.max()] * 2, [place - 0.36, place + 0.36], color=style.BLACK, linewidth=2)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        style.tidy(axes, xlabel="", ylabel="", title=target)
    panels[-1].set_xlabel("f (search, validation images)")
    return figure
