"""Reports of experiments, from ledgers written here: numbers against hand values, NumPy and SciPy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from esnac_lib import report
from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.experiment import Changes, ExperimentConfig
from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.noise import noise_band
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.report.figures.n2n_stages import first_of_second_stage
from esnac_lib.report.figures.shufflenet import BAND, readable_name
from esnac_lib.report.figures.variants import best_so_far
from esnac_lib.report.records.experiment import variant_of
from esnac_lib.report.statistics import mean_and_band
from esnac_lib.report.tables.maximisers import MAXIMISERS
from esnac_lib.samplers.base import Proposal
from esnac_lib.samplers.history import row_of
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.seeding import make_generator, make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.acquisition import expected_improvement
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.gp import marginal_objective, rbf
from esnac_lib.surrogate.kernel import learn_kernel
from esnac_lib.teachers import teacher

ROWS = {"first": "a", "second": "b", "third": "c"}


class Three(ExperimentConfig):
    """Variants a, b and c."""

    def variants(self) -> dict[str, Changes]:
        return {"a": {}, "b": {"sampler": "random"}, "c": {"sampler": "n2n", "operators": "remove,shrink"}}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


def write(
    config: StudyConfig, space: SearchSpace, f: Sequence[float | str], *, end: bool = True, solution: float = 0.0
) -> None:
    """The ledger of a study whose students had these f ("failed": f = 0), and its summary.

    The search teacher has an accuracy of 0.9, the reference teacher 0.8, the solution half of the parameters.
    """
    folder = study_dir(config)
    proposals = RandomSampler(space, config.seed).ask(len(f))
    record = {"name": config.teacher, "params": space.teacher.num_params, "macs": 1}
    record["architecture"] = space.teacher.to_json()
    with Ledger.start(folder / "ledger.sqlite", config.to_dict()) as ledger:
        ledger.result("teacher", "search", record | {"accuracy": 0.9})
        for start in range(0, len(f), config.K):
            ledger.record(start // config.K, [row_of(p, 0.5) for p in proposals[start : start + config.K]])
        for trial, value in enumerate(f):
            if isinstance(value, str):
                ledger.fail(trial, value, 2.0)
            else:
                ledger.complete(trial, 0.7, value, 1, 2.0)
        if solution:
            ledger.result("teacher", "reference", record | {"accuracy": 0.8})
            params = space.teacher.num_params // 2
            entry = {"student": "trial0000", "arch_id": "x", "params": params, "macs": 1, "accuracy": solution}
            value = PAPERS.value(Measurement(solution, params), Measurement(0.8, space.teacher.num_params))
            ledger.result("solution", "student", entry | {"best_epoch_accuracy": solution, "f": value})
    (folder / "summary.json").write_text(json.dumps({"evaluations": len(f)}))


def experiment(space: SearchSpace, runs: dict[str, list[float]], **parameters: Any) -> report.ExperimentRecord:
    """Each variant's runs by their best f; None for one that was not begun."""
    config = Three(study="three", K=2, steps=2, runs=3, **parameters)
    for study in config.studies():
        values = runs.get(variant_of(study), [])
        if len(values) > study.seed:
            write(study, space, [0.1, "failed", values[study.seed], 0.2])
    return report.read_experiment(config)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_means_and_deviations_over_the_runs(space: SearchSpace) -> None:
    record = experiment(space, {"a": [0.5, 0.7, 0.9], "b": [0.6]})
    table = report.variants_table(record, ROWS).set_index("variant")
    assert table["runs"].tolist() == [3, 1, 0]
    assert table.loc["first", "f"] == pytest.approx(0.7) and table.loc["first", "f ±"] == pytest.approx(0.2)
    assert table.loc["second", "f"] == 0.6 and table.loc["second", "f ±"] is None
    assert table.loc["first", "evaluated on"] == "validation"
    assert table.loc["first", "failed"] == 3 and table.loc["first", "proposing [s]"] == pytest.approx(2.0)
    assert table.loc["second", "evaluating [s]"] == pytest.approx(8.0)
    best = RandomSampler(space, 0).ask(4)[2].architecture
    assert table.loc["second", "parameters"] == best.num_params
    assert table.loc["second", "compression (×)"] == pytest.approx(space.teacher.num_params / best.num_params)
    assert table.loc["third"].drop(["runs"]).isna().all()
    shown = report.readable(report.variants_table(record, ROWS))
    assert shown["f"].tolist() == ["0.7000 ± 0.2000", "0.6000", "–"]
    assert repr(record) == "ExperimentRecord('three': 4 of 9 studies finished; 16 architectures evaluated)"


