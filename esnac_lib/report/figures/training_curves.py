"""Loss and accuracy by epoch: of the teachers, of the students in the search, and of the final training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esnac_lib.report.figures import style
from esnac_lib.report.records.study import StudyRecord, trial_of

THIN: dict[str, Any] = {"color": style.GREY, "linewidth": 0.8, "alpha": 0.5}
NARROWED = "uniformly narrowed teacher"


class _Curve(NamedTuple):
    phase: str
    name: str
    label: str
    look: dict[str, Any]


@style.theme()
def training_curves(record: StudyRecord) -> Figure:
    """Draw accuracy above training loss in three columns: teachers, search, final training.

    In the search every student is a thin line; those that were trained finally stand out.
    """
    columns = [
        ("teachers", _teachers(record)),
        ("search, one line per student", _search(record)),
        ("final training", _final(record)),
    ]
    figure = style.new_figure(11, 7)
    if not any(curves for _, curves in columns):
        return style.in_words(figure, "No epoch has been trained yet.")
    grid = figure.subplots(2, 3, sharex="col", squeeze=False)
    for (title, curves), (above, below) in zip(columns, grid.T, strict=True):
        if not curves:
            above.set_title(title, fontsize="medium")
            above.text(0.5, 0.5, "none so far", ha="center", color=style.GREY)
            above.set_axis_off()
            below.set_axis_off()
            continue
        _draw(record, curves, above, "accuracy", 100)
        _draw(record, curves, below, "loss", 1)
        style.tidy(above, xlabel="", ylabel="accuracy [%]", title=title)
        style.tidy(below, xlabel="epoch", ylabel="training loss")
        below.xaxis.get_major_locator().set_params(integer=True)
        losses = np.concatenate([line.get_ydata() for line in below.lines])
        if len(losses) and 0 < 5 * losses.min() < losses.max():
            below.set_yscale("log")
        handles, labels = above.get_legend_handles_labels()
        below.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize="small")
    return figure


def _draw(record: StudyRecord, curves: Sequence[_Curve], axes: Axes, column: str, factor: int) -> None:
    epochs = record.epochs.set_index(["phase", "name"]).sort_index()
    for curve in curves:
        rows = epochs.loc[[(curve.phase, curve.name)]].dropna(subset=column)
        marker = "o" if len(rows) == 1 else None  # a line of one point would not be seen
        look = {"marker": marker, "markersize": 3, "label": curve.label} | curve.look
        axes.plot(rows["epoch"].to_numpy(), factor * rows[column].to_numpy(), **look)


def _names(record: StudyRecord, phase: str) -> list[str]:
    return sorted(record.epochs.loc[record.epochs["phase"] == phase, "name"].unique())


def _teachers(record: StudyRecord) -> list[_Curve]:
    search, reference = {"color": style.BLUE}, {"color": style.BLACK, "linestyle": "--"}
    return [
        *_of_phase(record, "search-teacher", "search teacher (validation)", search),
        *_of_phase(record, "reference-teacher", "reference teacher (test)", reference),
    ]


def _of_phase(record: StudyRecord, phase: str, label: str, look: dict[str, Any]) -> list[_Curve]:
    return [_Curve(phase, name, label, look) for name in _names(record, phase)]


def _search(record: StudyRecord) -> list[_Curve]:
    colours = _colours(record)
    names = sorted(_names(record, "search"), key=lambda name: name in colours)
    curves = []
    for name in names:
        look = {"color": colours[name], "linewidth": 2} if name in colours else THIN
        curves.append(_Curve("search", name, f"trial {trial_of(name)}" if name in colours else "_", look))
    if curves and curves[0].label == "_":
        curves[0] = curves[0]._replace(label="student (validation)")
    return curves + _of_phase(record, "baseline", NARROWED, {"color": style.PURPLE, "linewidth": 2})


def _final(record: StudyRecord) -> list[_Curve]:
    colours, curves = _colours(record), []
    for phase, on, dashes in (("final", "validation", "-"), ("full", "test", "--")):
        for name in _names(record, phase):
            who = f"trial {trial_of(name)}" if name.startswith("trial") else NARROWED
            look = {"color": colours.get(name, style.PURPLE), "linestyle": dashes}
            curves.append(_Curve(phase, name, f"{who} ({on})", look))
    return curves


def _colours(record: StudyRecord) -> dict[str, str]:
    """Return a colour for each student in final training, the solution's first."""
    names = {name for phase in ("final", "full") for name in _names(record, phase) if name.startswith("trial")}
    solution = record.solution.trial if record.solution is not None else None
    ordered = sorted(names, key=lambda name: (trial_of(name) != solution, name))
    palette = (style.VERMILLION, style.BLUE, style.ORANGE, style.GREEN, style.SKY, style.BLACK)
    return {name: palette[place % len(palette)] for place, name in enumerate(ordered)}
