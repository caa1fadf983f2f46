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

    zoos: the table of `coverage.table` of each collection of models.
    """
    figure = style.new_figure(10.5, 4)
    left, right = figure.subplots(1, 2)
    for (zoo, rows), colour in zip(zoos.items(), style.SERIES, strict=False):
        drawn: dict[str, Any] = {"color": colour, "stat": "percent", "complementary": True, "ax": left}
        sns.ecdfplot(
            rows, y="share of own filters", label=f"{zoo}: their own filters", linestyle=style.LINES[1], **drawn
        )
        sns.ecdfplot(rows, y="share shrinkable", label=f"{zoo}: with the channels that read them", **drawn)
        traced, look = rows[rows["layers"] > 0], {"color": colour, "alpha": 0.8, "label": zoo}
        sns.scatterplot(traced, x="parameters", y="compression (×)", s=28, ax=right, **look)
    right.axhline(FOURFOLD, color=style.GREY, linewidth=1, label="4× fewer parameters")
    style.tidy(left, xlabel="models with at least this share [%]", ylabel="share of parameters that shrinking reaches")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylim(0, 1.05)
    size = "parameters of the model (log scale)"
    style.tidy(right, xlabel=size, ylabel="compression of the smallest student (×)", counts=True)
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    right.set_ylim(bottom=1)
    for axes, ncols in ((left, 2), (right, 3)):
        style.legend(axes, loc="lower center", ncols=ncols, bbox_to_anchor=(0.5, 1.0))
    return figure
