"""The student's graph next to its teacher's: what was removed, narrowed and added, at a glance.

Each row is a layer of the teacher, at the left as it was, at the right as what became of it. Long networks go on in
further columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

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
LEAST_WIDTH = 7.4  # so that the heading fits
TEXT = 7

REMOVED_FILL, FILTER_FILL, OTHER_FILL = "#FBE9E2", "#7FB8DA", "#D3DCE2"
DARK, ARC, LIGHT = "#555555", "#6F6F6F", "#BBBBBB"

Places = dict[int, tuple[float, float]]


class _Side(NamedTuple):
    """One of the two drawings: its boxes' left edge in each column, its edges, and the rows it still has."""

    left: float
    edges: Sequence[Edge]
    kept: Collection[int]


def student_graph(record: StudyRecord, trial: int | None = None) -> Figure:
    """Draw a trial's student next to its teacher; by default the solution, or before that the best of the search.

    The heading compares accuracies on the same images: on the test images for the solution, else of the search.
    """
    student, objective = record.student, record.objective
    if trial is None and student is not None:
        trial = student.trial
    is_student = student is not None and trial == student.trial
    teacher = record.teacher if is_student else record.search_teacher
    if teacher is None or teacher.architecture is None or trial is None or trial not in set(record.trials["trial"]):
        return style.in_words(style.new_figure(8, 3), "There is no student to draw yet.")
    architecture = record.architecture(trial)
    comparison = compare(teacher.architecture, architecture, record.decisions(trial).skips)
    which = "solution" if record.solution is not None else "best of the search"
    found = record.complete.loc[record.complete["trial"] == trial, "accuracy"]
    accuracies = [student.accuracy] if student is not None and is_student else list(found)
    sizes = objective.size(teacher.measurement), objective.size(architecture)
    on = teacher.evaluated_on
    heading = (
        f"{record.config.teacher}: {len(comparison.rows)} layers, {sizes[0]:,.0f} {objective.label}, "
        f"accuracy {100 * teacher.accuracy:.2f} % ({on})\n"
        f"{which + ', ' if is_student else ''}trial {trial}: {len(architecture.layers)} layers, "
        f"{sizes[1]:,.0f} {objective.label} ({sizes[0] / sizes[1]:.2f}× fewer)"
        + "".join(f", accuracy {100 * accuracy:.2f} % ({on})" for accuracy in accuracies)
    )
    return draw(comparison, heading)


def draw(comparison: Comparison, heading: str) -> Figure:
    """Draw a comparison, with a heading of two lines."""
    parts, total = columns(comparison, MOST_ROWS), len(comparison.rows)
    longest = max(map(len, parts)) + 2  # with the input and the output
    width, height = max(COLUMN * len(parts), LEAST_WIDTH), TOP + longest * PITCH + BOTTOM
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    places = _places(parts, total, (width - COLUMN * len(parts)) / 2)
    teacher = _Side(NEAR, comparison.teacher_edges, range(total))
    kept = {row.index for row in comparison.rows if row.left is not None}
    for side in (teacher, _Side(NEAR + BOX + NEAR, comparison.student_edges, kept)):
        _draw_edges(axes, side, places)
        for end, word in ((INPUT, "input"), (total, "output")):
            x, y = places[end]
            axes.text(
                x + side.left + BOX / 2, y, word, fontsize=TEXT, va="center", ha="center", style="italic", zorder=6
            )
        for row in comparison.rows:
            x, y = places[row.index]
            (_draw_teacher_row if side is teacher else _draw_student_row)(axes, row, x + side.left, y)
    _draw_headings(axes, comparison, heading, parts, places)
    _draw_legend(figure, height)
    return figure


def _places(parts: Sequence[range], total: int, left: float) -> Places:
    """Where each row is: the left edge of its column, and its middle height. The input and the output have rows too."""
    places = {
        index: (left + number * COLUMN, TOP + (position + 1.5) * PITCH)
        for number, rows in enumerate(parts)
        for position, index in enumerate(rows)
    }
    x, y = places[total - 1]
    return places | {INPUT: (left, TOP + 0.5 * PITCH), total: (x, y + PITCH)}


