"""Tables against numbers worked out by hand, figures by what is drawn in them, and every half-finished study."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from report.helpers import (
    STUDIES,
    Books,
    all_failed,
    as_in_the_paper,
    finished,
    random_search,
    search_only,
    searched,
    stopped_in_final_training,
)
from sklearn.decomposition import PCA

from esnac_lib import report
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.study import PRESETS, StudyConfig
from esnac_lib.errors import LedgerError
from esnac_lib.report.figures import graph_layout
from esnac_lib.report.figures.embedding_map import embed
from esnac_lib.report.figures.search import pareto_front
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import teacher

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "search.ipynb"
FIGURES: list[Callable[..., Figure]] = [
    report.f_against_index,
    report.accuracy_against_parameters,
    report.student_graph,
    report.embedding_map,
    report.predicted_against_observed,
    report.search_f_against_final_f,
    report.training_curves,
]
TABLES: list[Callable[..., pd.DataFrame]] = [
    report.solution_table,
    report.finalists_table,
    report.seconds_table,
    report.failures_table,
]


# -- studies that were never trained -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace) -> report.StudyRecord:
    return finished(tmp_path_factory.mktemp("study") / "done", space).read()


def texts_of(figure: Figure) -> str:
    """All words in a figure."""
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        words += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
        words += [text.get_text() for text in (axes.get_legend().texts if axes.get_legend() else [])]
    words += [text.get_text() for legend in figure.legends for text in legend.texts]
    return "\n".join(words)


# -- every study can be shown ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
def test_whatever_state_a_study_is_in_it_is_shown(
    study: Callable[[Path, SearchSpace], Books], tmp_path: Path, space: SearchSpace
) -> None:
    record = study(tmp_path / "s", space).read()
    assert record.status in report.claim(record)
    for table in TABLES:
        found = table(record)
        assert list(report.readable(found).columns) == [name for name in found.columns if not name.endswith(" ±")]
        assert len(report.readable(found)) == len(found)
    for figure in FIGURES:
        drawn = figure(record)
        drawn.draw_without_rendering()
        assert all(axes.get_ylabel() for axes in drawn.axes[:1] if axes.axison)
        assert texts_of(drawn).strip()


def test_reading_and_saving_leave_the_ledger_as_it_was(tmp_path: Path, space: SearchSpace) -> None:
    record = finished(tmp_path / "s", space).read()
    before = (tmp_path / "s" / "ledger.sqlite").read_bytes()
    report.save(report.f_against_index(record), record, "f")
    report.save(report.solution_table(record), record, "t")
    assert (tmp_path / "s" / "ledger.sqlite").read_bytes() == before
    files = {str(path.relative_to(tmp_path / "s")) for path in (tmp_path / "s").rglob("*") if path.is_file()}
    assert files - {"ledger.sqlite", "ledger.sqlite.lock"} == {"figures/f.png", "figures/f.pdf", "tables/t.csv"}


def test_the_same_ledger_gives_the_same_bytes(tmp_path: Path, space: SearchSpace) -> None:
    record = finished(tmp_path / "s", space).read()
    found = []
    figures = [report.f_against_index, report.student_graph, report.embedding_map]
    for _ in range(2):
        fresh = report.read(tmp_path / "s")
        for item in (*figures, *TABLES):
            report.save(item(fresh), fresh, item.__name__)
        files = sorted(path for kind in ("figures", "tables") for path in (record.folder / kind).iterdir())
        assert len(files) == 2 * len(figures) + len(TABLES)
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]


def test_a_study_is_read_by_name_folder_or_file(
    outputs: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = searched(outputs / "mine", space).read().folder
    for study in ("mine", folder, str(folder), folder / "ledger.sqlite"):
        assert report.read(study).config.study == "mine"
    monkeypatch.chdir(outputs.parent)
    assert str(report.read("mine").place) == "outputs/mine"
    monkeypatch.chdir(folder)
    assert str(report.read("mine").place / "summary.json") == "summary.json"
    monkeypatch.chdir("/")
    assert str(report.read("mine").place) == str(folder)[1:]
    with pytest.raises(LedgerError, match="there is no ledger"):
        report.read("yours")


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_record_has_teachers_student_and_finalists(record: report.StudyRecord) -> None:
    assert record.teacher is record.reference_teacher is not None
    assert (record.teacher.accuracy, record.teacher.evaluated_on, record.teacher.params) == (0.96, "test", 65834)
    assert record.search_teacher is not None and record.search_teacher.accuracy == 0.95
    assert record.solution is record.student is not None
    assert record.solution.architecture is not None and record.solution.trial == 1
    assert record.solution.architecture.arch_id == record.trials["arch_id"][1]
    assert record.best is not None
    assert record.best.f == record.complete["f"].max() == record.trials["f"][record.best.trial]
    assert list(record.finalists["trial"]) == [1, 2]
    # evaluated on validation images, so against the search teacher: 0.75 * 0.85 / 0.95
    assert record.finalists["final_f"][0] == pytest.approx(0.671053, abs=1e-6)
    assert record.finalists["search_f"][0] == record.trials["f"][1]


def test_the_paper_counts_best_test_epochs(tmp_path: Path, space: SearchSpace) -> None:
    record = as_in_the_paper(tmp_path / "s", space).read()
    assert record.solution is not None and record.solution.accuracy == 0.91
    # of all images, so against the reference teacher: 0.75 * 0.91 / 0.96 and 0.75 * 0.82 / 0.96
    assert list(record.finalists["final_f"]) == pytest.approx([0.710938, 0.640625], abs=1e-6)
    assert set(record.finalists["evaluated_on"]) == {"test"}
    table = report.solution_table(record)
    assert table["accuracy [%]"][1] == pytest.approx(91) and "best test epoch" in table["note"][1]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_solution_next_to_teacher_and_narrowed_teacher(record: report.StudyRecord) -> None:
    table = report.solution_table(record)
    assert list(table["method"]) == [
        "teacher cnn4 (reference)", "ESNAC: solution (trial 1)", "teacher uniformly narrowed (ESNAC's size)",
    ]  # fmt: skip
    assert list(table["accuracy [%]"]) == pytest.approx([96, 90, 88])
    assert list(table["change [points]"]) == pytest.approx([0, -6, -8])
    assert list(table["change [points] ±"][1:]) == pytest.approx([3.17, 3.36], abs=0.015)  # binomial, 500 test images
    assert not table["note"].str.contains("noise").any()
    assert list(table["parameters"]) == [65834, 32917, 32917]
    assert list(table["MACs"]) == [1493632, 700000, 700000]
    assert list(table["ratio"]) == [0, 0.5, 0.5]
    assert list(table["compression (×)"]) == [1, 2, 2]
    assert list(table["f"]) == pytest.approx([0, 0.703125, 0.6875])  # 0.75 * 0.9 / 0.96, 0.75 * 0.88 / 0.96
    assert table["f vs better teacher"].isna().all()
    assert set(table["evaluated on"]) == {"test"}


def test_before_a_solution_all_is_evaluated_on_validation_images(tmp_path: Path, space: SearchSpace) -> None:
    for number, study in enumerate((search_only, stopped_in_final_training)):
        record = study(tmp_path / str(number), space).read()
        table = report.solution_table(record)
        assert set(table["evaluated on"]) == {"validation"} and len(table) == 2
        assert table["accuracy [%]"][0] == pytest.approx(95)
        assert record.best is not None
        assert "best of the search" in table["method"][1]
        assert table["f"][1] == record.trials["f"].max() == record.best.f


@pytest.mark.parametrize(("ours", "better"), [(0.96, 0.96), (0.70, 0.7871)])
def test_next_to_a_published_row_f_is_against_the_better_teacher(
    ours: float, better: float, tmp_path: Path, space: SearchSpace
) -> None:
    books = finished(tmp_path / "s", space, teacher="resnet34", dataset="cifar100", sampler="random")
    books.add_teacher("reference", ours)
    table = report.solution_table(books.read()).set_index("method")
    assert table["f vs better teacher"].iloc[1] == pytest.approx(0.75 * 0.90 / better)
    assert table["f vs better teacher"].iloc[2] == pytest.approx(0.75 * 0.88 / better)
    assert ("ours" if ours == better else "the published one") in table["note"].iloc[1]
    published = table.loc["published: ESNAC, Table 1, random search"]
    assert published["f vs better teacher"] == 0.8924 and published["accuracy [%]"] == 72.33
    assert published["parameters"] == 3_610_000 and published["change [points]"] == pytest.approx(72.33 - 78.71)
    assert table.loc["published: ESNAC, teacher", "accuracy [%]"] == 78.71


def test_two_studies_share_a_table(record: report.StudyRecord, tmp_path: Path, space: SearchSpace) -> None:
    table = report.solution_table(record, random_search(tmp_path / "s", space).read())
    assert [name.split(" (")[0] for name in table["method"]] == [
        "teacher cnn4", "ESNAC: solution", "random search: solution", "teacher uniformly narrowed",
        "teacher uniformly narrowed",
    ]  # fmt: skip


def test_where_the_seconds_went(record: report.StudyRecord) -> None:
    table = report.seconds_table(record).set_index("stage")
    assert table["seconds"].to_dict() == {
        "training teachers": 9.0,  # two of 3 epochs of 1.5 s
        "proposing": 1.5,  # 6 of 0.25 s
        "evaluating": 10.0,  # 4 of 2 s, 2 failed of 1 s
        "search training of the narrowed teacher": 4.0,
        "final training": 40.0,  # two finalists, the solution and the narrowed teacher
    }
    assert table["seconds each"]["final training"] == 10


def test_why_trials_failed(record: report.StudyRecord) -> None:
    rows = report.failures_table(record).to_numpy().tolist()
    assert rows == [["the loss is nan", 1, 3], ["out of memory", 1, 4]]


def test_a_table_reads_well(record: report.StudyRecord) -> None:
    row = report.readable(report.solution_table(record)).iloc[1]
    assert list(row[["accuracy [%]", "change [points]", "parameters", "f", "f vs better teacher"]]) == [
        "90.00", "-6.00 ± 3.17", "32,917", "0.7031", "–",
    ]  # fmt: skip


# -- published rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "accuracy", "times", "f"),
    [
        ({"teacher": "resnet34"}, 73.68, 9.08, 0.9246),
        ({"teacher": "resnet34", "sampler": "random"}, 72.33, 5.95, 0.8924),
        ({"teacher": "resnet34", "operators": "remove"}, 74.05, 6.88, 0.9192),
        ({"teacher": "resnet34", "operators": "remove,shrink"}, 73.72, 8.01, 0.9205),
        ({"teacher": "resnet34", "kernel_loss": "marginal"}, 73.11, 6.47, 0.9059),
        ({"teacher": "resnet34", "acquisition": "evolution", "K": 8}, 72.40, 9.90, 0.9104),
        ({"teacher": "resnet34", "keep": "norm", "operators": "remove"}, 73.68, 9.08, 0.9246),
        ({"teacher": "resnet34", **PRESETS["ours"]}, 73.68, 9.08, 0.9246),
        ({"teacher": "shufflenet"}, 68.45, 4.74, 0.9171),
        ({"teacher": "vgg19", "dataset": "cifar10"}, 92.27, 25.39, 0.9809),
    ],
)
def test_published_rows_of_esnac(parameters: dict[str, Any], accuracy: float, times: float, f: float) -> None:
    row = report.published(StudyConfig(**({"dataset": "cifar100"} | parameters)))
    assert row is not None
    assert (row.accuracy, row.times, row.f) == (accuracy, times, f)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"teacher": "resnet18", "dataset": "svhn"},
        {"teacher": "vgg19", "dataset": "cifar10", "operators": "remove"},
        {"teacher": "vgg19", "dataset": "cifar100", "operators": "remove", "sampler": "random"},
        {"teacher": "vgg19", "dataset": "cifar10", "kernel_loss": "marginal"},
        {"teacher": "resnet34", "dataset": "cifar100", "acquisition": "evolution", "K": 2},
        {"teacher": "resnet18", "dataset": "cifar100", "operators": "shrink,skip"},
        {"teacher": "conv7", "dataset": "cifar10"},
        {"teacher": "shufflenet_1.0x_g2", "dataset": "cifar100"},
    ],
)
def test_settings_that_no_paper_has(parameters: dict[str, Any]) -> None:
    assert report.published(StudyConfig(**parameters)) is None


def test_published_rows_of_architecture_compression() -> None:
    row = report.published(StudyConfig(teacher="conv7", dataset="fashion_mnist", sampler="random"))
    assert row is not None
    assert (row.teacher_accuracy, row.accuracy, row.times) == (91.46, 92.44, 7.61)
    assert row.params == pytest.approx(93035.5, abs=0.1)  # 708,000 / 7.61
    assert row.ratio == pytest.approx(0.868594, abs=1e-6)  # 1 - 1 / 7.61
    assert row.f == pytest.approx(0.993262, abs=1e-6)  # (1 - 1 / 7.61²) · 92.44 / 91.46
    assert "+0.98 points at 7.61 times" in row.note
    other = report.published(StudyConfig(teacher="conv10", dataset="svhn"))
    assert other is not None and (other.accuracy, other.times) == (95.39, 8.76)


def test_every_published_row_fits_its_own_numbers() -> None:
    """f = C (2 - C) · accuracy / teacher's within rounding and the spread of three runs: no row has slipped."""
    for dataset in ("cifar10", "cifar100"):
        for name in ("vgg19", "resnet18", "resnet34", "shufflenet"):
            for sampler in ("esnac", "random"):
                row = report.published(StudyConfig(teacher=name, dataset=dataset, sampler=sampler))
                assert row is not None
                assert row.f == pytest.approx(
                    row.ratio * (2 - row.ratio) * row.accuracy / row.teacher_accuracy, abs=0.012
                )
                assert row.params / row.teacher_params == pytest.approx(1 - row.ratio, abs=0.012)


