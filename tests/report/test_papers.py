"""Our numbers next to the published ones: against values worked out by hand, from ledgers that were never trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from esnac_lib import report
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import LedgerError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.report.papers.comparison import NOT_RUN, verdict
from esnac_lib.report.papers.printed_tables import PaperRow, paper_tables
from esnac_lib.report.records.runs import grouped, is_same
from esnac_lib.report.statistics import Stat, stat

TABLE_1 = {"teacher": "resnet34", "dataset": "cifar100", "sampler": "esnac", "K": 8, "steps": 20}
TEACHER_PARAMS = 1_000


def study(
    root: Path,
    name: str,
    solution: tuple[float, int] | None = None,
    teacher: float | None = None,
    trials: int = 0,
    **parameters: Any,
) -> None:
    """A ledger with finished trials, a reference teacher of 1,000 parameters, a solution (accuracy, params)."""
    config = StudyConfig.from_dict({"study": name.split("/")[-1], **TABLE_1, **parameters})
    with Ledger.start(root / name / "ledger.sqlite", config.to_dict()) as ledger:
        for index in range(trials):
            row = ProposalRow(None, f"a{index}", 10, 10, "{}", "{}", None, None, None, 0.0)
            [trial] = ledger.record(index, [row])
            ledger.complete(trial, 0.5, 0.1 * index, 1, 1.0)
        if teacher is not None:
            ledger.result("teacher", "reference", {"accuracy": teacher, "params": TEACHER_PARAMS})
        if solution is not None:
            accuracy, params = solution
            entry = {"accuracy": accuracy, "best_epoch_accuracy": accuracy + 0.01, "params": params}
            ledger.result("solution", "student", entry)
            ledger.result("baseline", "narrowed", entry)


def ours(table: pd.DataFrame, setting: str, method: str) -> pd.DataFrame:
    return table[(table["setting"] == setting) & (table["method"] == method) & (table["whose"] == "ours")]


# -- the printed side --------------------------------------------------------------------------------------------------


def test_all_printed_rows_are_there() -> None:
    counts = {name: len(rows) for name, rows in paper_tables().items()}
    assert counts == {
        **{f"ESNAC Table {n}": count for n, count in enumerate((30, 14, 12, 5, 4, 4, 8, 9), 1)},
        "Architecture Compression Table 1": 8,
        "Architecture Compression Table 2": 4,
    }
    rows = [row for table in paper_tables().values() for row in table]
    assert len({(row.what, row.key, json.dumps(row.same, sort_keys=True)) for row in rows}) > 60


def test_a_printed_row_is_as_printed() -> None:
    row = next(
        row for row in paper_tables()["ESNAC Table 1"] if row.method == "ESNAC" and "34 on CIFAR-100" in row.setting
    )
    assert row.setting == "ResNet-34 on CIFAR-100" and row.teacher_accuracy == 78.71
    assert (row.accuracy, row.params, row.f) == (Stat(73.68, 0.57), Stat(2.36e6, 0.15e6), Stat(0.9246, 0.0076))
    assert row.program == {"accuracy": 75.47, "params": 2.85e6, "ratio": 0.8664, "times": 7.48, "f": 0.9417}
    assert [row.accuracy.mean for row in paper_tables()["ESNAC Table 7"] if row.method == "TPE, with skips"] == [
        65.17,
        None,
    ]


@pytest.mark.parametrize("name", [name for name in paper_tables() if name != "ESNAC Table 3"])
def test_every_printed_f_fits_its_accuracy_and_ratio(name: str) -> None:
    """f = C (2 - C) A / A(teacher). The mean of f is not f of the means: hence the tolerance."""
    complete = [row for row in paper_tables()[name] if row.f.mean is not None and row.ratio.mean is not None]
    for row in complete:
        assert row.accuracy.mean and row.ratio.mean and row.teacher_accuracy
        f = PAPERS.value(Measurement(row.accuracy.mean, 1 - row.ratio.mean), Measurement(row.teacher_accuracy, 1))
        assert f == pytest.approx(row.f.mean, abs=0.03), row
    assert complete or name == "ESNAC Table 2"


def test_what_a_printed_row_asks_for_are_parameters_that_exist() -> None:
    for row in (row for table in paper_tables().values() for row in table):
        values = {name: value[0] if isinstance(value, tuple) else value for name, value in row.same.items()}
        if values.get("sampler") != "transfer":
            assert is_same(StudyConfig.from_dict(values).to_dict(), row.same)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_are_one_line(tmp_path: Path) -> None:
    """Students with 100 of 1,000 parameters: C (2 - C) = 0.99; the printed teacher, 78.71 %, is the better."""
    for seed, accuracy in ((0, 0.70), (1, 0.72), (2, 0.74)):
        study(tmp_path, f"s{seed}", (accuracy, 100), 0.75, seed=seed)
    study(tmp_path, "other", (0.60, 100), 0.75, epochs=1)
    runs = report.read_runs(tmp_path)
    assert [group.study_names for group in grouped(runs)] == [("other",), ("s0", "s1", "s2")]
    lines = ours(report.compare_with_papers(runs)["ESNAC Table 1"], "ResNet-34 on CIFAR-100", "ESNAC")
    assert list(lines["runs"]) == [1, 3]
    line = lines.iloc[1]
    assert line["accuracy [%]"] == pytest.approx(72) and line["accuracy [%] ±"] == pytest.approx(2)
    assert line["f"] == pytest.approx(0.99 * 72 / 78.71) and line["f ±"] == pytest.approx(0.99 * 2 / 78.71)
    assert (line["parameters"], line["ratio"], line["compression (×)"]) == (100, pytest.approx(0.9), 10)
    assert (
        line["verdict"] == "within the noise" and pd.isna(lines.iloc[0]["f ±"]) and lines.iloc[0]["verdict"] == "worse"
    )


def test_our_teacher_counts_where_it_is_the_better(tmp_path: Path) -> None:
    study(tmp_path, "s", (0.72, 100), 0.80)
    line = ours(
        report.compare_with_papers(report.read_runs(tmp_path))["ESNAC Table 4"], "ResNet-34 on CIFAR-100", "K = 8"
    ).iloc[0]
    assert line["f"] == pytest.approx(0.99 * 0.72 / 0.80)


def test_the_papers_form_of_final_training_counts_the_best_test_epoch(tmp_path: Path) -> None:
    study(tmp_path, "s", (0.72, 100), 0.80, final="paper")
    line = ours(
        report.compare_with_papers(report.read_runs(tmp_path))["ESNAC Table 4"], "ResNet-34 on CIFAR-100", "K = 8"
    ).iloc[0]
    assert line["accuracy [%]"] == pytest.approx(73) and "best test epoch" in line["protocol"]


def test_what_goes_beyond_the_paper_is_in_the_protocol(tmp_path: Path) -> None:
    study(tmp_path, "s", (0.72, 100), 0.80, surrogate="accuracy", subset=1.0)
    line = report.other_studies(report.read_runs(tmp_path)).iloc[0]
    assert ", surrogate accuracy, subset 1.0; final" in line["protocol"] and "sampling" not in line["protocol"]


def test_a_study_stands_in_every_table_that_prints_its_setting_and_nowhere_else(tmp_path: Path) -> None:
    study(tmp_path, "four", (0.72, 100), 0.8, K=4)
    study(tmp_path, "mild", (0.73, 100), 0.8, sampling="mild")
    runs = report.read_runs(tmp_path)
    found = {
        (name, line["method"])
        for name, table in report.compare_with_papers(runs).items()
        for _, line in table[(table["whose"] == "ours") & table["f"].notna()].iterrows()
    }
    assert found == {("ESNAC Table 4", "K = 4")}
    others = report.other_studies(runs)
    assert list(others["studies"]) == ["mild"] and others["f"].iloc[0] == pytest.approx(0.99 * 0.73 / 0.8)
    assert others["f of narrowed teacher"].iloc[0] == pytest.approx(0.99 * 0.73 / 0.8)


def test_half_done_studies_give_no_number(tmp_path: Path) -> None:
    study(tmp_path, "s", trials=3)
    tables = report.compare_with_papers(report.read_runs(tmp_path))
    line = ours(tables["ESNAC Table 1"], "ResNet-34 on CIFAR-100", "ESNAC").iloc[0]
    assert line["verdict"] == "not run yet to its end (3 of 160 evaluated, no final training)"
    assert pd.isna(line["accuracy [%]"]) and line["runs"] == 0
    counts = report.verdicts(tables).set_index("table")
    assert (
        counts.loc["ESNAC Table 1", NOT_RUN] == 30 and counts[["better", "worse", "within the noise"]].sum().sum() == 0
    )


def test_teachers_are_counted_once_a_seed(tmp_path: Path) -> None:
    study(tmp_path, "a", teacher=0.78)
    study(tmp_path, "b", teacher=0.78, sampler="random")
    study(tmp_path, "c", teacher=0.80, seed=1)
    lines = ours(
        report.compare_with_papers(report.read_runs(tmp_path))["ESNAC Table 1"], "ResNet-34 on CIFAR-100", "teacher"
    )
    assert list(lines["runs"]) == [2] and lines["accuracy [%]"].iloc[0] == pytest.approx(79)
    assert lines["verdict"].iloc[0] == "within the noise"


def test_an_original_shufflenet_is_a_teacher(tmp_path: Path) -> None:
    study(tmp_path, "s", teacher=0.70, **{"teacher_epochs": 3} | {"steps": 1})
    config = {"teacher": "shufflenet_0.5x_g4", "dataset": "cifar100"}
    with Ledger.start(tmp_path / "g4" / "ledger.sqlite", StudyConfig(**config).to_dict()) as ledger:
        ledger.result("teacher", "reference", {"accuracy": 0.70, "params": 272_000})
    table = report.compare_with_papers(report.read_runs(tmp_path))["ESNAC Table 2"]
    line = ours(table, "CIFAR-100", "ShuffleNet 0.5× (g = 4)").iloc[0]
    assert line["verdict"] == "better" and line["parameters"] == 272_000


def test_architecture_compression_comes_from_the_summary_next_to_a_ledger(tmp_path: Path) -> None:
    network = {"accuracy": 0.924, "params": 100}
    summary = {"teacher": {"accuracy": 0.93, "params": 1000}, "student": network, "fitnet": {"accuracy": None}}
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    study(tmp_path, "with", teacher=0.93, **{"dataset": "fashion_mnist"} | {"K": 1})
    config = CompressionConfig(study="with", teacher="conv7", dataset="fashion_mnist", final_epochs=7)
    Ledger(tmp_path / "with" / "ledger.sqlite").set_config(config.to_dict())
    runs = report.read_runs(tmp_path)
    assert report.other_studies(runs).empty
    table = report.compare_with_papers(runs)["Architecture Compression Table 1"]
    assert ours(table, "CONV-7 on Fashion-MNIST", "teacher").iloc[0]["protocol"].startswith("7 epochs on all images")
    line = ours(table, "CONV-7 on Fashion-MNIST", "Architecture Compression").iloc[0]
    assert line["runs"] == 1 and line["f"] == pytest.approx(0.99 * 0.924 / 0.93) and line["verdict"] == "worse"
    (tmp_path / "with" / "summary.json").write_text("{")
    with pytest.raises(LedgerError, match=r"with/summary\.json is damaged"):
        report.read_runs(tmp_path)
    (tmp_path / "with" / "summary.json").write_text(json.dumps(summary))
    own = CompressionConfig(study="with", architectures=9).to_dict()
    Ledger(tmp_path / "with" / "ledger.sqlite").set_config(own)  # of a teacher that no table has
    (line,) = report.other_studies(report.read_runs(tmp_path)).to_dict("records")
    assert line["sampler"] == "architecture compression" and line["protocol"].startswith("9 random architectures")
    assert line["evaluated"].endswith("of 9") and line["parameters"] == 100


# -- verdicts and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "printed", "said"),
    [
        (Stat(0.92), Stat(0.91, 0.02), "within the noise"),
        (Stat(0.92, 0.01), Stat(0.91), "within the noise"),
        (Stat(0.92), Stat(0.91), "better"),
        (Stat(0.90, 0.001), Stat(0.91, 0.005), "worse"),
        (Stat(), Stat(0.91), NOT_RUN),
        (Stat(0.92), Stat(), "nothing printed"),
    ],
)
def test_verdicts(mine: Stat, printed: Stat, said: str) -> None:
    assert verdict(mine, printed) == said


def test_statistics_by_hand() -> None:
    assert stat([]) == Stat() and stat([3.0]) == Stat(3.0, None) and stat([1.0, 2.0, 3.0]) == Stat(2.0, 1.0)


def test_the_same_ledgers_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    study(first, "b", (0.72, 100), 0.8, seed=1)
    study(first, "a/x_seed0", (0.71, 110), 0.8)
    study(first, "c", trials=2, sampler="random")
    shutil.copytree(first, second)
    files = report.write_report(report.read_runs(first), tmp_path / "r1")
    again = report.write_report(report.read_runs(second), tmp_path / "r2")
    assert [path.relative_to(tmp_path / "r1") for path in files] == [
        path.relative_to(tmp_path / "r2") for path in again
    ]
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    text = (tmp_path / "r1" / "report.md").read_text()
    assert "a/x_seed0" not in text and "71.50 ± 0.71" in text and str(tmp_path) not in text
    assert len(files) == len(paper_tables()) + 2
    table = pd.read_csv(tmp_path / "r1" / "tables" / "esnac_table_4.csv")
    assert table.loc[table["whose"] == "ours", "runs"].max() == 2


def test_a_printed_table_reads_like_the_papers(tmp_path: Path) -> None:
    table = report.readable(report.compare_with_papers(report.read_runs(tmp_path))["ESNAC Table 1"])
    row = table[(table["setting"] == "ResNet-34 on CIFAR-100") & (table["method"] == "ESNAC")].iloc[0]
    assert row["accuracy [%]"] == "73.68 ± 0.57" and row["parameters"] == "2,360,000 ± 150,000"
    assert list(table.columns) == [
        *(
            "setting",
            "method",
            "whose",
            "accuracy [%]",
            "parameters",
            "ratio",
            "compression (×)",
            "f",
            "runs",
            "protocol",
        ),
        "verdict",
    ]


def test_rows_are_data() -> None:
    row = PaperRow("x", "y", Stat(1.0), Stat(2.0), {})
    assert row.ratio == row.times == row.f == Stat() and row.what == "solution"
