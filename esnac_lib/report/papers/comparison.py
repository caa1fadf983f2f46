"""Our numbers compared with the published ones, table by table: what report.ipynb shows and writes.

>>> runs = read_runs(outputs_root())
>>> compare_with_papers(runs)["ESNAC Table 1"]                   # one DataFrame for each printed table
>>> write_report(runs, outputs_root() / "report")          # the same ledgers give the same bytes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from esnac_lib.data.registry import DATASETS
from esnac_lib.files import write_atomically
from esnac_lib.objective import OBJECTIVES, Measurement
from esnac_lib.report.papers.printed_tables import NUMBERS, PaperRow, paper_tables
from esnac_lib.report.records.runs import COMPRESSION, Pair, Run, RunGroup, grouped, is_same, results_of
from esnac_lib.report.statistics import Difference, Stat, stat
from esnac_lib.report.tables.formatting import readable

NOT_RUN = "not run yet"
COLUMNS = (
    "setting", "method", "whose", *(c for name in NUMBERS.values() for c in (name, f"{name} ±")), "runs", "protocol",
    "verdict",
)  # fmt: skip


def verdict(ours: Stat, printed: Stat, band: float = 0.0) -> str:
    """Return how ours compares with a printed value, the higher the better: "better", "worse" or "within the noise".

    The noise is the largest of the printed deviation, that of our runs, and, for accuracies, the `band` of the test
    images; where there is none, any difference counts.
    """
    if ours.mean is None or printed.mean is None:
        return NOT_RUN if ours.mean is None else "nothing printed"
    difference = round(ours.mean - printed.mean, 9)
    if abs(difference) <= max(ours.std or 0.0, printed.std or 0.0, band):
        return "within the noise"
    return "better" if difference > 0 else "worse"


def compare_with_papers(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Return each printed table's rows, each followed by ours and the authors' program's own.

    Ours is one line per protocol: mean, sample standard deviation and number of runs, and a verdict, by f (for teachers
    and original ShuffleNets by accuracy). Where there is none, the verdict says how far the studies are.
    """
    groups = grouped(runs)
    tables = paper_tables().items()
    return {name: _frame([line for row in rows for line in _lines(row, groups)]) for name, rows in tables}