# -- rows --------------------------------------------------------------------------------------------------------------


def _draw_teacher_row(axes: Axes, row: Row, x: float, y: float) -> None:
    _box(axes, x, y, BOX, FILTER_FILL if row.filters else OTHER_FILL)
    axes.text(x + 0.05, y, str(row.index), fontsize=TEXT - 1, va="center", color=DARK)
    axes.text(x + 0.3, y, row.text, fontsize=TEXT, va="center", color=style.BLACK)


def _draw_student_row(axes: Axes, row: Row, x: float, y: float) -> None:
    if row.left is None:
        _box(axes, x, y, BOX, REMOVED_FILL, style.VERMILLION, (0, (3, 2)))
        cross = [x + BOX / 2 - 0.05, x + BOX / 2 + 0.05]
        for rise in (0.05, -0.05):
            axes.plot(cross, [y - rise, y + rise], color=style.VERMILLION, linewidth=1.6, zorder=5)
        return
    share = row.left / row.channels
    if share < 1:
        _box(axes, x, y, BOX, "white", LIGHT, (0, (3, 2)))
    _box(axes, x, y, max(BOX * share, 0.015), FILTER_FILL if row.filters else OTHER_FILL)
    if row.filters:
        text = f"{row.left} of {row.channels}" if share < 1 else str(row.left)
        at, where = (x + 0.05, "left") if share > 0.5 else (x + BOX - 0.05, "right")
        axes.text(at, y, text, fontsize=TEXT, va="center", ha=where, color=style.BLACK, zorder=6)


def _box(axes: Axes, x: float, y: float, width: float, fill: str, edge: str = DARK, line: Any = "-") -> None:
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": edge, "linewidth": 0.6, "linestyle": line}
    axes.add_patch(Rectangle((x, y - HEIGHT / 2), width, HEIGHT, zorder=3, **look))


# -- edges -------------------------------------------------------------------------------------------------------------


