"""The tables of a study, and of several side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from esnac_lib.objective import PAPERS, compression_ratio
from esnac_lib.report.papers.published import Published, published
from esnac_lib.report.records.study import Measured, StudyRecord

F, F_BETTER, TIMES = "f", "f vs better teacher", "compression (×)"
SOLUTION_COLUMNS = {
    "method": "object",
    "accuracy [%]": "float64",
    "evaluated on": "object",
    "change [points]": "float64",
    "parameters": "Int64",
    "MACs": "Int64",
    "ratio": "float64",
    TIMES: "float64",
    F: "float64",
    F_BETTER: "float64",
    "note": "object",
}


def solution_table(*records: StudyRecord) -> pd.DataFrame:
    """Return a table of teacher, solution, uniformly narrowed teacher, and the published result where there is one.

    Each further record adds its solution and narrowed teacher, and its teacher if that is another one. Accuracies are
    in % on the test images, or on the validation images while there is no solution, as the column "evaluated on" says.
    f is against our own teacher on the same images; "f vs better teacher", for the comparison with the published f,
    against the larger of our teacher's and the published teacher's accuracy, as the paper's is.
    """
    rows: list[dict[str, Any]] = []
    prints: list[Published] = []
    for record in records:
        printed = published(record.config)
        rows += [row for row in _rows_of(record, printed) if row not in rows]
        prints += [printed] if printed is not None and printed not in prints else []
    for printed in prints:
        rows += [row for row in _published_rows(printed) if row not in rows]
    rows.sort(key=lambda row: row["order"])
    return _frame(SOLUTION_COLUMNS, [{key: row[key] for key in SOLUTION_COLUMNS} for row in rows])


def _rows_of(record: StudyRecord, printed: Published | None) -> list[dict[str, Any]]:
    teacher = record.teacher
    if teacher is None:
        return []
    role = "search" if teacher.evaluated_on == "validation" else "reference"
    rows = [_row(0, f"teacher {record.config.teacher} ({role})", teacher, teacher, None, "trained on all images")]
    if role == "search":
        rows[0]["note"] = "trained on the training split"
    if record.solution is not None:
        paper = record.config.final == "paper"
        note = "best test epoch of the best student by test f, as in the paper" if paper else "last epoch"
        name = f"{record.name}: solution (trial {record.solution.trial})"
        rows.append(_row(1, name, record.solution, teacher, printed, note))
        if record.narrowed is not None:
            note = "best test epoch" if paper else "last epoch"
            name = f"teacher uniformly narrowed ({record.name}'s size)"
            rows.append(_row(2, name, record.narrowed, teacher, printed, note))
    elif record.best is not None:
        name = f"{record.name}: best of the search (trial {record.best.trial})"
        rows.append(_row(1, name, record.best, teacher, None, "after search training, no final training"))
    return rows


def _row(
    order: int, method: str, network: Measured, teacher: Measured, printed: Published | None, note: str
) -> dict[str, Any]:
    better = None
    if printed is not None:
        reference = max(teacher.accuracy, printed.teacher_accuracy / 100)
        better = PAPERS.value(network.measurement, replace(teacher.measurement, accuracy=reference))
        whose = "ours" if reference == teacher.accuracy else "the published one"
        note += f"; the better teacher is {whose} ({reference:.2%})"
    return {
        "order": order,
        "method": method,
        "accuracy [%]": 100 * network.accuracy,
        "evaluated on": network.evaluated_on,
        "change [points]": 100 * (network.accuracy - teacher.accuracy),
        "parameters": network.params,
        "MACs": network.macs,
        "ratio": compression_ratio(network.params, teacher.params),
        TIMES: teacher.params / network.params,
        F: network.f,
        F_BETTER: better,
        "note": note,
    }


def _published_rows(printed: Published) -> list[dict[str, Any]]:
    row = {
        "order": 3,
        "method": f"published: {printed.label}",
        "accuracy [%]": printed.accuracy,
        "evaluated on": "test",
        "change [points]": round(printed.accuracy - printed.teacher_accuracy, 2),
        "parameters": round(printed.params),
        "MACs": None,
        "ratio": printed.ratio,
        TIMES: printed.times,
        F: None,
        F_BETTER: printed.f,
        "note": f"{printed.note}; f against the published teacher",
    }
    teacher = {
        "order": 3,
        "method": f"published: {printed.teacher_label}",
        "accuracy [%]": printed.teacher_accuracy,
        "change [points]": 0.0,
        "parameters": round(printed.teacher_params),
        "ratio": 0.0,
        TIMES: 1.0,
        F_BETTER: None,
        "note": "as printed",
    }
    return [row | teacher, row]


def finalists_table(record: StudyRecord) -> pd.DataFrame:
    """Return the students in final training: f after the search, f at the end, and the accuracy behind it."""
    found = record.finalists
    return pd.DataFrame(
        {
            "trial": found["trial"].astype("int64"),
            "search f": found["search_f"].astype("float64"),
            "final f": found["final_f"].astype("float64"),
            "accuracy [%]": 100 * found["accuracy"].astype("float64"),
            "evaluated on": found["evaluated_on"],
        }
    )


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
    table = groups.agg(trials="count", first="min").reset_index()
    table = table.rename(columns={"error": "reason", "first": "first trial"})
    return table.sort_values("first trial", ignore_index=True)


def _frame(columns: dict[str, str], rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns), dtype=object).astype(columns)