def test_after_final_training_it_is_the_solution_that_counts(space: SearchSpace) -> None:
    config = Three(study="three", K=2, steps=2, final="validated", top=1)
    a, b, _ = config.studies()
    write(a, space, [0.1, 0.9], solution=0.6)
    write(b, space, [0.1, 0.9])  # searched, not yet trained finally
    table = report.variants_table(report.read_experiment(config), ROWS).set_index("variant")
    assert table["runs"].tolist() == [1, 0, 0]
    assert table.loc["first", "evaluated on"] == "test" and table.loc["first", "accuracy [%]"] == pytest.approx(60)
    assert table.loc["first", "f"] == pytest.approx(0.75 * 0.6 / 0.8, rel=1e-4)
    assert table.loc["first", "best search f"] == 0.9


def test_what_was_decided(space: SearchSpace) -> None:
    record = experiment(space, {"a": [0.5]})
    table = report.decisions_table(record, ROWS)
    proposals = RandomSampler(space, 0).ask(4)
    assert table["removed"].tolist() == [len(p.decisions.removed) for p in proposals]
    assert table["skips"].tolist() == [len(p.decisions.skips) for p in proposals]
    assert table["shrunk"].tolist() == pytest.approx([np.mean(p.decisions.ratios) for p in proposals])
    assert table["state"].tolist() == ["complete", "failed", "complete", "complete"]


# -- ranking -----------------------------------------------------------------------------------------------------------


def test_a_lead_is_assessed_by_a_paired_interval(space: SearchSpace) -> None:
    """The interval is SciPy's of the paired t test."""
    a, b = [0.7, 0.8, 0.75], [0.6, 0.65, 0.66]
    text = report.ranking(experiment(space, {"a": a, "b": b}), ROWS)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    assert f"+{np.mean(a) - np.mean(b):.4f} ± {half:.4f} (95 %, 3 seeds, paired)" in text
    assert text.startswith("**first ends highest** in f of the search: first 0.7500, second 0.6367.")
    assert ("more than chance" in text) == (interval.low > 0)
    assert text.endswith("Not finished: third.")


def test_a_small_lead_is_within_chance(space: SearchSpace) -> None:
    assert "within what chance gives" in report.ranking(experiment(space, {"a": [0.7, 0.4], "b": [0.6, 0.48]}), ROWS)


def test_one_seed_and_ties_say_so(space: SearchSpace) -> None:
    record = experiment(space, {"a": [0.7], "b": [0.6]})
    assert "One seed each, so the lead of 0.1000 over second may be chance." in report.ranking(record, ROWS)
    assert "Not part of this experiment" in report.ranking(record, {})
    assert "No result yet" in report.ranking(record, {"third": "c"})


def test_equals_both_end_highest(space: SearchSpace) -> None:
    text = report.ranking(experiment(space, {"a": [0.7], "b": [0.7]}), {"first": "a", "second": "b"})
    assert text == "**first and second end highest** in f of the search: first 0.7000, second 0.7000."


# -- figures -----------------------------------------------------------------------------------------------------------