def _draw_edges(axes: Axes, side: _Side, places: Places) -> None:
    straight = set(spine(side.edges, side.kept))
    arcs = (edge for edge in side.edges if edge not in straight)
    longest = max((abs(places[edge.target][1] - places[edge.source][1]) for edge in arcs), default=1.0)
    names = {INPUT: "in", max(edge.target for edge in side.edges): "out"}
    notes: dict[tuple[int, bool], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))  # from and to columns
    for edge in side.edges:
        (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
        if edge in straight:
            _straight(axes, side, (x0, y0), (x1, y1), edge.count)
        elif x0 != x1:
            notes[edge.source, edge.added][1].append(names.get(edge.target, str(edge.target)))
            notes[edge.target, edge.added][0].append(names.get(edge.source, str(edge.source)))
        else:
            _arc(axes, side, edge, x0, y0, y1, longest)
    for (index, added), (incoming, outgoing) in sorted(notes.items()):
        words = [", ".join(incoming) + "→"] if incoming else []
        words += ["→" + ", ".join(outgoing)] if outgoing else []
        _note(axes, side, places[index], added, "  ".join(words))


def _straight(axes: Axes, side: _Side, start: tuple[float, float], end: tuple[float, float], count: int) -> None:
    """Return a line down the middle of the boxes; over a column's end a stub at either side."""
    middle = side.left + BOX / 2
    look: dict[str, Any] = {"color": DARK, "linewidth": 1.0}
    if start[0] == end[0]:
        over_rows = end[1] - start[1] > 1.5 * PITCH
        x, ends = start[0] + middle - 0.15 * over_rows, [start[1] + HEIGHT / 2, end[1] - HEIGHT / 2]
        axes.plot([x] * 2, ends, zorder=4 if over_rows else 2, **look)
    else:
        for (x, y), step in ((start, 1), (end, -1)):
            ends = [y + step * HEIGHT / 2, y + step * (HEIGHT / 2 + PITCH * 0.6)]
            axes.plot([x + middle] * 2, ends, linestyle=":", zorder=2, **look)
    if count > 1:
        axes.text(end[0] + middle + 0.2, end[1] - PITCH / 2, f"×{count}", fontsize=TEXT - 1, va="center", zorder=6)


def _arc(axes: Axes, side: _Side, edge: Edge, x: float, y0: float, y1: float, longest: float) -> None:
    """Draw the skips: added ones bulge to the right in colour, the others to the left in grey."""
    sign, colour, width, room = (1, style.GREEN, 1.5, FAR - 0.1) if edge.added else (-1, ARC, 0.9, NEAR - 0.1)
    reach = min(0.1 + (room - 0.1) * (abs(y1 - y0) / longest) ** 0.6, room)
    at = x + side.left + (BOX if edge.added else 0)
    handle = at + sign * reach * 4 / 3  # a Bézier curve reaches 3/4 of its handles
    path = Path([(at, y0), (handle, y0), (handle, y1), (at, y1)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    look: dict[str, Any] = {"color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0, "zorder": 5}
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, **look))
    if edge.count > 1:
        place = at + sign * reach, (y0 + y1) / 2
        axes.text(*place, f"×{edge.count}", fontsize=TEXT - 1, color=colour, ha="center")


def _note(axes: Axes, side: _Side, place: tuple[float, float], added: bool, text: str) -> None:
    x = place[0] + side.left + (BOX + 0.1 if added else -0.1)
    colour, weight, where = (style.GREEN, "bold", "left") if added else (ARC, "normal", "right")
    look: dict[str, Any] = {"color": colour, "weight": weight, "fontsize": TEXT - 1, "va": "center", "ha": where}
    ground: dict[str, Any] = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, place[1], text, bbox=ground, zorder=7, **look)


# -- words -------------------------------------------------------------------------------------------------------------


def _draw_headings(axes: Axes, comparison: Comparison, heading: str, parts: Sequence[range], places: Places) -> None:
    changes = (
        f"{comparison.removed} layers removed, {comparison.narrowed} narrowed, "
        f"{comparison.added} skip connection{'s' * (comparison.added != 1)} added"
    )
    look: dict[str, Any] = {"fontsize": 8.5, "va": "top", "linespacing": 1.35}
    axes.text(axes.get_xlim()[1] / 2, 0.12, f"{heading}\n{changes}", ha="center", multialignment="left", **look)
    for rows in parts:
        x = places[rows[0]][0]
        for offset, word in ((NEAR, "teacher"), (NEAR + BOX + NEAR, "student")):
            axes.text(x + offset + BOX / 2, TOP - 0.06, word, fontsize=8, weight="bold", ha="center", va="bottom")


def _draw_legend(figure: Figure, height: float) -> None:
    thin: dict[str, Any] = {"lw": 0.6, "ec": DARK}
    filters = Patch(fc=FILTER_FILL, **thin)
    entries = [
        (filters, "layer with filters"),
        (Patch(fc=OTHER_FILL, **thin), "without filters"),
        ((filters, Patch(fc="white", ec=LIGHT, lw=0.6, ls="--")), "width: channels left"),
        (Patch(fc=REMOVED_FILL, ec=style.VERMILLION, lw=0.6, ls="--"), "removed"),
        (Line2D([], [], color=style.GREEN, linewidth=1.5), "added skip"),
        (Line2D([], [], color=ARC, linewidth=0.9), "other connection"),
    ]
    handles, labels = zip(*entries, strict=True)
    figure.legend(
        handles, labels, loc="lower center", ncols=3 if figure.get_figwidth() < 8 else 6, fontsize=TEXT + 0.5,
        frameon=False, bbox_to_anchor=(0.5, 0.02 / height), handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
    )  # fmt: skip
