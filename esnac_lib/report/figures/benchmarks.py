"""Figures of what was measured of the library's speed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

from esnac_lib.report.figures import style

GROWTH = {"observations": "number of observations", "K": "number of kernels K"}
PARTS = {"seconds": "in all", "learning": "learning kernels", "choosing": "choosing candidates"}


@style.theme()
def growth_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the seconds of an `ask` against the number of observations and against K, both axes logarithmic.

    tables: for "observations" and "K", those numbers with learning, choosing and seconds.
    """
    figure = style.new_figure(10, 3.8)
    for axes, (name, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        rows = table.sort_values(name)
        for (column, label), colour in zip(PARTS.items(), style.SERIES, strict=False):
            sns.lineplot(rows, x=name, y=column, marker="o", color=colour, label=label, legend=False, ax=axes)
        line = rows["seconds"].iloc[0] * rows[name] / rows[name].iloc[0]
        axes.plot(rows[name], line, color=style.GREY, linestyle="--", linewidth=1, label="proportional", zorder=0)
        style.tidy(axes, xlabel=GROWTH[name], ylabel="seconds of one ask (log scale)")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(list(rows[name]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
    return style.legend_above(figure, figure.axes[0], 4)


@style.theme()
def shares_figure(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw each part's share of the time, one panel a table: a name in the first column, and "share"."""
    longest = max(len(table) for table in parts.values())
    figure = style.new_figure(5.2 * len(parts), 1.1 + 0.28 * longest)
    for axes, (title, table) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        names = [str(name) if len(str(name)) < 38 else f"{str(name)[:36]}…" for name in table.iloc[:, 0]]
        sns.barplot(x=table["share"], y=names, color=style.BLUE, width=0.65, errorbar=None, saturation=1, ax=axes)
        axes.bar_label(axes.containers[0], [f" {share:.0%}" for share in table["share"]], fontsize="small")
        style.tidy(axes, xlabel="share of the time", ylabel="", title=title)
        axes.set_xlim(min(0.0, 1.2 * table["share"].min()), 1.2 * table["share"].max())
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(False, axis="y")
    return figure
