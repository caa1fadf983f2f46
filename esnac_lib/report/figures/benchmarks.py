"""Figures of what was measured of the library's speed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

from esnac_lib.report.figures import style

GROWTH = {"observations": "observations", "K": "kernels K"}


def growth_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Seconds of an `ask` by the number of observations and by K, both axes logarithmic.

    tables: for "observations" and "K" those numbers with learning, choosing and seconds. The dashed line grows as fast
    as the number, from the first point on.
    """
    figure = style.new_figure(10, 3.8)
    for axes, (name, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        rows = table.sort_values(name)
        for column, colour in zip(("seconds", "learning", "choosing"), style.SERIES, strict=False):
            label = "all" if column == "seconds" else column
            axes.plot(rows[name], rows[column], "o-", color=colour, label=label, markersize=5)
        line = rows["seconds"].iloc[0] * rows[name] / rows[name].iloc[0]
        axes.plot(rows[name], line, color=style.GREY, linestyle="--", linewidth=1, label="in proportion", zorder=0)
        style.tidy(axes, xlabel=GROWTH[name], ylabel="seconds of an ask")
        _log_axes(axes, rows[name])
        style.legend(axes, loc="upper left")
    return figure


def _log_axes(axes: Axes, numbers: pd.Series) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(numbers))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def shares_figure(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """One panel each: the share of the time of every part. parts: tables with a name in the first column, and share."""
    longest = max(len(table) for table in parts.values())
    figure = style.new_figure(5.2 * len(parts), 1.1 + 0.28 * longest)
    for axes, (title, table) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        rows = table.iloc[::-1]
        names = [str(name) if len(str(name)) < 38 else f"{str(name)[:36]}…" for name in rows.iloc[:, 0]]
        bars = axes.barh(names, rows["share"], color=style.BLUE, height=0.65)
        axes.bar_label(bars, [f" {share:.0%}" for share in rows["share"]], fontsize="small")
        style.tidy(axes, xlabel="share of the time", ylabel="", title=title)
        axes.set_xlim(min(0.0, 1.2 * rows["share"].min()), 1.2 * rows["share"].max())
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(False, axis="y")
    return figure
