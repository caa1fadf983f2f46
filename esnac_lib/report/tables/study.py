"""The tables of a study, and of several side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from esnac_lib.objective import PAPERS, compression_ratio
from esnac_lib.report.papers.published import Published, published
from esnac_lib.report.records.study import Measured, StudyRecord

SOLUTION_COLUMNS = {
    "method": "object", "accuracy [%]": "float64", "evaluated on": "object", "change [points]": "float64",
    "change [points] ±": "float64",
    "parameters": "Int64", "MACs": "Int64", "ratio": "float64", "compression (×)": "float64", "f": "float64",
    "f vs better teacher": "float64", "note": "object",
}  # fmt: skip
THE_SAME = "the narrowed teacher is the best that was found: it is the solution"


def solution_table(*records: StudyRecord) -> pd.DataFrame:
    """Return a table of teacher, solution, uniformly narrowed teacher, and the published result where there is one.

    Each further record adds its solution and narrowed teacher, and its teacher if that is another one. Accuracies are
    in % on the test images, or on the validation images while there is no solution, as the column "evaluated on" says;
    the ± of a change is its 95 % noise band.
    f is against our own teacher on the same images; "f vs better teacher", for the comparison with the published f,
    against the larger of our teacher's and the published teacher's accuracy, as the paper's is.
    """
    prints = [published(record.config) for record in records]
    rows = [row for record, printed in zip(records, prints, strict=True) for row in _rows_of(record, printed)]
    rows += [row for printed in prints if printed is not None for row in _published_rows(printed)]
    lines = [row for _, row in sorted(dict.fromkeys(rows), key=lambda row: row[0])]
    return pd.DataFrame(lines, columns=list(SOLUTION_COLUMNS), dtype=object).astype(SOLUTION_COLUMNS)


Row = tuple[int, tuple[Any, ...]]
"""Its place among the kinds of rows, and its cells."""


def _rows_of(record: StudyRecord, printed: Published | None) -> list[Row]:
    teacher = record.teacher
    if teacher is None:
        return []
    role, note = "reference", "trained on all images"
    if teacher.evaluated_on == "validation":
        role, note = "search", "trained on the training split"
    rows = [_row(0, f"teacher {record.config.teacher} ({role})", teacher, teacher, None, note)]
    if record.solution is not None:
        paper = record.config.final == "paper"
        note = "best test epoch of the best student by test f, as in the paper" if paper else "last epoch"
        name = f"{record.name}: solution (trial {record.solution.trial})"
        same = record.narrowed_is_solution
        note += f"; {THE_SAME}" * same
        note += f"; not final, the best of the first {record.finished_after} evaluated" * (not record.is_final)
        rows.append(_row(1, name, record.solution, teacher, printed, note))
        if record.narrowed is not None and not same:
            note = "best test epoch" if paper else "last epoch"
            name = f"teacher uniformly narrowed ({record.name}'s size)"
            rows.append(_row(2, name, record.narrowed, teacher, printed, note))
    elif record.best is not None:
        name = f"{record.name}: best of the search (trial {record.best.trial})"
        rows.append(_row(1, name, record.best, teacher, None, "after search training, no final training"))
    return rows


def _row(order: int, method: str, network: Measured, teacher: Measured, printed: Published | None, note: str) -> Row:
    better = None
    if printed is not None:
        reference = max(teacher.accuracy, printed.teacher_accuracy / 100)
        better = PAPERS.value(network.measurement, replace(teacher.measurement, accuracy=reference))
        whose = "ours" if reference == teacher.accuracy else "the published one"
        note += f"; the better teacher is {whose} ({reference:.2%})"
    change = network.minus(teacher)
    if network is not teacher:
        note += change.note
    ratio, times = compression_ratio(network.params, teacher.params), teacher.params / network.params
    sizes = network.params, network.macs, ratio, times
    values = (100 * network.accuracy, network.evaluated_on, *(change if network is not teacher else (0.0, None)))
    return order, (method, *values, *sizes, network.f, better, note)


def _published_rows(printed: Published) -> list[Row]:
    teacher, student = f"published: {printed.teacher_label}", f"published: {printed.label}"
    sizes, change = (round(printed.params), None, printed.ratio, printed.times), printed.change
    first = (printed.teacher_accuracy, "test", 0.0, None, round(printed.teacher_params), None, 0.0, 1.0, None, None)
    note = f"{printed.note}; f against the published teacher{change.note}"
    return [
        (3, (teacher, *first, "as printed")),
        (3, (student, printed.accuracy, "test", *change, *sizes, None, printed.f, note)),
    ]


def finalists_table(record: StudyRecord) -> pd.DataFrame:
    """Return the students in final training: f after the search, f at the end, and the accuracy behind it."""
    found = record.finalists
    kinds = {"trial": "int64", "search_f": "float64", "final_f": "float64", "accuracy": "float64"}
    found = found.astype(kinds).assign(accuracy=lambda rows: 100 * rows["accuracy"])
    return found.set_axis(["trial", "search f", "final f", "accuracy [%]", "evaluated on"], axis=1)


def seconds_table(record: StudyRecord) -> pd.DataFrame:
    """Return the seconds of each stage, in all and per network. Teachers may come from an earlier study."""
    epochs = record.epochs.groupby("phase")["seconds"].sum()
    teachers = [phase for phase in ("search-teacher", "reference-teacher") if phase in epochs.index]
    final = [result["seconds"] for kind in ("final", "full") for result in record.results[kind].values()]
    narrowed = [result["seconds"] for result in record.results["narrowed"].values()]
    rows = [
        ("training teachers", len(teachers), sum(float(epochs[phase]) for phase in teachers)),
        ("proposing", len(record.trials), float(record.trials["propose_seconds"].sum())),
        ("evaluating", len(record.observed), float(record.observed["seconds"].sum())),
        ("search training of the narrowed teacher", len(narrowed), float(sum(narrowed))),
        ("final training", len(final), float(sum(final))),
    ]
    table = pd.DataFrame(rows, columns=["stage", "networks", "seconds"])
    table["seconds each"] = (table["seconds"] / table["networks"]).where(table["networks"] > 0)
    return table


def failures_table(record: StudyRecord) -> pd.DataFrame:
    """Return why trials failed: each reason, how often, and the first trial that met it."""
    groups = record.failed.groupby("error", dropna=False)["trial"]
    table = groups.agg(trials="count", first="min").rename_axis("reason").reset_index()
    return table.rename(columns={"first": "first trial"}).sort_values("first trial", ignore_index=True)