def test_best_f_and_its_band(space: SearchSpace) -> None:
    """The band is SciPy's interval of the mean."""
    record = experiment(space, {"a": [0.5, 0.7, 0.9]})
    values = best_so_far(record.studies["a"])
    assert values.tolist() == [[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.7, 0.7], [0.1, 0.1, 0.9, 0.9]]
    mean, half = mean_and_band(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean([0.5, 0.7, 0.9]), scale=stats.sem([0.5, 0.7, 0.9]))
    assert (mean[-1] - half[-1], mean[-1] + half[-1]) == pytest.approx((low, high))
    assert mean_and_band(values[:1])[1].tolist() == [0, 0, 0, 0]
    axes = report.best_f(record, ROWS).axes[0]
    assert [line.get_label() for line in axes.lines] == ["first (3 runs)"]
    assert axes.lines[0].get_ydata().tolist() == mean.tolist()


def test_decisions_are_drawn_a_point_a_student(space: SearchSpace) -> None:
    figure = report.decisions_made(experiment(space, {"a": [0.5], "b": [0.6, 0.7]}), ROWS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["first", "second"]
    for axes in figure.axes:
        points = [len(line.get_xdata()) for line in axes.lines]
        assert points == [3, 1, 2, 6, 2, 2]  # of each row: complete, failed, and the two ends of the median


def test_a_line_where_the_second_stage_begins(space: SearchSpace) -> None:
    record = experiment(space, {"a": [0.5], "b": [0.5], "c": [0.5]})
    [study] = record.studies["c"]
    assert first_of_second_stage(study) == 2
    figure = report.stages_figure(study)
    assert [axes.lines[1].get_xdata()[0] for axes in figure.axes] == [2.5] * 3
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.1, 0.0, 0.5, 0.2]
    alone = StudyConfig(study="alone", sampler="n2n", operators="remove", K=2, steps=2, final="none")
    write(alone, space, [0.1, 0.2, 0.3])
    assert first_of_second_stage(report.read("alone")) is None


def test_nothing_to_show_is_said(space: SearchSpace) -> None:
    record = report.read_experiment(Three(study="three"))
    assert report.variants_table(record, ROWS)["runs"].tolist() == [0, 0, 0]
    figures: list[Figure] = [
        report.best_f(record, ROWS),
        report.decisions_made(record, ROWS),
        report.transfer_figure(record, {"x": ROWS}),
        report.accuracy_against_size(report.sizes_table(record, [])),
        report.best_f(record, {}),
    ]
    for figure in figures:
        [axes] = figure.axes
        assert axes.texts and not axes.lines


def test_labels_name_the_studies_of_one_sampler(space: SearchSpace) -> None:
    record = experiment(space, {"a": [0.5, 0.6]})
    figure = report.f_against_index(*record.studies["a"], labels=["one", "other"])
    assert "other: best so far" in [line.get_label() for line in figure.axes[0].lines]


# -- maximisers and the marginal objective -----------------------------------------------------------------------------


def test_both_maximisers_score_by_the_same_kernels(space: SearchSpace) -> None:
    config = StudyConfig(study="base", K=2, steps=3, candidates=12, final="none")
    write(config, space, [0.3, 0.6, 0.2, 0.5, 0.4, 0.1])
    study = report.read("base")
    table = report.maximisers_table(study, [3, 6, 7], 2)
    assert table.groupby(["observations", "kernel"]).size().to_dict() == {(3, 0): 2, (3, 1): 2, (6, 0): 2, (6, 1): 2}
    assert set(table["maximiser"]) == set(MAXIMISERS)
    assert (table.groupby(["observations", "kernel"])["best f"].nunique() == 1).all()
    for row in table.to_dict("records"):
        value = expected_improvement(np.array(row["mean"]), np.array(row["standard deviation"] ** 2), row["best f"])
        assert row["EI"] == pytest.approx(float(value)) == pytest.approx(np.exp(row["log EI"]))
    pd.testing.assert_frame_equal(table.head(4), report.maximisers_table(study, [3], 2))
    pairs = table.pivot(index=["observations", "kernel"], columns="maximiser", values="EI")
    figure = report.maximisers_figure(table)
    drawn = set(map(tuple, figure.axes[0].collections[0].get_offsets().tolist()))
    assert drawn == set(zip(pairs[MAXIMISERS[0]], pairs[MAXIMISERS[1]], strict=True))
    assert not report.maximisers_figure(report.maximisers_table(study, [7], 2)).axes[0].lines


