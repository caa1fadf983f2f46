"""Objectives against values worked out by hand and a published row, and whole studies by each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esnac_lib import report
from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import OBJECTIVES, PAPERS, Measurement, Objective, Sized, compression_ratio
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.study.study import Study
from esnac_lib.surrogate.targets import AccuracyTarget

TINY: dict[str, Any] = {
    "study": "tiny", "K": 2, "steps": 2, "epochs": 1, "teacher_epochs": 1, "final_epochs": 1, "top": 2,
    "candidates": 6, "search_images": 200, "device": "cpu", "surrogate": "accuracy", "acquisition": "local",
}  # fmt: skip
TEACHER = Measurement(0.9, 1000, 5000)


def test_by_hand() -> None:
    student = Measurement(0.8, 250, 500)
    assert OBJECTIVES["params"].value(student, TEACHER) == pytest.approx(0.75 * 1.25 * 0.8 / 0.9)
    assert OBJECTIVES["macs"].value(student, TEACHER) == pytest.approx(0.9 * 1.1 * 0.8 / 0.9)
    assert compression_ratio(250, 1000) == 0.75


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gain_is_f_at_the_teacher_s_accuracy(name: str) -> None:
    objective = OBJECTIVES[name]
    student = Measurement(TEACHER.accuracy, 300, 700)
    size, whole = objective.size(student), objective.size(TEACHER)
    assert objective.value(student, TEACHER) == pytest.approx(objective.gain(size, whole))
    assert objective.value(TEACHER, TEACHER) == objective.gain(whole, whole) == 0
    assert objective.gain(1.2 * whole, whole) < 0


def test_published_n2n_row() -> None:
    """ESNAC Table 1, N2N for ResNet-18 on CIFAR-100: ratio 0.7845, 68.01 % of 78.68 %, f 0.8242."""
    assert PAPERS.value(Measurement(68.01, 2155), Measurement(78.68, 10000)) == pytest.approx(0.8242, abs=2e-4)


# -- whole studies -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weighted() -> Iterator[Objective]:
    """A third objective, from outside of the library: one registration."""

    def size(network: Sized) -> float:
        return 10 * network.num_params + network.macs

    yield OBJECTIVES.register(Objective("weighted", "parameters and MACs", size))
    OBJECTIVES.unregister("weighted")


def check_study(name: str, outputs: Path) -> None:
    """Run two steps and the final training; every f in ledger, summary and record is this objective's."""
    study = Study(StudyConfig(**TINY, objective=name))
    summary = study.run()
    assert summary is not None and summary["objective"] == name
    objective, teacher = OBJECTIVES[name], study.space.teacher

    def f(accuracy: float, params: int, macs: int, reference: float) -> float:
        against = Measurement(reference, teacher.num_params, teacher.macs)
        return objective.value(Measurement(accuracy, params, macs), against)

    ledger = Ledger(study.ledger_path, read_only=True)
    accuracy = {role: entry["accuracy"] for role, entry in ledger.results("teacher").items()}
    for row in ledger.trials().itertuples():
        assert row.f == pytest.approx(f(row.accuracy, row.params, row.macs, accuracy["search"]))
    assert json.loads((outputs / "tiny" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    for entry in (summary["solution"], summary["narrowed"]):
        assert entry["f"] == pytest.approx(f(entry["accuracy"], entry["params"], entry["macs"], accuracy["reference"]))
    record = report.read("tiny")
    assert record.objective is objective and record.student is not None
    for final, (key, result) in zip(record.finalists["final_f"], sorted(ledger.results("final").items()), strict=True):
        assert key.startswith("trial")
        assert final == pytest.approx(f(result["accuracy"], result["params"], result["macs"], accuracy["search"]))


def test_a_study_by_macs(outputs: Path) -> None:
    check_study("macs", outputs)
    with pytest.raises(ConfigError, match="objective: stored 'macs', given 'params'"):
        Study(StudyConfig(**TINY))


def test_a_study_by_an_objective_from_outside(weighted: Objective, outputs: Path) -> None:
    check_study("weighted", outputs)


def test_an_unknown_objective_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"\Aobjective = 'mac' is unknown: allowed are params, macs; did you mean 'ma"
    ):
        StudyConfig(objective="mac")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_ledger_without_an_objective_means_the_papers_s(name: str) -> None:
    stored = StudyConfig(objective=name).to_dict()
    del stored["objective"]
    assert StudyConfig.from_stored(stored).objective == "params"
    assert StudyConfig.from_stored(stored | {"objective": "marginal"}) == StudyConfig(kernel_loss="marginal")


def test_the_sampler_s_targets_are_of_the_config_s_objective(outputs: Path) -> None:
    config = StudyConfig(**TINY, objective="macs")
    sampler = SAMPLERS["esnac"].make(Study(config).space, config)
    assert isinstance(sampler, EsnacSampler) and sampler.objective is OBJECTIVES["macs"]


def test_accuracies_are_read_out_of_f_by_macs() -> None:
    """The regression target is the relative accuracy, whatever size f counts."""
    space = Study(StudyConfig(device="cpu")).space
    maker, rng = CandidateMaker(space), np.random.default_rng(0)
    architectures: list[Architecture] = [space.teacher]
    candidates = [Candidate.of(space.teacher)]
    for _ in range(4):
        decisions = space.sample(rng)
        architectures.append(space.apply(decisions))
        candidates.append(maker.make(decisions))
    relative = np.array([1.0, 0.9, 0.5, 0.7, 0.2])
    teacher = Measurement(0.8, space.teacher.num_params, space.teacher.macs)
    objective = OBJECTIVES["macs"]
    f = [
        objective.value(replace(teacher, accuracy=0.8 * a, params=one.num_params, macs=one.macs), teacher)
        for a, one in zip(relative, architectures, strict=True)
    ]
    target = AccuracyTarget(candidates, f, objective)
    np.testing.assert_allclose(target.targets, (relative - relative.mean()) / relative.std(), rtol=1e-9)
