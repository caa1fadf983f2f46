"""The figure of the live view: f, size against accuracy, and the trainings that run, side by side.

It is drawn often, while a search needs the processor: so its layout is fixed, since computing one takes longer than
drawing. It is drawn in a thread: so without the theme, which sets what all threads share.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from esnac_lib.report.figures import style
from esnac_lib.report.figures.search import best_so_far, draw_students
from esnac_lib.report.live.snapshot import Snapshot

WIDTH, HEIGHT = 13.0, 3.9  # inches
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
MOST_NAMES = 10  # in a legend
CHOSEN = style.HOLLOW | {"marker": "o", "markersize": 13, "markeredgecolor": style.BLACK, "markeredgewidth": 1.6}


def draw(snapshot: Snapshot, chosen: int | None = None, heading: bool = True) -> Figure:
    """Draw the three panels. chosen: a trial to be ringed. heading: with the study's status in words above them."""
    height = HEIGHT + 0.45 * heading
    figure = Figure(figsize=(WIDTH, height), dpi=100)
    left, middle, right = figure.subplots(1, 3)
    top, bottom = 1 - (0.35 + 0.45 * heading) / height, 0.55 / height
    figure.subplots_adjust(left=0.05, right=0.99, top=top, bottom=bottom, wspace=0.24)
    if heading:
        words = f"{snapshot.record.config.study}: {snapshot.status}\n{snapshot.found}"
        figure.text(0.012, 0.985, words, ha="left", va="top", linespacing=1.4)
    _draw_f(left, snapshot, chosen)
    _draw_sizes(middle, snapshot, chosen)
    _draw_trainings(right, snapshot)
    return figure


def to_svg(figure: Figure, snapshot: Snapshot) -> str:
    """Return the figure as an <svg> element whose points link to "#trial<number>" and describe it when pointed at."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(">*{", ">.esnac-panels svg *{")  # its style is for itself, not for the page
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg {NAMESPACES} viewBox="\1" width="100%">', svg, count=1)
    titles = {int(number): snapshot.describe(int(number)) for number in set(re.findall(r'"#trial(\d+)"', svg))}
    link = r'<a xlink:href="#trial(\d+)" target="_blank">'
    return re.sub(link, lambda m: f'<a href="#trial{m[1]}"><title>{escape(titles[int(m[1])])}</title>', svg)


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    figure.savefig(data := io.BytesIO(), format="png")
    return data.getvalue()


def _draw_f(axes: Axes, snapshot: Snapshot, chosen: int | None) -> None:
    record, complete, observed = snapshot.record, snapshot.record.complete, len(snapshot.record.observed)
    axes.plot(*best_so_far(record), drawstyle="steps-post", color=style.BLUE, linewidth=2)
    _link(axes.scatter(complete["trial"] + 1, complete["f"], color=style.BLUE, alpha=0.6, s=26), complete)
    for f, marker, label in ((True, "x", "failed (f = 0)"), (False, "1", "machine fault")):
        rows = record.failed[record.failed["f"].notna() == f]
        if len(rows):
            look: dict[str, Any] = {"marker": marker, "color": style.GREY, "transform": axes.get_xaxis_transform()}
            _link(axes.scatter(rows["trial"] + 1, np.full(len(rows), 0.03), label=label, **look), rows)
    _ring(axes, complete, chosen, complete["trial"] + 1, complete["f"])
    shown = max(observed, min(record.config.num_evaluations, max(20, 2 * observed)))  # the progress bar has the rest
    axes.set_xlim(0, 1 + shown)
    title = "no architecture evaluated yet" if complete.empty else f"best f so far {complete['f'].max():.4f}"
    style.tidy(axes, xlabel="evaluated architecture", ylabel="objective f (search)", title=title, integers=True)
    style.legend(axes, loc="lower right")


def _draw_sizes(axes: Axes, snapshot: Snapshot, chosen: int | None) -> None:
    record = snapshot.record
    complete, teacher, best = record.complete, record.search_teacher, record.best
    _link(draw_students(axes, complete, 26, "Pareto front"), complete.sort_values("f"))
    if teacher is not None:
        axes.plot(teacher.params, 100 * teacher.accuracy, **style.TEACHER, label="search teacher")
    if best is not None:
        axes.plot(best.params, 100 * best.accuracy, **style.SOLUTION, label="best f")
    _ring(axes, complete, chosen, complete["params"], 100 * complete["accuracy"])
    title, known = "colour: f, lighter is higher" if len(complete) else "", teacher is not None or len(complete) > 0
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="validation accuracy [%]", title=title, counts=known)
    style.legend(axes, loc="upper left")


def _draw_trainings(axes: Axes, snapshot: Snapshot) -> None:
    """Return the trainings that run, or else those that ended last."""
    curves, title, total = snapshot.running, snapshot.doing, snapshot.epochs_in_all
    if curves.empty:
        curves = snapshot.ended
        title = f"ended last: {title}" if len(curves) else title
    if curves.empty:
        axes.text(0.5, 0.5, "no epoch has ended yet", transform=axes.transAxes, ha="center", color=style.GREY)
        axes.set_axis_off()
        return
    groups = curves.groupby("name")
    for (name, rows), look in zip(groups, style.looks(), strict=False):
        label = str(name) if len(groups) <= MOST_NAMES else "_"
        axes.plot(rows["epoch"], 100 * rows["accuracy"], label=label, marker="o", markersize=3, **look)
    style.tidy(axes, xlabel="epoch", ylabel="accuracy [%]", title=title, integers=True)
    axes.set_xlim(0.5, (total or curves["epoch"].max()) + 0.5)
    style.legend(axes, loc="lower right")


def _link(points: PathCollection, trials: pd.DataFrame) -> None:
    points.set_urls([f"#trial{trial}" for trial in trials["trial"]])


def _ring(axes: Axes, trials: pd.DataFrame, chosen: int | None, x: pd.Series, y: pd.Series) -> None:
    at = trials["trial"] == chosen
    axes.plot(x[at], y[at], **CHOSEN)
