"""Figures 3 and 4 of Architecture Compression, and how well its codec predicts: on held-out data, along the descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from esnac_lib.report.figures import style
from esnac_lib.report.records.latent_descent import CompressionRecord

PARTS = {"total": "total L", "decoder": "decoder L_d", "accuracy": "accuracy L_a", "params": "parameters L_p"}
NOT_TRAINED = "The codec is not trained yet."
PATHS = {"before": "codec as first trained", "after": "codec retrained on decoded networks"}


@style.theme()
def joint_loss(record: CompressionRecord) -> Figure:
    """Draw the loss of the joint training and its parts against iterations (Figure 3)."""
    figure = style.new_figure(7.5, 4.2)
    if record.joint_losses.empty:
        return style.in_words(figure, NOT_TRAINED)
    axes = figure.add_subplot()
    colours = [style.BLACK, style.BLUE, style.ORANGE, style.GREEN]
    parts = record.joint_losses[list(PARTS)].rename(columns=PARTS)
    sns.lineplot(parts, estimator=None, dashes=False, palette=colours, linewidth=1.3, ax=axes)
    axes.set_yscale("log")
    style.tidy(axes, xlabel="iteration", ylabel="training loss (log scale)")
    return style.legend_above(figure, axes, 4)


@style.theme()
def first_filters(record: CompressionRecord) -> Figure:
    """Draw the first layers' filters of encoder and decoder as heat maps (Figure 4).

    A row is a filter, a block of columns an input channel; it holds the filter's weights along the sequence.
    """
    figure = style.new_figure(10, 5.5)
    if not record.codec:
        return style.in_words(figure, NOT_TRAINED)
    for axes, name in zip(figure.subplots(1, 2), ("encoder", "decoder"), strict=True):
        weights = np.array(record.codec["filters"][name])  # (filters, channels, kernel)
        filters, channels, kernel = weights.shape
        look: dict[str, Any] = {"cmap": "RdBu_r", "center": 0, "cbar_kws": {"label": "weight", "pad": 0.02}}
        sns.heatmap(weights.reshape(filters, -1), yticklabels=max(1, filters // 8), ax=axes, **look)
        axes.vlines(kernel * np.arange(1, channels), 0, filters, color="white", linewidth=0.6)
        every = max(1, channels // 12)
        axes.set_xticks([kernel * (c + 0.5) for c in range(0, channels, every)], range(0, channels, every), rotation=0)
        axes.set(xlabel="input channel", ylabel="filter")
        axes.set_title(f"{name}, first layer: {filters} filters of width {kernel}", fontsize="medium")
    return figure


@style.theme()
def regressors(record: CompressionRecord) -> Figure:
    """Draw predicted against true accuracy and parameters, for held-out architectures and those trained on."""
    figure = style.new_figure(10.5, 5)
    if not record.codec.get("held_out"):
        return style.in_words(figure, "The codec is not trained yet, or no architecture was held out.")
    left, right = figure.subplots(1, 2)
    predictions = _predictions(record)
    look: dict[str, Any] = {"hue": "architectures", "palette": {"trained on": style.GREY, "held out": style.BLUE}}
    for axes, name in ((left, "accuracy"), (right, "params")):
        true, predicted = f"true {name}", f"predicted {name}"
        sns.scatterplot(predictions, x=true, y=predicted, ax=axes, legend=axes is left, **look)
        _identity(axes, [*predictions[true], *predictions[predicted]], axes is right)
    held = record.codec["held_out"]
    title = _quality(held["accuracy_regressor"], 100, " points", "the mean")
    style.tidy(left, xlabel="accuracy after the short training [%]", ylabel="predicted accuracy [%]", title=title)
    title = _quality(held["params_regressor"], 1, "", "a linear fit")
    style.tidy(right, xlabel="parameters (log scale)", ylabel="predicted parameters (log scale)", title=title)
    return style.legend_above(figure, left, 3)


def _predictions(record: CompressionRecord) -> pd.DataFrame:
    """One line an architecture: true and predicted accuracy in % and number of parameters."""
    true = record.trials.set_index("trial")[["accuracy", "params"]].to_dict()
    lines = [
        (label, 100 * true["accuracy"][trial], 100 * accuracy, true["params"][trial], max(1.0, params))
        for part, label in (("trained", "trained on"), ("held_out", "held out"))
        for trial, accuracy, params in record.codec[part]["predictions"]
    ]
    columns = ["architectures", "true accuracy", "predicted accuracy", "true params", "predicted params"]
    return pd.DataFrame(lines, columns=columns).astype({"true params": float})


def _quality(found: dict[str, Any], factor: float, unit: str, baseline: str) -> str:
    rank = found["rank_correlation"]
    text = "too few for a rank correlation" if rank is None else f"rank correlation {rank:.2f}"
    error, other = factor * found["mean_absolute_error"], factor * found["baseline_error"]
    digits = ".1f" if factor > 1 else ",.0f"
    return f"held out: {text}\nmean absolute error {error:{digits}}{unit} (of {baseline}: {other:{digits}}{unit})"


def _identity(axes: Axes, values: Sequence[float], logarithmic: bool) -> None:
    known = [value for value in values if value == value]
    ends = (min(known) / 1.3, max(known) * 1.3) if logarithmic else style.span(known, 1.0)
    axes.plot(ends, ends, color=style.GREY, linestyle="--", linewidth=1, zorder=0, label="y = x")
    axes.set(xlim=ends, ylim=ends)
    if logarithmic:
        axes.set_yscale("log")
        style.count_ticks(axes)
        axes.set_yticks(axes.get_xticks())
        axes.yaxis.set_major_formatter(axes.xaxis.get_major_formatter())
        axes.set_ylim(ends)


@style.theme()
def descent_path(record: CompressionRecord) -> Figure:
    """Draw what is predicted at the embedding along the descent, and what the decoded network measures.

    Above with the codec as it was trained, below after it was retrained on decoded networks. The true accuracy is that
    of the decoded network after the short training.
    """
    figure = style.new_figure(10.5, 6.6)
    paths = [(title, record.path(name)) for name, title in PATHS.items() if record.path(name)]
    if not paths:
        return style.in_words(figure, "No path was recorded.")
    grid = figure.subplots(len(paths), 2, squeeze=False, sharex=True)
    for (title, path), (left, right) in zip(paths, grid, strict=True):
        steps = pd.DataFrame(path["steps"]).assign(true_accuracy=path["true_accuracy"])
        steps = steps.astype({"true_accuracy": float, "true_params": float})
        _lines(left, steps["step"], 100 * steps["accuracy"], 100 * steps["true_accuracy"])
        _lines(right, steps["step"], steps["params"].clip(lower=1.0), steps["true_params"])
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter(EngFormatter(sep=""))
        right.yaxis.set_minor_locator(NullLocator())
        style.tidy(left, xlabel="", ylabel="accuracy [%]", title=f"{title}\n{_deviation(steps)}", integers=True)
        style.tidy(right, xlabel="", ylabel="parameters (log scale)")
    for axes in grid[-1]:
        axes.set_xlabel("step of gradient descent")
    return style.legend_above(figure, grid[0][0], 3)


def _lines(axes: Axes, at: pd.Series, predicted: pd.Series, true: pd.Series) -> None:
    axes.plot(at, predicted, color=style.BLUE, linewidth=2, label="predicted at the embedding")
    axes.plot(at, true, "o-", color=style.VERMILLION, markersize=6, linewidth=1, label="measured, decoded network")
    if (missing := at[true.isna()]).size:
        look: dict[str, Any] = {"color": style.GREY, "transform": axes.get_xaxis_transform()}
        axes.plot(missing, [0.03] * len(missing), "x", label="no valid network decoded", **look)


def _deviation(steps: pd.DataFrame) -> str:
    """Mean errors of the predicted accuracy in the first five steps and after them."""
    errors = 100 * (steps["accuracy"] - steps["true_accuracy"]).abs().dropna()
    early = steps["step"][errors.index] <= 5
    parts = {"in steps 0–5": errors[early], "afterwards": errors[~early]}
    texts = [f"{part.mean():.1f} points {label}" for label, part in parts.items() if len(part)]
    return f"mean error {', '.join(texts)}" if texts else "no decoded network could be trained"
