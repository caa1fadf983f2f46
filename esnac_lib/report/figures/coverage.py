"""How much of each surveyed model can be shrunk, and how small its students were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from esnac_lib.report.figures import style

FOURFOLD = 4


@style.theme()
def coverage_figure(zoos: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the share of models by what shrinking reaches in them, and the smallest verified student of each model.

    Args:
        zoos: The table of `coverage.table` of each collection of models.
    """
    figure = style.new_figure(10.5, 4)
    left, right = figure.subplots(1, 2)
    for (zoo, rows), colour in zip(zoos.items(), style.SERIES, strict=False):
        for column, line, what in (
            ("share of own filters", style.LINES[1], "their own filters"),
            ("share shrinkable", style.LINES[0], "with the channels that read them"),
        ):
            look: dict[str, Any] = {"color": colour, "linestyle": line, "label": f"{zoo}: {what}"}
            sns.ecdfplot(y=rows[column], stat="percent", complementary=True, ax=left, **look)
        traced = rows[rows["layers"] > 0]
        look = {"color": colour, "alpha": 0.8, "label": zoo}
        sns.scatterplot(traced, x="parameters", y="compression (×)", s=28, ax=right, **look)
    right.axhline(FOURFOLD, color=style.GREY, linewidth=1, label="4× fewer parameters")
    style.tidy(left, xlabel="models with at least this share [%]", ylabel="share of parameters that shrinking reaches")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylim(0, 1.05)
    style.tidy(right, xlabel="parameters of the model (log scale)", ylabel="compression of the smallest student (×)")
    style.count_ticks(right)
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    right.set_ylim(bottom=1)
    style.legend(left, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    style.legend(right, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.0))
    return figure
