"""Figures 3 and 4 of Architecture Compression, and whether the codec knew: the regressors, and the descent's path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esnac_lib.report.figures import style
from esnac_lib.report.records.latent_descent import CompressionRecord

PARTS = {"total": "L", "decoder": "decoder L_d", "accuracy": "accuracy L_a", "params": "parameters L_p"}
PATHS = {"before": "before the refresh", "after": "after the last refresh"}


def joint_loss(record: CompressionRecord) -> Figure:
    """Figure 3: the joint training's loss and its parts, against iterations."""
    figure = style.new_figure(7.5, 4.2)
    losses = record.joint_losses
    if losses.empty:
        return style.in_words(figure, "The codec is not trained yet.")
    axes = figure.add_subplot()
    colours = (style.BLACK, style.BLUE, style.ORANGE, style.GREEN)
    for (part, label), colour in zip(PARTS.items(), colours, strict=True):
        axes.plot(losses.index, losses[part], color=colour, linewidth=2 if part == "total" else 1.2, label=label)
    axes.set_yscale("log")
    style.tidy(axes, xlabel="iteration", ylabel="training loss (log scale)")
    style.legend_above(figure, axes, 4)
    return figure


def first_filters(record: CompressionRecord) -> Figure:
    """Figure 4: the first layers' filters of encoder and decoder; a row a filter, a column an input channel.

    A cell holds the filter's weights along the sequence, from left to right.
    """
    figure = style.new_figure(10, 5.5)
    if not record.codec:
        return style.in_words(figure, "The codec is not trained yet.")
    for axes, name in zip(figure.subplots(1, 2), ("encoder", "decoder"), strict=True):
        weights = np.array(record.codec["filters"][name])  # (filters, channels, kernel)
        filters, channels, kernel = weights.shape
        limit = float(np.abs(weights).max()) or 1.0
        image = axes.imshow(
            weights.reshape(filters, channels * kernel), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        for channel in range(1, channels):
            axes.axvline(channel * kernel - 0.5, color="white", linewidth=0.6)
        every = max(1, channels // 12)
        axes.set_xticks([kernel * (c + 0.5) - 0.5 for c in range(0, channels, every)], range(0, channels, every))
        axes.set_xlabel("input channel")
        axes.set_ylabel("filter")
        axes.set_title(f"{name}, first layer: {filters} filters of width {kernel}", fontsize="medium")
        figure.colorbar(image, ax=axes, label="weight", pad=0.02)
    return figure


def regressors(record: CompressionRecord) -> Figure:
    """Predicted against true accuracy and parameters: held-out architectures, and pale those that were trained on."""
    figure = style.new_figure(10.5, 5)
    if not record.codec.get("held_out"):
        return style.in_words(figure, "The codec is not trained yet, or no architecture was held out.")
    trials = record.trials.set_index("trial")
    left, right = figure.subplots(1, 2)
    parts = [("trained", style.PALE, "trained on"), ("held_out", style.BLUE, "held out")]
    shown: dict[str, list[float]] = {"accuracy": [], "params": []}
    for part, colour, label in parts:
        rows = record.codec[part]["predictions"]
        numbers = [int(row[0]) for row in rows]
        accuracy = (100 * trials.loc[numbers, "accuracy"]).to_numpy()
        guess = np.array([[100 * row[1], max(1.0, row[2])] for row in rows])
        left.plot(accuracy, guess[:, 0], "o", color=colour, markersize=5, label=label)
        params = trials.loc[numbers, "params"].to_numpy(dtype=float)
        right.plot(params, guess[:, 1], "o", color=colour, markersize=5, label=label)
        shown["accuracy"] += [*accuracy, *guess[:, 0]]
        shown["params"] += [*params, *guess[:, 1]]
    for axes, name, logarithmic in ((left, "accuracy", False), (right, "params", True)):
        _identity(axes, shown[name], logarithmic)
    held = record.codec["held_out"]
    style.tidy(
        left,
        xlabel="accuracy after the short training [%]",
        ylabel="predicted accuracy [%]",
        title=_quality(held["accuracy_regressor"], 100, " points", "the mean"),
    )
    style.tidy(
        right,
        xlabel="parameters (log scale)",
        ylabel="predicted parameters (log scale)",
        title=_quality(held["params_regressor"], 1, "", "a linear fit"),
    )
    style.legend_above(figure, left, 2)
    return figure


def _quality(found: dict[str, Any], factor: float, unit: str, baseline: str) -> str:
    rank = found["rank_correlation"]
    text = "too few for a rank correlation" if rank is None else f"rank correlation {rank:.2f}"
    error, other = factor * found["mean_absolute_error"], factor * found["baseline_error"]
    digits = ".1f" if factor > 1 else ",.0f"
    return f"held out: {text}\nmean error {error:{digits}}{unit}; of {baseline} {other:{digits}}{unit}"


def _identity(axes: Axes, values: Sequence[float], logarithmic: bool) -> None:
    known = [value for value in values if value == value]
    low, high = min(known), max(known)
    if logarithmic:
        axes.set_yscale("log")
        low, high = low / 1.3, high * 1.3
    else:
        low, high = style.span(known, 1.0)
    axes.plot([low, high], [low, high], color=style.GREY, linestyle="--", linewidth=1, zorder=0, label="equal")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    if logarithmic:
        style.count_ticks(axes)
        axes.set_yticks(axes.get_xticks())
        axes.yaxis.set_major_formatter(axes.xaxis.get_major_formatter())
        axes.set_ylim(low, high)


def descent_path(record: CompressionRecord) -> Figure:
    """Along the descent from the teacher: what is predicted at the embedding, against what the decoded network is.

    Above with the codec as it was trained, below after the refreshes. The true accuracy is that of the decoded network
    after the short training.
    """
    figure = style.new_figure(10.5, 6.6)
    paths = [(title, record.path(name)) for name, title in PATHS.items() if record.path(name)]
    if not paths:
        return style.in_words(figure, "No path was recorded.")
    grid = figure.subplots(len(paths), 2, squeeze=False, sharex=True)
    for (title, path), (left, right) in zip(paths, grid, strict=True):
        steps = path["steps"]
        at = [step["step"] for step in steps]
        true = [np.nan if value is None else 100 * value for value in path["true_accuracy"]]
        params = [np.nan if step["true_params"] is None else step["true_params"] for step in steps]
        _lines(left, at, [100 * step["accuracy"] for step in steps], true)
        _lines(right, at, [max(1.0, step["params"]) for step in steps], params)
        right.set_yscale("log")
        style.tidy(left, xlabel="", ylabel="accuracy [%]", title=f"{title}: {_parting(steps, path['true_accuracy'])}")
        style.tidy(right, xlabel="", ylabel="parameters (log scale)", title=title)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[-1]:
        axes.set_xlabel("step of gradient descent")
    style.legend_above(figure, grid[0][0], 3)
    return figure


def _lines(axes: Axes, at: Sequence[int], predicted: Sequence[float], true: Sequence[float]) -> None:
    axes.plot(at, predicted, color=style.BLUE, linewidth=2, label="predicted at the embedding")
    axes.plot(at, true, "o-", color=style.VERMILLION, markersize=6, linewidth=1, label="true, of the decoded network")
    missing = [step for step, value in zip(at, true, strict=True) if value != value]
    if missing:
        bottom = axes.get_xaxis_transform()
        axes.plot(
            missing, [0.03] * len(missing), "x", color=style.GREY, transform=bottom, label="decodes to no network"
        )


def _parting(steps: Sequence[dict[str, Any]], true: Sequence[float | None]) -> str:
    """Mean errors of the predicted accuracy in the first five steps and after them."""
    errors = [
        (step["step"], 100 * abs(step["accuracy"] - value))
        for step, value in zip(steps, true, strict=True)
        if value is not None
    ]
    texts: list[str] = []
    for label, part in (
        ("steps 0–5", [error for step, error in errors if step <= 5]),
        ("later", [error for step, error in errors if step > 5]),
    ):
        if part:
            texts.append(f"{np.mean(part):.1f} points off in {label}" if not texts else f"{np.mean(part):.1f} {label}")
    return ", ".join(texts) or "nothing could be trained"
