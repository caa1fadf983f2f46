"""The student's graph next to its teacher's: what was removed, narrowed and added, at a glance.

Each row is a layer of the teacher, at the left as it was, at the right as what became of it. Long networks go on in
further columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.path import Path

from esnac_lib.architecture.graph import INPUT
from esnac_lib.report.figures import style
from esnac_lib.report.figures.graph_layout import Comparison, Edge, Row, columns, compare, spine
from esnac_lib.report.records.study import StudyRecord

MOST_ROWS = 45  # in a column

# all in inches
PITCH, HEIGHT, BOX = 0.215, 0.165, 1.45
NEAR, FAR = 0.55, 0.95  # room for the arcs left of a box, and right of the student's
COLUMN = NEAR + BOX + NEAR + BOX + FAR
TOP, BOTTOM = 1.0, 0.55
TEXT = 7

REMOVED_FILL, FILTER_FILL, OTHER_FILL = "#FBE9E2", "#7FB8DA", "#D3DCE2"


@dataclass
class _Side:
    """One of the two drawings: its boxes' left edge in each column, and its edges."""

    left: float
    edges: Sequence[Edge]
    kept: set[int]
    notes: dict[tuple[int, bool], tuple[list[str], list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )  # what comes in from other columns at a row, and what goes out to them


def student_graph(record: StudyRecord, trial: int | None = None) -> Figure:
    """Draw a trial's student next to its teacher; by default the solution, or before that the best of the search."""
    teacher, student = record.teacher, record.student
    if trial is None and student is not None:
        trial = student.trial
    if teacher is None or teacher.architecture is None or trial is None or trial not in set(record.trials["trial"]):
        return style.in_words(style.new_figure(8, 3), "There is no student to draw yet.")
    architecture = record.architecture(trial)
    comparison = compare(teacher.architecture, architecture, record.decisions(trial).skips)
    which = "solution" if record.solution is not None else "best of the search"
    name = f"{which}, trial {trial}" if student is not None and trial == student.trial else f"trial {trial}"
    heading = (
        f"{record.config.teacher}: {len(comparison.rows)} layers, {teacher.params:,} parameters\n"
        f"{name}: {len(architecture.layers)} layers, {architecture.num_params:,} parameters "
        f"({teacher.params / architecture.num_params:.2f}× fewer)"
    )
    return draw(comparison, heading)


def draw(comparison: Comparison, heading: str) -> Figure:
    """Draw a comparison, with a heading of two lines."""
    parts = columns(comparison, MOST_ROWS)
    longest = max(map(len, parts)) + 2  # with the input and the output
    width, height = max(COLUMN * len(parts), 6.4), TOP + longest * PITCH + BOTTOM
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    whole = set(range(len(comparison.rows)))
    sides = (
        _Side(NEAR, comparison.teacher_edges, whole),
        _Side(
            NEAR + BOX + NEAR, comparison.student_edges, {row.index for row in comparison.rows if row.left is not None}
        ),
    )
    places = _places(parts, len(comparison.rows), (width - COLUMN * len(parts)) / 2)
    for side, student in zip(sides, (False, True), strict=True):
        _draw_edges(axes, side, places)
        for end in (INPUT, len(comparison.rows)):
            _draw_end(axes, side, places, end, "input" if end == INPUT else "output")
        for row in comparison.rows:
            x, y = places[row.index]
            _draw_row(axes, row, x + side.left, y, student)
    _draw_headings(axes, comparison, heading, parts, places)
    _draw_legend(figure, height)
    return figure


def _places(parts: Sequence[range], total: int, left: float) -> dict[int, tuple[float, float]]:
    """Where each row is: the left edge of its column, and its middle height. The input and the output have rows too."""
    places = {}
    for number, rows in enumerate(parts):
        for position, index in enumerate(rows):
            places[index] = left + number * COLUMN, TOP + (position + 1.5) * PITCH
    places[INPUT] = left, TOP + 0.5 * PITCH
    x, y = places[total - 1]
    places[total] = x, y + PITCH
    return places


# -- rows --------------------------------------------------------------------------------------------------------------


def _draw_row(axes: Axes, row: Row, x: float, y: float, student: bool) -> None:
    fill = FILTER_FILL if row.filters else OTHER_FILL
    if not student:
        _box(axes, x, y, BOX, fill)
        axes.text(x + 0.05, y, str(row.index), fontsize=TEXT - 1, va="center", color="#555555")
        axes.text(x + 0.3, y, row.text, fontsize=TEXT, va="center", color=style.BLACK)
    elif row.left is None:
        _box(axes, x, y, BOX, REMOVED_FILL, edge=style.VERMILLION, dashed=True)
        middle, arm = x + BOX / 2, 0.05
        for sign in (1, -1):
            axes.plot(
                [middle - arm, middle + arm],
                [y - sign * arm, y + sign * arm],
                color=style.VERMILLION,
                linewidth=1.6,
                zorder=5,
            )
    else:
        share = row.left / row.channels
        if share < 1:
            _box(axes, x, y, BOX, "white", edge="#BBBBBB", dashed=True)
        _box(axes, x, y, max(BOX * share, 0.015), fill, edge="#555555")
        if row.filters:
            text = f"{row.left} of {row.channels}" if share < 1 else str(row.left)
            at, where = (x + 0.05, "left") if share > 0.5 else (x + BOX - 0.05, "right")
            axes.text(at, y, text, fontsize=TEXT, va="center", ha=where, color=style.BLACK, zorder=6)


def _box(axes: Axes, x: float, y: float, width: float, fill: str, edge: str = "#555555", dashed: bool = False) -> None:
    look: dict[str, Any] = {
        "facecolor": fill,
        "edgecolor": edge,
        "linewidth": 0.6,
        "linestyle": (0, (3, 2)) if dashed else "-",
    }
    axes.add_patch(Rectangle((x, y - HEIGHT / 2), width, HEIGHT, zorder=3, **look))


def _draw_end(axes: Axes, side: _Side, places: dict[int, tuple[float, float]], index: int, text: str) -> None:
    x, y = places[index]
    axes.text(x + side.left + BOX / 2, y, text, fontsize=TEXT, va="center", ha="center", style="italic", zorder=6)


# -- edges -------------------------------------------------------------------------------------------------------------


def _draw_edges(axes: Axes, side: _Side, places: dict[int, tuple[float, float]]) -> None:
    straight = set(spine(side.edges, side.kept))
    lengths = [abs(places[e.target][1] - places[e.source][1]) for e in side.edges if e not in straight]
    longest = max(lengths, default=1.0)
    for edge in side.edges:
        (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
        if edge in straight:
            _straight(axes, side, (x0, y0), (x1, y1), edge.count)
        elif x0 != x1:
            side.notes[edge.source, edge.added][1].append(_name(edge.target, side))
            side.notes[edge.target, edge.added][0].append(_name(edge.source, side))
        else:
            _arc(axes, side, edge, x0, y0, y1, longest)
    for (index, added), (incoming, outgoing) in sorted(side.notes.items()):
        words = [", ".join(incoming) + "→"] if incoming else []
        words += ["→" + ", ".join(outgoing)] if outgoing else []
        _note(axes, side, places[index], added, "  ".join(words))


def _name(index: int, side: _Side) -> str:
    return "in" if index == INPUT else "out" if index == max(edge.target for edge in side.edges) else str(index)


def _straight(axes: Axes, side: _Side, start: tuple[float, float], end: tuple[float, float], count: int) -> None:
    """A line down the middle of the boxes; over a column's end a stub at either side."""
    middle = side.left + BOX / 2
    look: dict[str, Any] = {
        "color": "#555555",
        "linewidth": 1.0,
        "zorder": 4 if start[0] == end[0] and end[1] - start[1] > 1.5 * PITCH else 2,
    }
    if start[0] == end[0]:
        x = start[0] + middle
        ends = [start[1] + HEIGHT / 2, end[1] - HEIGHT / 2]
        axes.plot([x - (0.15 if look["zorder"] == 4 else 0)] * 2, ends, **look)
    else:
        for (x, y), step in ((start, 1), (end, -1)):
            at = [y + step * HEIGHT / 2, y + step * (HEIGHT / 2 + PITCH * 0.6)]
            axes.plot([x + middle] * 2, at, color="#555555", linewidth=1.0, linestyle=":", zorder=2)
    if count > 1:
        axes.text(end[0] + middle + 0.2, end[1] - PITCH / 2, f"×{count}", fontsize=TEXT - 1, va="center", zorder=6)


def _arc(axes: Axes, side: _Side, edge: Edge, x: float, y0: float, y1: float, longest: float) -> None:
    """Added skips bulge to the right in colour, the others to the left in grey."""
    room = (FAR if edge.added else NEAR) - 0.1
    bulge = (0.1 + (room - 0.1) * (abs(y1 - y0) / longest) ** 0.6) * 4 / 3  # a Bézier curve reaches 3/4 of its handles
    bulge = min(bulge, room * 4 / 3)
    sign = 1 if edge.added else -1
    at = x + side.left + (BOX if edge.added else 0)
    points = [(at, y0), (at + sign * bulge, y0), (at + sign * bulge, y1), (at, y1)]
    colour = style.GREEN if edge.added else "#6F6F6F"
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    look: dict[str, Any] = {
        "color": colour,
        "linewidth": 1.5 if edge.added else 0.9,
        "shrinkA": 0,
        "shrinkB": 0,
        "zorder": 5,
    }
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, **look))
    if edge.count > 1:
        axes.text(
            at + sign * 0.75 * bulge, (y0 + y1) / 2, f"×{edge.count}", fontsize=TEXT - 1, color=colour, ha="center"
        )


