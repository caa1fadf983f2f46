"""Students compared with networks that were designed small: ESNAC Table 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esnac_lib.report.figures import style
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.statistics import Difference, mean_and_band, stat

STUDENT, ORIGINAL = "student", "original"
BAND = "accuracy 95 % half-width [points]"


def sizes_table(experiment: ExperimentRecord, originals: Sequence[StudyRecord]) -> pd.DataFrame:
    """Return a line for each network: the students of each variant, then the original networks by name.

    Test accuracies, with mean and sample standard deviation over the runs; a network that is not trained has no line.
    The half-width of an accuracy's 95 % interval is the larger of that over the runs and the test images' binomial one.
    """
    images = next((record.test_images for record in (*experiment.records, *originals)), None)
    lines = [
        _line(f"ESNAC from {variant}", STUDENT, [(found.accuracy, found.params) for found in solutions], images)
        for variant in experiment.studies
        if (solutions := [record.solution for record in experiment.finished(variant) if record.solution])
    ]
    names: dict[str, list[tuple[float, int]]] = {}
    for record in originals:
        if record.reference_teacher is not None:
            accuracy = record.reference_teacher.accuracy
            if experiment.config.final == "paper":  # as the students' is: of the best test epoch
                accuracy = float(record.epochs.query("phase == 'reference-teacher'")["accuracy"].max())
            names.setdefault(record.config.teacher, []).append((accuracy, record.reference_teacher.params))
    lines += [_line(readable_name(name), ORIGINAL, pairs, images) for name, pairs in names.items()]
    columns = ["network", "kind", "runs", "accuracy [%]", "accuracy [%] ±", "parameters", "parameters ±", BAND]
    return pd.DataFrame(lines, columns=columns)


def _line(name: str, kind: str, pairs: Sequence[tuple[float, int]], images: int | None) -> tuple[object, ...]:
    params, spread = stat([float(params) for _, params in pairs])
    accuracies = np.array([accuracy for accuracy, _ in pairs])
    over_runs, of_images = mean_and_band(100 * accuracies[:, None])[1][0], Difference.of(accuracies.mean(), 0.0, images)
    band = max(float(over_runs), of_images.band or 0.0)
    return (name, kind, len(pairs), *stat(list(100 * accuracies)), params, spread if kind == STUDENT else None, band)


def sizes_claim(table: pd.DataFrame) -> str:
    """Return in Markdown which networks of `sizes_table` one of the other kind beats, beyond the noise, at its size."""
    if not {STUDENT, ORIGINAL} <= set(table["kind"]):
        return "**No comparison yet:** there must be a finished student and a trained original."
    counts = {}
    for kind, other in ((ORIGINAL, STUDENT), (STUDENT, ORIGINAL)):
        mine, theirs = (table[table["kind"] == name] for name in (kind, other))
        beaten = []
        for row in mine.to_dict("records"):
            ahead, band = theirs["accuracy [%]"] - row["accuracy [%]"], np.hypot(theirs[BAND], row[BAND])
            beaten.append(((theirs["parameters"] <= row["parameters"]) & (ahead > band)).any())
        counts[kind] = f"{sum(beaten)} of {len(mine)}"
    runs = sorted(set(table["runs"]))
    each = f"{runs[0]} run{'s' * (runs[0] > 1)} each" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs each"
    return (
        f"**{counts[ORIGINAL]} original networks are less accurate than some student that is no larger, and "
        f"{counts[STUDENT]} students less accurate than some original that is no larger**, by more than the noise of "
        f"the runs and the test images ({each})."
    )


def readable_name(teacher: str) -> str:
    """Return a ShuffleNet's name as the paper prints it.

    >>> readable_name("shufflenet_0.5x_g8")
    'ShuffleNet 0.5× (g = 8)'
    """
    family, _, rest = teacher.partition("_")
    width, _, groups = rest.partition("x_g")
    return f"ShuffleNet {width}× (g = {groups})" if family == "shufflenet" and groups else teacher


@style.theme()
def accuracy_against_size(table: pd.DataFrame) -> Figure:
    """Draw the networks of `sizes_table` by size and test accuracy; bars are standard deviations over the runs."""
    figure = style.new_figure(8, 4.8)
    if table.empty:
        return style.in_words(figure, "No network has been trained to its end yet.")
    axes = figure.add_subplot()
    shown = table.astype(dict.fromkeys(table.columns[3:], float)).fillna(0.0)
    students = shown[shown["kind"] == STUDENT]
    _draw(axes, students, "student of ESNAC", fmt="*", color=style.VERMILLION, markersize=15)
    for rank, row in enumerate(students.sort_values("parameters").to_dict("records")):
        _name(axes, row, row["network"].removeprefix("ESNAC "), (0, 14 if rank % 2 else -14), "center")
    originals = shown[shown["kind"] == ORIGINAL]
    families = originals["network"].str.partition(" (g")[0]
    for (family, mine), colour in zip(originals.groupby(families), style.SERIES, strict=False):
        _draw(axes, mine, str(family), fmt="o", color=colour, markersize=6)
        for rank, row in enumerate(mine.sort_values("accuracy [%]").to_dict("records")):
            side, which = (-7, "right") if rank % 2 else (7, "left")  # neighbours in accuracy on different sides
            _name(axes, row, row["network"].removeprefix(str(family)).strip(" ()"), (side, 0), which)
    axes.margins(0.15)
    style.tidy(axes, xlabel="parameters (log scale)", ylabel="test accuracy [%]", counts=True)
    return style.legend_above(figure, axes, 4)


def _draw(axes: Axes, rows: pd.DataFrame, label: str, **look: Any) -> None:
    x, y = rows["parameters"], rows["accuracy [%]"]
    if len(rows):
        axes.errorbar(x, y, rows["accuracy [%] ±"], rows["parameters ±"], elinewidth=1, label=label, **look)


def _name(axes: Axes, row: dict[Any, Any], text: str, offset: tuple[float, float], side: str) -> None:
    place = row["parameters"], row["accuracy [%]"]
    axes.annotate(text, place, offset, textcoords="offset points", fontsize="x-small", va="center", ha=side)