def test_the_marginal_objective_is_finite_where_a_float32_determinant_is_not(space: SearchSpace) -> None:
    """Against NumPy: condition number, log determinant, and the objective itself as written in the textbook."""
    table = report.marginal_table(space.teacher, [5, 50], seed=0)
    assert table["learning"].tolist() == ["before", "after"] * 2 and (table["steps"] > 0).tolist() == [False, True] * 2
    assert np.isfinite(table[["objective", "log det"]]).all(axis=None)
    assert (table["condition"] <= table["bound"]).all()
    assert np.isfinite(table["log of det, float32"]).tolist() == [True, True, False, False]
    assert table["log det"].iloc[3] < np.log(2.0**-149) < table["log det"].iloc[1]  # the least that float32 holds

    students = [space.teacher]
    students += [space.apply(space.sample(make_rng(0, "marginal-table", i))) for i in range(4)]
    f = [PAPERS.value(Measurement(1.0, s.num_params), Measurement(1.0, space.teacher.num_params)) for s in students]
    settings = KernelSettings(objective="marginal", max_steps=0)
    kernel = learn_kernel([encode(s) for s in students], f, settings, make_generator(0, "marginal-table"))
    h = kernel.embed(kernel.encodings).double()
    matrix = (rbf(h, h, 0.01) + 0.05 * torch.eye(5)).numpy()
    row = table.iloc[0]
    assert row["condition"] == pytest.approx(np.linalg.cond(matrix))
    assert row["log det"] == pytest.approx(np.linalg.slogdet(matrix).logabsdet)
    textbook = -stats.multivariate_normal(np.zeros(5), matrix).logpdf(f)
    assert (
        row["objective"]
        == pytest.approx(textbook)
        == pytest.approx(float(marginal_objective(h, torch.tensor(f), 0.01, 0.05)))
    )


# -- originals and transfer --------------------------------------------------------------------------------------------


def test_students_next_to_originals(space: SearchSpace) -> None:
    config = Three(study="three", K=2, steps=1, runs=2, final="validated", top=1)
    for study in config.studies():
        if variant_of(study) == "a":
            write(study, space, [0.1, 0.9], solution=0.6 + 0.01 * study.seed)
    record = report.read_experiment(config)
    originals = []
    for name, accuracy in (("shufflenet_0.5x_g1", 0.5), ("shufflenet_1.5x_g8", 0.9)):
        study = StudyConfig(study=f"three/{name}_seed0", teacher=name)
        result = {
            "name": name,
            "params": 40000,
            "macs": 1,
            "accuracy": accuracy,
            "architecture": space.teacher.to_json(),
        }
        with Ledger.start(study_dir(study) / "ledger.sqlite", study.to_dict()) as ledger:
            ledger.result("teacher", "reference", result)
            ledger.epoch("reference-teacher", "reference-teacher", 1, 1.0, 0.95, 1.0)
            ledger.epoch("reference-teacher", "reference-teacher", 2, 1.0, accuracy, 1.0)
        originals.append(study)
    read = report.read_studies([*originals, StudyConfig(study="three/none_seed0")])
    assert [study.config.teacher for study in read] == ["shufflenet_0.5x_g1", "shufflenet_1.5x_g8"]
    table = report.sizes_table(record, read)
    assert table["network"].tolist() == ["ESNAC from a", "ShuffleNet 0.5× (g = 1)", "ShuffleNet 1.5× (g = 8)"]
    assert table["accuracy [%]"].tolist() == pytest.approx([60.5, 50, 90])
    assert table["accuracy [%] ±"].iloc[0] == pytest.approx(100 * np.std([0.6, 0.61], ddof=1))
    over_runs = 12.706 * 100 * 0.01 / 2  # Student's t of one degree of freedom, times the deviation over the root of 2
    binomial = [100 * noise_band(p, 0.0, 500) for p in (0.5, 0.9)]  # of 500 test images of digits
    assert table[BAND].tolist() == pytest.approx([over_runs, *binomial], rel=1e-3)
    assert binomial == pytest.approx([100 * 1.96 * math.sqrt(p * (1 - p) / 500) for p in (0.5, 0.9)], rel=0.02)
    said = "original networks are less accurate than some student that is no larger, and 0 of 1 students"
    assert report.sizes_claim(table).startswith(f"**1 of 2 {said}")
    near = table.assign(**{"accuracy [%]": [58.0, 50.0, 90.0]})  # 8 points above the first, with a band of 7.7
    assert report.sizes_claim(near).startswith(f"**1 of 2 {said}")
    within = table.assign(**{"accuracy [%]": [57.0, 50.0, 90.0]})
    assert report.sizes_claim(within).startswith(f"**0 of 2 {said}") and "more than the noise" in report.sizes_claim(
        within
    )
    figure = report.accuracy_against_size(table)
    assert {text.get_text() for text in figure.axes[0].texts} == {"from a", "g = 1", "g = 8"}
    assert "No comparison yet" in report.sizes_claim(table[table["kind"] == "student"])
    best = report.sizes_table(report.ExperimentRecord(record.folder, Three(final="paper", top=1), {}), read)
    assert best["accuracy [%]"].tolist() == pytest.approx([95, 95])  # the paper's form counts the best test epoch