def _note(axes: Axes, side: _Side, place: tuple[float, float], added: bool, text: str) -> None:
    x = place[0] + side.left + (BOX + 0.1 if added else -0.1)
    colour, where = (style.GREEN, "left") if added else ("#6F6F6F", "right")
    look: dict[str, Any] = {
        "color": colour,
        "weight": "bold" if added else "normal",
        "fontsize": TEXT - 1,
        "va": "center",
        "ha": where,
    }
    ground: dict[str, Any] = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, place[1], text, bbox=ground, zorder=7, **look)


# -- words -------------------------------------------------------------------------------------------------------------


def _draw_headings(
    axes: Axes, comparison: Comparison, heading: str, parts: Sequence[range], places: dict[int, tuple[float, float]]
) -> None:
    left = places[INPUT][0] + NEAR
    changes = (
        f"{comparison.removed} layers removed, {comparison.narrowed} narrowed, "
        f"{comparison.added} skip connection{'s' * (comparison.added != 1)} added"
    )
    axes.text(left, 0.12, f"{heading}\n{changes}", fontsize=9, va="top", linespacing=1.35)
    for rows in parts:
        x = places[rows[0]][0]
        for offset, word in ((NEAR, "teacher"), (NEAR + BOX + NEAR, "student")):
            axes.text(x + offset + BOX / 2, TOP - 0.06, word, fontsize=8, weight="bold", ha="center", va="bottom")


def _draw_legend(figure: Figure, height: float) -> None:
    half = (Patch(fc=FILTER_FILL, ec="#555555", lw=0.6), Patch(fc="white", ec="#BBBBBB", lw=0.6, ls="--"))
    entries = [
        (Patch(fc=FILTER_FILL, ec="#555555", lw=0.6), "layer with filters"),
        (Patch(fc=OTHER_FILL, ec="#555555", lw=0.6), "without filters"),
        (half, "width: channels left"),
        (Patch(fc=REMOVED_FILL, ec=style.VERMILLION, lw=0.6, ls="--"), "removed"),
        (Line2D([], [], color=style.GREEN, linewidth=1.5), "added skip"),
        (Line2D([], [], color="#6F6F6F", linewidth=0.9), "other connection"),
    ]
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles, labels, loc="lower center", ncols=3 if figure.get_figwidth() < 8 else 6, fontsize=TEXT + 0.5,
        frameon=False, bbox_to_anchor=(0.5, 0.02 / height), handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
    )  # fmt: skip