def other_studies(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a line for each protocol that corresponds to no printed row of a student. f is against our teachers."""
    rows = [row for table in paper_tables().values() for row in table if row.what != "teacher"]
    lines = []
    for group in grouped(runs):
        config, second = group.config, group.config["sampler"] == COMPRESSION
        if any(is_same(config, row.same) and second == (row.what != "solution") for row in rows):
            continue
        objective = OBJECTIVES[config["objective"]]
        stats = results_of(group.solutions, None, objective)
        lines.append(
            {
                "studies": ", ".join(group.study_names),
                "what": f"{config['teacher']} on {config['dataset']}",
                "sampler": config["sampler"],
                "evaluated": f"{sum(r.observed for r in group.runs)} of {sum(r.planned for r in group.runs)}",
                "failed": sum(run.failed for run in group.runs),
                "best search f": stat([run.best_f for run in group.runs if run.best_f is not None]).mean,
                **{label: stats[name].mean for name, label in NUMBERS.items()},
                "f ±": stats["f"].std,
                "f of narrowed teacher": results_of(group.narrowed, None, objective)["f"].mean,
                "runs": len(group.solutions),
                "protocol": group.search_protocol,
            }
        )
    columns = ["studies", "what", "sampler", "evaluated", "failed", "best search f", *NUMBERS.values(), "f ±"]
    return pd.DataFrame(lines, columns=[*columns, "f of narrowed teacher", "runs", "protocol"])


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write every table as tables/<name>.csv and all of them in report.md; return the files, sorted by name."""
    tables = {**compare_with_papers(runs), "Other studies": other_studies(runs)}
    files = {folder / "report.md": _markdown_report(tables)}
    for name, table in tables.items():
        path = folder / "tables" / f"{name.lower().replace(' ', '_')}.csv"
        files[path] = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for path, text in files.items():
        write_atomically(path, text)
    return sorted(files)


def verdicts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Count our lines of each table by verdict; printed rows without a run of ours count as not run."""
    kinds = ["better", "within the noise", "worse", NOT_RUN]
    counts = [[int(table["verdict"].str.startswith(kind).sum()) for kind in kinds] for table in tables.values()]
    return pd.DataFrame([[name, *row] for name, row in zip(tables, counts, strict=True)], columns=["table", *kinds])


def _lines(row: PaperRow, groups: Sequence[RunGroup]) -> list[dict[str, Any]]:
    """Return the lines of one printed row."""
    lines = [_line(row, "published", {name: getattr(row, name) for name in NUMBERS}, None, "", "")]
    if row.program:
        own = {name: Stat(row.program[name]) for name in NUMBERS}
        lines.append(_line(row, "authors' program, seed 127", own, 1, "as published", ""))
    asked = [group for group in groups if is_same(group.config, row.same)]
    return lines + (_our_lines(row, asked) or [_line(row, "ours", {}, 0, "", _how_far(row, asked))])


def _our_lines(row: PaperRow, asked: Sequence[RunGroup]) -> list[dict[str, Any]]:
    if row.what == "teacher":
        found = _teachers(asked)
    elif row.what == "solution":
        found = [(group.search_protocol, group.solutions) for group in asked]
    else:
        found = [("as its notebook says", _from_summaries(row, group)) for group in asked]
    lines = []
    for protocol, pairs in found:
        if pairs:
            stats = results_of(pairs, row.teacher_accuracy)
            if row.what == "teacher":
                stats = {name: stats[name] for name in ("accuracy", "params")}
                said = verdict(stats["accuracy"], row.accuracy, _band(stats["accuracy"], row))
            else:
                said = verdict(stats["f"], row.f)
            lines.append(_line(row, "ours", stats, len(pairs), protocol, said))
    return lines


def _band(ours: Stat, row: PaperRow) -> float:
    """Return the noise band, in points, of the difference of our accuracy and a printed one on the same test images."""
    accuracy = [(stat.mean or 0.0) / 100 for stat in (ours, row.accuracy)]
    return Difference.of(accuracy[0], accuracy[1], DATASETS[row.same["dataset"]].test_images).band or 0.0


def _teachers(groups: Sequence[RunGroup]) -> list[tuple[str, list[Pair]]]:
    """Return the reference teachers by the protocol of their training; studies with one seed share theirs."""
    found: dict[str, tuple[str, dict[int, Measurement]]] = {}
    for group in groups:
        if teachers := {run.config["seed"]: run.teacher for run in group.runs if run.teacher is not None}:
            found.setdefault(group.teacher_recipe, (group.teacher_protocol, {}))[1].update(teachers)
    return [(protocol, [(t, t) for _, t in sorted(teachers.items())]) for protocol, teachers in found.values()]


def _from_summaries(row: PaperRow, group: RunGroup) -> list[Pair]:
    """Return the student, or a baseline, of Architecture Compression: in the summary next to the ledger."""
    name = row.key if row.what == "baseline" else "student"
    pairs = [(_measured(run.summary.get(name)), _measured(run.summary.get("teacher"))) for run in group.runs]
    return [(network, teacher) for network, teacher in pairs if network and teacher]


def _measured(entry: Any) -> Measurement | None:
    if not isinstance(entry, Mapping) or entry.get("accuracy") is None or entry.get("params") is None:
        return None
    return Measurement(entry["accuracy"], entry["params"], entry.get("macs", nan))


def _how_far(row: PaperRow, asked: Sequence[RunGroup]) -> str:
    runs = [run for group in asked for run in group.runs]
    if row.what != "solution" or not runs:
        return NOT_RUN
    observed, planned = sum(run.observed for run in runs), sum(run.planned for run in runs)
    return f"{NOT_RUN} to its end ({observed} of {planned} evaluated, no final training)"


def _line(
    row: PaperRow, whose: str, stats: Mapping[str, Stat], runs: int | None, protocol: str, verdict: str
) -> dict[str, Any]:
    line: dict[str, Any] = {"setting": row.setting, "method": row.method, "whose": whose}
    for name, label in NUMBERS.items():
        line[label], line[f"{label} ±"] = stats.get(name, Stat())
    return line | {"runs": runs, "protocol": protocol, "verdict": verdict}


def _frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    numeric = {label: "float64" for name in NUMBERS.values() for label in (name, f"{name} ±")}
    return frame.astype({**numeric, "runs": "Int64"})


def _markdown_report(tables: Mapping[str, pd.DataFrame]) -> str:
    parts = ["# Our numbers compared with the published ones"]
    for name, table in tables.items():
        shown = readable(table)
        rows = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
        lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"
