"""How all figures look: a palette that is safe for colour-blind readers (Okabe and Ito), light axes, one text size.

Figures are made without pyplot, so that nothing global changes and nothing has to be closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY, PALE = "#CC79A7", "#56B4E9", "#222222", "#8C8C8C", "#D9D9D9"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
"""For several studies in one figure; vermillion is left for the solution."""
LINES = ("-", (0, (4, 2)), (0, (1, 1)))
"""Their lines: where one lies over another, both are seen."""

F_COLOURS = "cividis"  # the colour map of f: as good in grey

TEACHER: dict[str, Any] = {"marker": "s", "color": BLACK, "markersize": 9, "linestyle": "none"}
SOLUTION: dict[str, Any] = {
    "marker": "*",
    "color": VERMILLION,
    "markersize": 16,
    "linestyle": "none",
    "markeredgecolor": "white",
}
NARROWED: dict[str, Any] = {
    "marker": "D", "color": PURPLE, "markersize": 13, "linestyle": "none", "markerfacecolor": "none",
    "markeredgewidth": 1.8,
}  # fmt: skip
"""Hollow, for it may lie where the solution does."""

MARGIN = 0.05  # of an axis beyond the data


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def tidy(axes: Axes, *, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels, a light grid, and no frame but the two axes."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if title:
        axes.set_title(title, fontsize="medium")
    axes.grid(True, color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def in_words(figure: Figure, text: str) -> Figure:
    """The figure for a study that has nothing to plot yet: it says so."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, fontsize="large", color=BLACK)
    return figure


def legend(axes: Axes, **where: Any) -> None:
    """A legend without a frame, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**{"framealpha": 0.85, "edgecolor": "none", "fontsize": "small", **where})


def legend_above(figure: Figure, axes: Axes, ncols: int) -> None:
    """A legend that covers no point: over the axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, frameon=False, fontsize="small")


def count_ticks(axes: Axes) -> None:
    """A logarithmic x axis of counts that reads 20K, 50K, 1M."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 3000 else (1,)
    ticks = [step * 10.0**power for power in range(13) for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.minorticks_off()


def short_count(value: float) -> str:
    """1,500 as 1.5K, 2,000,000 as 2M.

    >>> short_count(1500), short_count(2e6), short_count(90)
    ('1.5K', '2M', '90')
    """
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def span(values: Iterable[float], least: float) -> tuple[float, float]:
    """The range of an axis: the finite values and a margin around them, at least `least` wide."""
    known = [value for value in values if value == value]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    return low - MARGIN * (high - low), high + MARGIN * (high - low)
