"""The census of models as a table and a figure: how much of each can be shrunk, how small its students were."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from pandas.io.formats.style import Styler

from esnac_lib.report.figures import style

FOURFOLD = 4


def coverage_figure(zoos: Mapping[str, pd.DataFrame]) -> Figure:
    """Left: the models by the share of parameters that shrinking reaches. Right: the smallest proved student of each.

    zoos: the table of `coverage.table` of each collection of models.
    """
    figure = style.new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for (zoo, rows), colour in zip(zoos.items(), style.SERIES, strict=False):
        for column, line, what in (("share of own filters", style.LINES[1], "own filters alone"),
                                   ("share shrinkable", style.LINES[0], "and channels read")):  # fmt: skip
            shares = rows[column].sort_values(ascending=False).to_numpy()
            models = [0, *(100 * (i + 1) / len(shares) for i in range(len(shares)))]
            left.step(models, [*shares[:1], *shares], where="pre", color=colour, linestyle=line, label=f"{zoo}: {what}")
        traced = rows[rows["layers"] > 0]
        right.plot(traced["parameters"], traced["times smaller"], "o", color=colour, markersize=5, alpha=0.8, label=zoo)
    right.axhline(FOURFOLD, color=style.GREY, linewidth=1, label="four times smaller")
    style.tidy(left, xlabel="models, best first (%)", ylabel="share of parameters that shrinking reaches")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylim(0, 1.05)
    style.tidy(right, xlabel="parameters of the model", ylabel="smallest proved student (times smaller)")
    style.count_ticks(right)
    right.set_yscale("log", base=4)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    right.set_ylim(bottom=1)
    style.legend(left, loc="lower left")
    style.legend(right, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.12))
    return figure


def readable_census(rows: pd.DataFrame) -> Styler:
    """The table of `coverage.table` with numbers as a person writes them."""
    formats = {name: "{:.1%}" for name in rows.columns if "share" in name}
    formats |= {"parameters": "{:,}", "times smaller": "{:.1f}", "trace s": "{:.1f}", "all s": "{:.0f}"}
    return rows.style.hide(axis="index").format({name: form for name, form in formats.items() if name in rows})