def test_names_of_shufflenets() -> None:
    assert readable_name("shufflenet_0.5x_g8") == "ShuffleNet 0.5× (g = 8)"
    assert readable_name("resnet20_s2") == "resnet20_s2" and readable_name("shufflenet") == "shufflenet"


class Transfer(ExperimentConfig):
    """A source and one target."""

    def variants(self) -> dict[str, Changes]:
        return {"source": {}, "there": {"sampler": "transfer", "source": "source", "steps": 1, "K": 2}}


def test_kinds_that_the_source_never_saw(space: SearchSpace) -> None:
    config = Transfer(study="moved", K=2, steps=2)
    source, there = config.studies()
    shuffle = SearchSpace(trace(teacher("shufflenet", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])
    write(source, space, [0.1, 0.2, 0.3, 0.4])
    write(there, shuffle, [0.6, 0.5])
    record, tables = report.read_experiment(config), {"far away": {"two kernels": "there", "nobody": "nothing"}}
    table = report.kernels_table(record, tables)
    assert table["observations"].tolist() == [4, pd.NA]
    assert table["kinds never observed"].tolist() == ["none", "channel_shuffle, concat"]
    assert table["layers"].tolist() == [len(space.teacher.layers), len(shuffle.teacher.layers)]
    [axes] = report.transfer_figure(record, tables).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["two kernels (2 evaluated)", "nobody (0 evaluated)"]
    points = np.concatenate([points.get_offsets() for points in axes.collections])
    assert sorted(points[:, 0]) == [0.5, 0.6]
    [best] = [line for line in axes.lines if line.get_label() == "best"]
    assert best.get_xdata()[0] == 0.6 and np.isnan(best.get_xdata()[1])


def test_a_proposal_becomes_a_row_and_a_trial_again(space: SearchSpace, tmp_path: Path) -> None:
    decisions = Decisions(frozenset({space.removable[0]}), (0.25,) * len(space.groups), frozenset())
    row = row_of(Proposal(decisions, space.apply(decisions), 3, 0.5, 0.1, 0.02), 1.5)
    assert (row.kernel, row.mean, row.variance, row.ei, row.propose_seconds) == (3, 0.5, 0.1, 0.02, 1.5)
    assert Decisions.from_json(row.decisions) == decisions and row.params == space.apply(decisions).num_params
