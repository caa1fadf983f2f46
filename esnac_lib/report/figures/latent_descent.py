"""Figures of an Architecture Compression study: its architectures, and its result next to other methods'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from esnac_lib.report.figures import style
from esnac_lib.report.papers.published import published
from esnac_lib.report.records.latent_descent import SOURCES, CompressionRecord
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.tables.latent_descent import NAMES, SOURCE_NAMES

SOURCE_COLOURS = {"random": style.ORANGE, "around": style.BLUE, "descent": style.VERMILLION}
MARKS = {
    "random": ("o", style.ORANGE), "fitnet": ("^", style.GREEN), "pruning": ("v", style.SKY), "n2n": ("P", style.BLUE),
}  # fmt: skip


@style.theme()
def architectures(record: CompressionRecord) -> Figure:
    """Draw the trained architectures by distribution: layers, parameters, accuracy after the short training."""
    figure = style.new_figure(10.5, 6.6)
    complete = record.complete[record.complete["source"].isin(SOURCES)]
    if complete.empty:
        return style.in_words(figure, "No architecture is trained yet.")
    (lengths, sizes), (accuracies, both) = figure.subplots(2, 2)
    data = pd.DataFrame(
        {"drawn": complete["source"].map(SOURCE_NAMES), "layers": complete["length"].astype(float),
         "parameters": complete["params"].astype(float), "accuracy": 100 * complete["accuracy"]}
    )  # fmt: skip
    colours = {SOURCE_NAMES[source]: colour for source, colour in SOURCE_COLOURS.items()}
    look: dict[str, Any] = {"hue": "drawn", "palette": colours, "hue_order": [*colours]}
    drawn = look | {"kde": True, "kde_kws": {"cut": 0}, "element": "step", "alpha": 0.3, "legend": False}
    sns.histplot(data, x="layers", binwidth=1, ax=lengths, **drawn)
    sns.histplot(data, x="parameters", bins=20, log_scale=True, ax=sizes, **drawn)
    sns.histplot(data, x="accuracy", bins=np.linspace(0, 100, 26), ax=accuracies, **drawn)
    sns.scatterplot(data, x="parameters", y="accuracy", s=22, alpha=0.7, ax=both, **look)
    if (teacher := record.short_teacher) is not None:
        both.plot(teacher["params"], 100 * teacher["accuracy"], **style.TEACHER, label="teacher")
    style.tidy(lengths, xlabel="layers", ylabel="architectures")
    style.tidy(sizes, xlabel="parameters (log scale)", ylabel="architectures", counts=True)
    style.tidy(accuracies, xlabel="validation accuracy after the short training [%]", ylabel="architectures")
    style.tidy(both, xlabel="parameters (log scale)", ylabel="validation accuracy [%]", counts=True)
    return style.legend_above(figure, both, 4)


@style.theme()
def accuracy_against_size(record: CompressionRecord, *others: StudyRecord) -> Figure:
    """Draw test accuracy after final training against parameters: the student, its baselines, and other methods.

    The line to beat is the teacher with all widths scaled by one factor.
    """
    figure = style.new_figure(8.5, 5.2)
    teacher, student = record.teacher, record.student
    if teacher is None or student is None:
        return style.in_words(figure, "There is no final result yet.")
    axes = figure.add_subplot()
    axes.plot(teacher["params"], 100 * teacher["accuracy"], **style.TEACHER, label=f"teacher {record.config.teacher}")
    narrowed = [*record.widths, *([record.baselines["narrowed"]] if "narrowed" in record.baselines else [])]
    if narrowed:
        line = sorted((entry["params"], 100 * entry["accuracy"]) for entry in [teacher, *narrowed])
        look: dict[str, Any] = {"color": style.PURPLE, "markersize": 7, "markerfacecolor": "none", "zorder": 1}
        axes.plot(*zip(*line, strict=True), "D--", label="teacher uniformly narrowed (the line to beat)", **look)
    look = {"linestyle": "none", "markeredgecolor": "white"}
    for name in [name for name in record.baselines if name in MARKS]:
        (marker, colour), entry = MARKS[name], record.baselines[name]
        place = entry["params"], 100 * entry["accuracy"]
        axes.plot(*place, marker, color=colour, markersize=9, label=NAMES[name], **look)
    for other, colour in zip(others, (style.BLACK, style.GREY, style.GREEN, style.ORANGE), strict=False):
        if other.solution is not None:
            place = other.solution.params, 100 * other.solution.accuracy
            label = f"{other.name} ({len(other.observed)} evaluated)"
            axes.plot(*place, "X", color=colour, markersize=11, label=label, **look)
    label = f"Architecture Compression ({len(record.observed)} trained)"
    axes.plot(student["params"], 100 * student["accuracy"], **style.SOLUTION, label=label)
    if (printed := published(record.config.study_config)) is not None:
        look = {"marker": "o", "markersize": 6, "color": style.GREY, "markerfacecolor": "white", "zorder": 0}
        x, y = [printed.params, printed.teacher_params], [printed.accuracy, printed.teacher_accuracy]
        axes.plot(x, y, ":", label="published", **look)
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="test accuracy after final training [%]", counts=True)
    return style.legend_above(figure, axes, 2)
