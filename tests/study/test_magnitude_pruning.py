"""Magnitude pruning as a baseline: the sizes that are asked for, the largest filters, and the search's own training."""

from __future__ import annotations

import pytest
import torch

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.study.study import Study
from esnac_lib.teachers import teacher
from esnac_lib.training.teacher import TrainedTeacher

pytest.importorskip("torch_pruning", reason="the extra `zoo` is not installed")

from esnac_lib.study.magnitude_pruning import magnitude_pruned, train_pruned

CONFIG = StudyConfig(
    study="narrow", sampler="narrow", K=2, steps=1, epochs=1, search_images=64, teacher_epochs=1, final="none"
)


@pytest.fixture(scope="module")
def trained() -> TrainedTeacher:
    architecture, weights = trace(teacher("resnet20_s2", 10, 1, 28, seed=0), torch.zeros(1, 1, 28, 28))
    return TrainedTeacher("search", architecture, weights, 0.9, ())


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_the_size_is_met_and_the_network_works(trained: TrainedTeacher, share: float) -> None:
    wanted = int(share * trained.architecture.num_params)
    architecture, weights = magnitude_pruned(trained, wanted)
    assert abs(architecture.num_params / wanted - 1) < 0.05
    assert build(architecture, weights)(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert len(architecture.layers) == len(trained.architecture.layers)


def test_the_largest_filters_stay() -> None:
    """A stem whose filters grow in magnitude: what is left of it are the last ones, in their order."""
    architecture, weights = trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))
    growing = torch.linspace(0.01, 3, len(weights["conv1.weight"]))
    weights = dict(weights) | {"conv1.weight": torch.ones_like(weights["conv1.weight"]) * growing[:, None, None, None]}
    pruned, left = magnitude_pruned(TrainedTeacher("search", architecture, weights, 0.9, ()), 40_000)
    kept = left["conv1.weight"][:, 0, 0, 0]
    assert pruned.layers[0].channels == len(kept) < 32 and torch.equal(kept, growing[-len(kept) :])


def test_it_is_trained_and_kept_beside_the_students_once() -> None:
    study = Study(CONFIG)
    with pytest.raises(ConfigError, match="has not been run"):
        train_pruned([CONFIG])
    study.run()
    train_pruned([CONFIG])
    ledger = Ledger(study.ledger_path, read_only=True)
    results, trials = ledger.results("pruned"), ledger.trials()
    assert sorted(results) == ["pruned0000", "pruned0001"]
    accuracy = ledger.results("teacher")["search"]["accuracy"]
    for key, value in results.items():
        architecture = Architecture.from_json(value["architecture"])
        assert value["params"] == architecture.num_params
        assert value["f"] == PAPERS.value(
            Measurement(value["accuracy"], value["params"]), Measurement(accuracy, study.space.teacher.num_params)
        )
        asked = int(trials.loc[int(key[-4:]), "params"])
        assert abs(value["params"] - asked) < 0.1 * asked
    assert list(ledger.epochs("pruned")["name"]) == sorted(results)
    before = study.ledger_path.read_bytes()
    train_pruned([CONFIG])
    assert study.ledger_path.read_bytes() == before