# -- figures -----------------------------------------------------------------------------------------------------------


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """What is drawn as lines, marks and scatter plots, by its label."""
    drawn = [line for axes in figure.axes for line in axes.lines]
    found = {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn}
    for points in (points for axes in figure.axes for points in axes.collections):
        if isinstance(points, PathCollection):
            x, y = points.get_offsets().T.tolist()
            found[str(points.get_label())] = (x, y)
    return found


def test_f_is_drawn_against_its_index(record: report.StudyRecord) -> None:
    figure = report.f_against_index(record)
    drawn, f = lines(figure), record.trials["f"]
    assert drawn["ESNAC: f"] == ([1, 2, 3, 6], [f[0], f[1], f[2], f[5]])
    best = [f[0], *np.maximum.accumulate(f.iloc[[0, 1, 2, 2, 2, 5]])[1:]]
    assert drawn["ESNAC: best so far"] == ([1, 2, 3, 4, 5, 6], best)
    assert drawn["ESNAC: failed (counts as f = 0)"][0] == [4]
    assert drawn["ESNAC: machine fault (no f)"][0] == [5]
    assert figure.axes[0].get_xlabel() == "index of the evaluated architecture"
    assert "objective f (search" in figure.axes[0].get_ylabel()
    assert figure.axes[1].get_xlabel().startswith("number of architectures")
    bars = figure.axes[1].collections[0].get_paths()[0]
    assert bars.vertices[:, 0].max() >= 1


