"""The offline table and what is done with it, on ledgers whose f is a known function: nothing is trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from esnac_lib.architecture.tracing import trace
from esnac_lib.benchmarks import tabular as offline
from esnac_lib.benchmarks.tabular.emulator import features
from esnac_lib.benchmarks.tabular.predictors import accuracy, forest, kernel, observe
from esnac_lib.benchmarks.tabular.table import OfflineTable, decisions_of
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import DataError
from esnac_lib.ledger.ledger import Ledger, ProposalRow
from esnac_lib.objective import objective
from esnac_lib.samplers.evolution import EvolutionSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.teachers import teacher

ACCURACY = 0.9  # of the teacher


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0], sampling="mild")


def worth(decisions: Decisions) -> float:
    """An accuracy that falls with every removal and with narrowness."""
    return 0.9 - 0.03 * len(decisions.removed) - 0.2 * max(decisions.ratios) ** 2


def make_ledger(root: Path, name: str, space: SearchSpace, draws: list[int], **parameters: object) -> None:
    config = StudyConfig.from_dict({"study": name, "sampler": "random", "sampling": "mild", **parameters})
    with Ledger.start(root / name / "ledger.sqlite", config.to_dict()) as ledger:
        known = {"name": "cnn4", "params": space.teacher.num_params, "macs": space.teacher.macs}
        ledger.result("teacher", "search", known | {"accuracy": ACCURACY, "architecture": space.teacher.to_json()})
        for step, draw in enumerate(draws):
            decisions = space.sample(make_rng(7, "offline-test", draw))
            a = space.apply(decisions)
            texts = (decisions.to_json(), a.to_json())
            [trial] = ledger.record(
                step, [ProposalRow(None, a.arch_id, a.num_params, a.macs, *texts, None, None, None, 0.0)]
            )
            if draw == 3:
                ledger.fail(trial, "diverged", 1.0)
                continue
            f = objective(a.num_params, space.teacher.num_params, worth(decisions), ACCURACY)
            ledger.complete(trial, worth(decisions), f, 2, 1.0)
            ledger.epoch("search", f"trial{trial:04d}", 1, 0.7, worth(decisions) / 2, 1.0)
            ledger.epoch("search", f"trial{trial:04d}", 2, 0.5, worth(decisions), 1.0)


@pytest.fixture(scope="module")
def table(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> OfflineTable:
    root = tmp_path_factory.mktemp("ledgers")
    make_ledger(root, "a", space, list(range(60)))
    make_ledger(root, "b", space, list(range(50, 70)), K=2)  # ten of them a has evaluated, too
    make_ledger(root, "other", space, list(range(5)), seed=1)
    with Ledger.start(root / "empty" / "ledger.sqlite", StudyConfig().to_dict()):
        pass
    with Ledger.start(root / "unknown" / "ledger.sqlite", {"what": 1}) as ledger:
        ledger.result("teacher", "search", {"accuracy": 1.0})
    return offline.collect(root)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_architecture_of_a_problem_is_there_once(table: OfflineTable, space: SearchSpace) -> None:
    sizes = sorted(len(table.of(problem)) for problem in table.problems.values())
    assert sizes[0] == 5 and 60 <= sizes[1] <= 70  # two draws can give one network
    problem = table.largest()
    rows = table.of(problem)
    assert rows["arch_id"].is_unique and problem.training["seed"] == 0 and "cnn4 on digits" in repr(problem)
    first = rows.iloc[0]
    assert (first["study"], first["curve"]) == (
        "a",
        [[0.7, round(first["accuracy"] / 2, 6)], [0.5, round(first["accuracy"], 6)]],
    )
    failed = rows[rows["error"].notna()]
    assert list(failed["f"]) == [0.0] and failed["accuracy"].isna().all()


def test_decisions_give_the_architectures_back(table: OfflineTable) -> None:
    problem = table.largest()
    rows, own = table.of(problem).head(10), problem.space()
    for decisions, arch_id, params in zip(decisions_of(rows), rows["arch_id"], rows["params"], strict=True):
        student = own.apply(decisions)
        assert (student.arch_id, student.num_params) == (arch_id, params)


def test_writing_and_reading_gives_the_table_and_the_same_bytes(table: OfflineTable, tmp_path: Path) -> None:
    path = offline.write(table, tmp_path / "one.jsonl.gz")
    again = offline.load(path)
    assert again.evaluations.equals(table.evaluations) and again.problems.keys() == table.problems.keys()
    name = table.largest().name
    assert again.problems[name] == table.problems[name]
    assert offline.write(again, tmp_path / "two.jsonl.gz").read_bytes() == path.read_bytes()


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"nothing")
    for path, said in ((tmp_path / "x.gz", "is no offline table"), (tmp_path / "none.gz", "there is no offline table")):
        with pytest.raises(DataError, match=said) as caught:
            offline.load(path)
        assert "\n" not in str(caught.value)


def test_the_committed_table_can_be_used() -> None:
    committed = offline.load()
    problem = committed.largest()
    rows = committed.of(problem).head(3)
    assert [problem.space().apply(d).arch_id for d in decisions_of(rows)] == list(rows["arch_id"])
    assert len(committed.overview) == len(committed.problems)


# -- the emulator ------------------------------------------------------------------------------------------------------


def test_the_emulator_foresees_what_it_has_not_seen(table: OfflineTable, space: SearchSpace) -> None:
    emulator = offline.Emulator(table, table.largest(), noise=0.0)
    assert emulator.rank_correlation > 0.7
    fresh = [space.sample(make_rng(8, "fresh", k)) for k in range(30)]
    foreseen = [emulator.f(one, space.apply(one)) for one in fresh]
    true = [objective(space.apply(one).num_params, space.teacher.num_params, worth(one), ACCURACY) for one in fresh]
    assert spearmanr(foreseen, true).statistic > 0.7


def test_noise_is_the_architectures_own(table: OfflineTable, space: SearchSpace) -> None:
    decisions = space.sample(make_rng(9, "noise"))
    a = space.apply(decisions)
    quiet, rough = (offline.Emulator(table, table.largest(), noise=noise) for noise in (0.0, 0.05))
    assert rough.f(decisions, a) == rough.f(decisions, a) != quiet.f(decisions, a)
    assert offline.Emulator(table, table.largest(), 0.05, seed=1).f(decisions, a) != rough.f(decisions, a)


def test_a_sampler_is_replayed_like_a_study(table: OfflineTable) -> None:
    problem = table.largest()
    emulator = offline.Emulator(table, problem)
    f = offline.replay(EvolutionSampler(problem.space("mild"), 0, population=4), emulator, K=4, steps=3)
    assert len(f) == 12 and f == offline.replay(
        EvolutionSampler(problem.space("mild"), 0, population=4), emulator, K=4, steps=3
    )
    sampler = RandomSampler(problem.space(), 0)
    assert offline.replay(sampler, emulator, 2, 1) == [
        emulator.f(trial.decisions, trial.architecture) for trial in sampler.observations
    ]


def test_too_few_evaluations_are_not_emulated(table: OfflineTable) -> None:
    small = next(problem for problem in table.problems.values() if problem.training["seed"] == 1)
    with pytest.raises(DataError, match="at least 20 are needed"):
        offline.Emulator(table, small)


def test_features_by_hand(space: SearchSpace) -> None:
    removed = frozenset({space.removable[1]})
    one = Decisions(removed, tuple(0.25 for _ in space.groups), frozenset())
    row = features(space, [one], [np.e], [1])[0]
    flags = len(space.groups) + np.arange(len(space.removable))
    assert list(row[: len(space.groups)]) == [0.25] * len(space.groups)
    assert list(row[flags]) == [0, 1] + [0] * (len(space.removable) - 2)
    assert row[flags[-1] + 1 : -3].sum() == 1 and list(row[-3:]) == [0, 1, 0]


# -- surrogates --------------------------------------------------------------------------------------------------------


def test_surrogates_are_compared_on_the_same_splits(table: OfflineTable) -> None:
    def oracle(seen: offline.Observed, unseen: offline.Observed, seed: int) -> np.ndarray:
        return unseen.f

    def contrary(seen: offline.Observed, unseen: offline.Observed, seed: int) -> np.ndarray:
        return -unseen.f

    found = offline.surrogate_quality(
        table, table.largest(), {"oracle": oracle, "contrary": contrary, "forest": forest}
    )
    quality = dict(zip(found["surrogate"], found["rank correlation"], strict=True))
    assert quality["oracle"] == pytest.approx(1) and quality["contrary"] == pytest.approx(-1)
    assert 0.5 < quality["forest"] < 1


def test_a_kernel_is_learned_from_what_is_seen_only(table: OfflineTable) -> None:
    problem = table.largest()
    observed = observe(problem, table.of(problem))
    seen, unseen = observed.part(np.arange(12)), observed.part(np.arange(12, 20))
    hidden = replace(unseen, f=np.full(8, np.nan))
    for scale, centred in (("raw", False), ("unit", True)):
        surrogate = kernel(KernelSettings(max_steps=2), scale, centred)
        foreseen = surrogate(seen, hidden, 3)
        assert np.isfinite(foreseen).all() and np.array_equal(foreseen, surrogate(seen, unseen, 3))


def test_a_learned_accuracy_becomes_f_with_the_exact_size(table: OfflineTable) -> None:
    """Whoever knows the accuracies knows f; whoever knows nothing foretells the mean accuracy at each size."""
    problem = table.largest()
    rows = table.of(problem)
    observed = observe(problem, rows)
    seen, unseen = observed.part(np.arange(12)), observed.part(np.arange(12, 30))
    accuracies = rows["accuracy"].fillna(0.0).to_numpy() / problem.accuracy
    mean, scale = accuracies[:12].mean(), accuracies[:12].std()

    def knows(seen: offline.Observed, unseen: offline.Observed, seed: int) -> np.ndarray:
        np.testing.assert_allclose(seen.f, (accuracies[:12] - mean) / scale, atol=1e-9)
        return (accuracies[12:30] - mean) / scale

    np.testing.assert_allclose(accuracy(knows)(seen, unseen, 0), unseen.f, rtol=1e-9)
    nothing = accuracy(lambda seen, unseen, seed: np.zeros(len(unseen.f)))(seen, unseen, 0)
    np.testing.assert_allclose(nothing, mean * unseen.gains)


def test_enough_must_be_left_unseen(table: OfflineTable) -> None:
    with pytest.raises(DataError, match="at least 10 must be left unseen"):
        offline.surrogate_quality(table, table.largest(), seen=65)
