"""N2N's two stages as its trials show them: layers are removed first, filters afterwards."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esnac_lib.report.figures import style
from esnac_lib.report.records.study import StudyRecord


@style.theme()
def stages_figure(record: StudyRecord) -> Figure:
    """Draw f, layers removed and filters removed by the index of the evaluated architecture, and where stage 2 begins.

    N2N proposes at random where its policies produce nothing new; such students appear in both stages.
    """
    figure = style.new_figure(9, 6)
    observed = record.observed
    if observed.empty:
        return style.in_words(figure, "No architecture has been evaluated yet.")
    index = observed["trial"].to_numpy() + 1
    decided = [record.decisions(trial) for trial in observed["trial"]]
    panels = {
        "objective f (search)": observed["f"].to_numpy(),
        "layers removed": np.array([len(decisions.removed) for decisions in decided]),
        "share of filters\nremoved (mean)": np.array([np.mean(decisions.ratios) for decisions in decided]),
    }
    boundary = first_of_second_stage(record)
    for axes, (label, values) in zip(figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True):
        axes.plot(index, values, "o", color=style.BLUE, markersize=5, alpha=0.75)
        if boundary is not None:
            axes.axvline(boundary + 0.5, color=style.VERMILLION, linestyle="--", linewidth=1.2, label="stage 2 begins")
        style.tidy(axes, xlabel="", ylabel=label, integers=True)
        if label.startswith("layers"):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[-1].set_xlabel("index of the evaluated architecture")
    return figure if boundary is None else style.legend_above(figure, figure.axes[0], 1)


def first_of_second_stage(record: StudyRecord) -> int | None:
    """Return the first trial that N2N's second policy proposed: of the first step after half of the evaluations.

    None in a space with one operator only, or before there is such a trial.
    """
    config = record.config
    if not {"remove", "shrink"} <= set(config.operator_names):
        return None
    steps = record.trials.groupby("step")["trial"].min()
    later = steps[steps >= round(0.5 * config.num_evaluations)]
    return None if later.empty else int(later.iloc[0])