def test_studies_lie_over_each_other(record: report.StudyRecord, tmp_path: Path, space: SearchSpace) -> None:
    other = random_search(tmp_path / "other", space).read()
    assert {"ESNAC: best so far", "random search: best so far"} <= set(lines(report.f_against_index(record, other)))
    twice = lines(report.f_against_index(record, finished(tmp_path / "again", space).read()))
    assert {"done: best so far", "again: best so far"} <= set(twice)


def test_size_and_accuracy_have_units_and_marks(record: report.StudyRecord) -> None:
    figure = report.accuracy_against_parameters(record)
    axes, drawn = figure.axes[0], lines(report.accuracy_against_parameters(record))
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters (log scale)", "accuracy [%]")
    assert drawn["teacher (test)"] == ([65834], [96])
    assert drawn["solution (final training, test)"] == ([32917], [90])
    assert drawn["uniformly narrowed teacher (final training, test)"] == ([32917], [88])
    assert len(axes.collections[0].get_offsets()) == 4
    assert "f (search)" in texts_of(figure)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_nobody_beats_the_pareto_front(points: list[tuple[int, int]]) -> None:
    trials = pd.DataFrame(points, columns=["params", "accuracy"]).astype({"accuracy": float})
    front = set(map(tuple, pareto_front(trials).to_numpy()))
    slow = {
        (p, a) for p, a in points
        if not any((q <= p and b >= a) and (q, b) != (p, a) for q, b in points)
    }  # fmt: skip
    assert front == slow


