"""How all figures look: seaborn's theme with a palette that is safe for colour-blind readers (Okabe and Ito).

Figures are made without pyplot, and `theme` holds only while a figure is drawn: nothing global changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY, PALE = "#CC79A7", "#56B4E9", "#222222", "#8C8C8C", "#D9D9D9"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)  # of several studies; vermillion is left for the solution
LINES = ("-", (0, (4, 2)), (0, (1, 1)))  # their line styles, so that two curves in the same place are both seen
F_COLOURS = "cividis"  # the colour map of f: reads equally well in grey
MARGIN = 0.05  # of an axis beyond the data

MARK: dict[str, Any] = {"linestyle": "none"}
TEACHER = MARK | {"marker": "s", "color": BLACK, "markersize": 9}
SOLUTION = MARK | {"marker": "*", "color": VERMILLION, "markersize": 16, "markeredgecolor": "white"}
HOLLOW = MARK | {"markerfacecolor": "none"}
NARROWED = HOLLOW | {"marker": "D", "color": PURPLE, "markersize": 13, "markeredgewidth": 1.8}  # may be the solution's


@contextmanager
def theme() -> Iterator[None]:
    """Set seaborn's theme while a figure is drawn; used as a decorator.

    Not for what the live view's thread draws: matplotlib's settings are shared by all threads.
    """
    with matplotlib.rc_context():
        # DejaVu Sans comes with matplotlib, so that figures have the same bytes on every machine
        sns.set_theme("paper", "ticks", SERIES, font="DejaVu Sans", color_codes=False)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def looks() -> Iterator[dict[str, Any]]:
    """Yield a colour and a line style for each of several studies, without end."""
    for colour, line in zip(cycle(SERIES), cycle(LINES), strict=False):
        yield {"color": colour, "linestyle": line}


def tidy(
    axes: Axes, *, xlabel: str, ylabel: str, title: str = "", integers: bool = False, counts: bool = False
) -> None:
    """Set labels, a light grid, and no frame but the two axes; `integers` and `counts` say what x shows."""
    axes.set(xlabel=xlabel, ylabel=ylabel, axisbelow=True)
    if title:
        axes.set_title(title, fontsize="medium")
    axes.grid(True, color="#EBEBEB", linewidth=0.8)
    sns.despine(ax=axes)
    if integers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if counts:
        count_ticks(axes)


def in_words(figure: Figure, text: str) -> Figure:
    """Write a text in place of a plot, for a study that has nothing to plot yet."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, fontsize="large", color=BLACK)
    return figure


def legend(axes: Axes, **where: Any) -> None:
    """Return a legend without a frame, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**{"framealpha": 0.85, "edgecolor": "none", "fontsize": "small", **where})


def legend_above(figure: Figure, axes: Axes, ncols: int) -> Figure:
    """Return a legend above the axes, where it covers no point, in place of one that seaborn put into them."""
    handles, labels = axes.get_legend_handles_labels()
    if (inside := axes.get_legend()) is not None:
        inside.remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=ncols, frameon=False, fontsize="small")
    return figure


def count_ticks(axes: Axes) -> None:
    """Make x a logarithmic axis of counts that reads 20k, 50k, 1M."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < 100 else (1, 3) if high / low < 3000 else (1,)
    ticks = [step * 10.0**power for power in range(13) for step in steps]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.minorticks_off()


def identity_line(axes: Axes, limits: tuple[float, float]) -> None:
    """Give both axes the same limits, with a dashed line where x and y are equal."""
    axes.add_line(Line2D(limits, limits, color=GREY, linestyle="--", linewidth=1, zorder=0, label="y = x"))
    axes.set(xlim=limits, ylim=limits, aspect="equal")


def span(values: Iterable[float], least: float) -> tuple[float, float]:
    """Return the range of an axis: the finite values and a margin around them, at least `least` wide."""
    known = [value for value in values if value == value]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    return low - MARGIN * (high - low), high + MARGIN * (high - low)