def test_predictions_are_drawn_with_their_rank_correlation(record: report.StudyRecord) -> None:
    figure = report.predicted_against_observed(record)
    axes = figure.axes[0]
    # trials 2, 3 (failed, f = 0) and 5 were predicted as 0.7, 0.8 and 1.0; trial 4 has no f
    assert sorted(axes.collections[1].get_offsets()[:, 1].tolist()) == pytest.approx([0.7, 0.8, 1.0])
    f = record.trials["f"]
    expected = _spearman([0.7, 0.8, 1.0], [f[2], f[3], f[5]])
    assert axes.get_title() == f"3 predictions, rank correlation (Spearman) {expected:.2f}"
    assert "standard deviation" in axes.get_ylabel() and axes.get_xlabel() == "observed f"


def _spearman(a: list[float], b: list[float]) -> float:
    """1 - 6 Σd² / (n (n² - 1)), without ties."""
    d = np.argsort(np.argsort(a)) - np.argsort(np.argsort(b))
    return 1 - 6 * float((d**2).sum()) / (len(a) * (len(a) ** 2 - 1))


def test_without_predictions_the_figure_says_so(tmp_path: Path, space: SearchSpace) -> None:
    words = texts_of(report.predicted_against_observed(random_search(tmp_path / "s", space).read()))
    assert "no predictions" in words and "random search predicts nothing" in words


def test_search_f_and_final_f(record: report.StudyRecord) -> None:
    drawn = lines(report.search_f_against_final_f(record))
    x, y = drawn["finalist (validation images)"]
    assert x == [record.trials["f"][1], record.trials["f"][2]]
    assert y == pytest.approx([0.75 * 0.85 / 0.95, 0.75 * 0.80 / 0.95])
    assert drawn["solution, trial 1 (test images)"][1] == pytest.approx([0.703125])


def test_curves_of_teachers_search_and_final_training(record: report.StudyRecord) -> None:
    figure = report.training_curves(record)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in above] == ["teachers", "search, one line per student", "final training"]
    assert {axes.get_ylabel() for axes in above} == {"accuracy [%]"}
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in below} == {("epoch", "training loss")}
    assert lines(figure)["search teacher (validation)"][0] == [1, 2, 3]
    assert len(above[1].lines) == 4 + 1  # the students that trained, and the narrowed teacher
    assert {"trial 1 (validation)", "trial 1 (test)", "uniformly narrowed teacher (test)"} <= set(lines(figure))


# -- the map of the embedding ------------------------------------------------------------------------------------------


def test_the_map_marks_teacher_and_solution(record: report.StudyRecord) -> None:
    figure = report.embedding_map(record)
    drawn = lines(figure)
    assert {"teacher (f = 0)", "solution", "failed (f = 0)"} <= set(drawn)
    assert len(figure.axes[0].collections[0].get_offsets()) == 4
    assert "of the variance" in figure.axes[0].get_xlabel()
    observed = [record.trials["architecture"][trial] for trial in (0, 1, 2, 3, 5)]
    architectures = [record.search_teacher.architecture, *map(Architecture.from_json, observed)]
    f = np.array([0.0, *record.trials["f"][[0, 1, 2, 3, 5]]])
    places = PCA(2, svd_solver="full").fit_transform(embed(architectures, f, "posterior", 0))
    assert (drawn["solution"][0][0], drawn["solution"][1][0]) == pytest.approx(tuple(places[2]))
    assert (drawn["teacher (f = 0)"][0][0], drawn["teacher (f = 0)"][1][0]) == pytest.approx(tuple(places[0]))


# -- the graph ---------------------------------------------------------------------------------------------------------


def small_teacher() -> Architecture:
    """conv 4 - bn - relu - conv 4 - relu, all with equal shapes, then a linear layer."""
    conv = {"kernel_size": 3, "padding": 1, "bias": False}
    layers = (
        Layer("c0", "conv", (slot(INPUT),), 4, conv),
        Layer("b1", "batch_norm", (slot(0),)),
        Layer("r2", "relu", (slot(1),)),
        Layer("c3", "conv", (slot(2),), 4, conv),
        Layer("r4", "relu", (slot(3),)),
        Layer("f5", "flatten", (slot(4),)),
        Layer("l6", "linear", (slot(5),), 2),
    )
    return Architecture(layers, (4, 2, 2), slot(6))


def test_a_student_is_described_in_its_teachers_layers() -> None:
    space = SearchSpace(small_teacher())
    decisions = space.normalise(Decisions(frozenset({1, 2}), (0.5,), frozenset({(0, 4)})))
    found = graph_layout.compare(space.teacher, space.apply(decisions), decisions.skips)
    assert [row.left for row in found.rows] == [2, None, None, 2, 2, 8, 2]
    assert [row.channels for row in found.rows] == [4, 4, 4, 4, 4, 16, 2]
    assert [row.text for row in found.rows] == [
        "conv 3×3, 4", "batch norm", "ReLU", "conv 3×3, 4", "ReLU", "flatten", "linear, 2",
    ]  # fmt: skip
    assert (found.removed, found.narrowed, found.added) == (2, 2, 1)
    pairs = {(edge.source, edge.target): edge.added for edge in found.student_edges}
    assert pairs == {
        (-1, 0): False,
        (0, 3): False,
        (0, 4): True,
        (3, 4): False,
        (4, 5): False,
        (5, 6): False,
        (6, 7): False,
    }
    straight = graph_layout.spine(found.student_edges, {0, 3, 4, 5, 6})
    assert {(edge.source, edge.target) for edge in straight} == set(pairs) - {(0, 4)}


@pytest.fixture(scope="module", params=["resnet18", "shufflenet"])
def large_space(request: pytest.FixtureRequest) -> Iterator[SearchSpace]:
    yield SearchSpace(trace(teacher(request.param, 10, seed=0), torch.zeros(1, 3, 32, 32))[0])


def test_every_connection_of_a_student_is_drawn_once(large_space: SearchSpace) -> None:
    for number in range(4):
        decisions = large_space.sample(make_rng(number, "graph"))
        student = large_space.apply(decisions)
        found = graph_layout.compare(large_space.teacher, student, decisions.skips)
        assert found.removed == len(decisions.removed) and found.added == len(decisions.skips)
        assert len(found.rows) - found.removed == len(student.layers)
        first = sum(INPUT in layer.sources for layer in student.layers)
        assert len(found.student_edges) == len(student.edges()) + first + len(student.output)
        sums = [part for layer in student.layers for part in layer.inputs] + [student.output]
        assert sum(edge.count for edge in found.student_edges) == sum(count for part in sums for _, count in part)


def test_long_networks_go_on_in_further_columns(large_space: SearchSpace) -> None:
    nothing = large_space.nothing
    found = graph_layout.compare(large_space.teacher, large_space.teacher, nothing.skips)
    assert (found.removed, found.narrowed, found.added) == (0, 0, 0)
    assert found.teacher_edges == found.student_edges
    parts = graph_layout.columns(found, 45)
    assert [index for part in parts for index in part] == list(range(len(found.rows)))
    assert len(parts) == -(-len(found.rows) // 45) > 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 3 * graph_layout.BREAK_SLACK


def test_the_drawing_says_what_was_done(record: report.StudyRecord) -> None:
    figure = report.student_graph(record)
    words = texts_of(figure)
    decisions = record.decisions(1)
    assert f"{len(decisions.removed)} layers removed" in words
    heading = figure.axes[0].texts[-3]
    first, second, _ = heading.get_text().split("\n")
    assert first == "cnn4: 17 layers, 65,834 parameters, accuracy 96.00 % (test)"
    assert second.startswith("solution, trial 1: ") and second.endswith("× fewer), accuracy 90.00 % (test)")
    box = heading.get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.x1
    for name in ("removed", "added skip", "width: channels left", "teacher", "student"):
        assert name in words.split("\n")
    left = record.solution.architecture.layers[0].channels  # type: ignore[union-attr]
    assert f"{left} of 32" in words


def test_the_drawing_has_the_accuracies_of_the_search_where_there_are_no_others(
    record: report.StudyRecord, tmp_path: Path, space: SearchSpace
) -> None:
    other, failed = texts_of(report.student_graph(record, 2)), texts_of(report.student_graph(record, 3))
    assert "accuracy 95.00 % (validation)\ntrial 2: " in other and "× fewer), accuracy 80.00 % (validation)" in other
    assert "accuracy 95.00 % (validation)\ntrial 3: " in failed and failed.count("accuracy") == 1
    unfinished = texts_of(report.student_graph(searched(tmp_path / "s", space).read()))
    assert "\nbest of the search, trial 1: " in unfinished and "× fewer), accuracy 90.00 % (validation)" in unfinished


def test_figures_name_what_the_objective_counts(tmp_path: Path, space: SearchSpace) -> None:
    record = finished(tmp_path / "s", space, objective="macs").read()
    teacher, student = record.teacher, record.architecture(1)
    assert teacher is not None
    words = texts_of(report.student_graph(record))
    assert (
        f"{teacher.macs:,} MACs" in words
        and f"{student.macs:,} MACs ({teacher.macs / student.macs:.2f}× fewer" in words
    )
    title = report.accuracy_against_parameters(record).axes[0].get_title()
    assert title.startswith(f"solution: {teacher.macs / 700000:.2f}× fewer MACs, ")


# -- the claim ---------------------------------------------------------------------------------------------------------


def test_the_claim_is_what_the_tables_say(record: report.StudyRecord, tmp_path: Path, space: SearchSpace) -> None:
    text = report.claim(record)
    for part in (
        "2.00 times fewer parameters than cnn4 (32,917 instead of 65,834)",
        "loses 6.00 ± 3.17 points of test accuracy (90.00% instead of 96.00%)",  # of 451 and 481 of 502 answers
        "2.00 ± 3.89 points more than the teacher uniformly narrowed",
        "(88.00% with 32,917 parameters), within the noise.",
        "6 of 6 architectures evaluated, 2 of them failed",
    ):
        assert part in text
    assert "within the noise" in report.claim(finished(tmp_path / "c", space, accuracy=0.95).read()).split("That is")[0]
    assert "best student so far" in report.claim(search_only(tmp_path / "a", space).read())
    assert "No student could be trained" in report.claim(all_failed(tmp_path / "b", space).read())


def test_a_solution_that_is_the_narrowed_teacher_is_compared_with_no_copy_of_itself(
    tmp_path: Path, space: SearchSpace
) -> None:
    record = finished(tmp_path / "s", space, same=True).read()
    assert record.narrowed_is_solution
    text = report.claim(record)
    assert "The narrowed teacher is the best that was found: it is the solution." in text
    assert "points more" not in text and "points less" not in text
    table = report.solution_table(record)
    assert list(table["method"]) == ["teacher cnn4 (reference)", "ESNAC: solution (trial 1)"]
    assert table["note"][1].endswith("the narrowed teacher is the best that was found: it is the solution")
    assert "solution, the narrowed teacher itself" in texts_of(report.accuracy_against_parameters(record))


# -- the notebook ------------------------------------------------------------------------------------------------------


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_no_cell_of_the_notebook_takes_a_parameters_name_or_leaves_plain_data() -> None:
    """The cell that validates sees all globals: it must still run when the cells after it have."""
    names = set()
    for cell in code_cells():
        if "parameters" in cell["metadata"].get("tags", []):
            continue
        source = "\n".join(line for line in "".join(cell["source"]).splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    assert {name for name in names if not name.startswith("_")} <= {"config", "search", "record"}
