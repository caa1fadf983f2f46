"""The experiments' parameters: which studies they stand for, what is refused, and the papers' protocols in params/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from esnac_lib.config.base import names_in
from esnac_lib.config.experiment import ExperimentConfig
from esnac_lib.config.paper import AblationsConfig, N2nConfig, ShufflenetConfig, TpeConfig, TransferConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError

PARAMS = Path(__file__).resolve().parents[2] / "params"
CLASSES: list[type[ExperimentConfig]] = [AblationsConfig, ShufflenetConfig, TransferConfig, TpeConfig, N2nConfig]


def refusal(kind: type[ExperimentConfig], **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def studies(config: ExperimentConfig) -> dict[str, StudyConfig]:
    return {study.study.split("/")[1]: study for study in config.studies()}


def paper(name: str, kind: type[ExperimentConfig]) -> Any:
    return kind.from_dict(yaml.safe_load((PARAMS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_studies_differ_and_tables_name_them(kind: type[ExperimentConfig]) -> None:
    config = kind(runs=2)
    found = config.studies()
    assert len({study.study for study in found}) == len(found) == 2 * len(config.variants())
    for i, one in enumerate(found):
        for other in found[:i]:
            assert one.difference(other), "two variants are the same study"
    assert [study.seed for study in found] == sorted(study.seed for study in found), "not run by run"
    in_tables = {variant for rows in config.tables().values() for variant in rows.values()}
    assert in_tables - set(config.variants()) == set()
    assert set(config.variants()) - in_tables <= {"source"}
    for variant in config.variants():
        assert config.study_names(variant) == [study.study for study in found if f"/{variant}_seed" in study.study]


def test_the_ablations_change_one_thing_each() -> None:
    config = AblationsConfig(K=8, steps=2, kernels="1,2,4,8,16")
    base = studies(config)["K8_seed0"]
    changed = {
        name: {key for key, _, _ in study.difference(base)} for name, study in studies(config).items() if study != base
    }
    assert changed == {
        "K1_seed0": {"K", "steps"}, "K2_seed0": {"K", "steps"}, "K4_seed0": {"K", "steps"}, "K16_seed0": {"K", "steps"},
        "remove_seed0": {"operators"}, "remove_shrink_seed0": {"operators"},
        "evolution_K1_seed0": {"K", "steps", "acquisition"}, "evolution_K8_seed0": {"acquisition"},
        "marginal_seed0": {"kernel_loss"}, "euclidean_seed0": {"kernel_loss"},
    }  # fmt: skip
    assert {study.num_evaluations for study in studies(config).values()} == {16}
    assert list(AblationsConfig(parts="objective,kernels", kernels="4").tables()) == ["kernels", "objective"]
    assert list(AblationsConfig(parts="objective").variants()) == ["euclidean", "marginal", "K4"]
    assert AblationsConfig().maximiser_counts == (2, 4, 8)


def test_what_is_varied_cannot_be_given() -> None:
    assert "this experiment varies 'kernel_loss' by itself" in refusal(AblationsConfig, kernel_loss="marginal")
    assert "this experiment varies 'teacher' by itself" in refusal(ShufflenetConfig, teacher="conv7")
    assert "this experiment varies 'operators' by itself" in refusal(TpeConfig, operators="remove")


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (AblationsConfig, {"parts": "kernel"}, "did you mean 'kernels'?"),
        (AblationsConfig, {"kernels": "3"}, "3 is not allowed; numbers that divide K * steps = 8"),
        (AblationsConfig, {"kernels": "1,x"}, "'x' is not allowed; whole numbers from 1"),
        (AblationsConfig, {"observations": ""}, "whole numbers from 1"),
        (AblationsConfig, {"k": 3}, "the nearest known one is 'K'"),
        (TransferConfig, {"targets": "resnet18"}, "not of the form <teacher>@<data set>"),
        (TransferConfig, {"targets": "resnet99@digits"}, "did you mean 'resnet"),
        (TransferConfig, {"kernels": "0"}, "'0' is not allowed"),
        (ShufflenetConfig, {"originals": "cnn4"}, "'cnn4' is among the teachers"),
        (ShufflenetConfig, {"originals": "shufflenet_2x"}, "originals = 'shufflenet_2x': 'shufflenet_2x' is unknown"),
        (ShufflenetConfig, {"final": "none"}, "allowed are validated, paper"),
        (N2nConfig, {"runs": 0}, "runs = 0 is out of range"),
    ],
)
def test_mistakes_are_told_in_one_line(kind: type[ExperimentConfig], values: dict[str, Any], says: str) -> None:
    assert says in refusal(kind, **values)


def test_kernels_go_from_the_source_of_the_same_seed() -> None:
    config = TransferConfig(runs=2, top=2, final="validated")
    found = studies(config)
    assert found["conv7_half_digits_transfer_K4_seed1"].source == "kernel_transfer/source_seed1"
    assert (found["conv7_half_digits_transfer_K1_seed0"].num_evaluations, found["source_seed0"].num_evaluations) == (
        1,
        8,
    )
    assert found["conv7_half_digits_transfer_K1_seed0"].top == 1
    assert found["resnet20_s2_digits_n2n_seed0"].teacher == "resnet20_s2"
    order = [study.study for study in config.studies()]
    assert order.index("kernel_transfer/source_seed1") < order.index(
        "kernel_transfer/conv7_half_digits_transfer_K1_seed1"
    )


def test_the_originals_get_the_final_training_of_the_students() -> None:
    config = ShufflenetConfig(final_epochs=7, final_lr=0.02)
    for study in config.original_studies():
        assert (study.teacher_epochs, study.teacher_lr, study.schedule) == (7, 0.02, config.schedule)
    kept = ShufflenetConfig(originals_recipe="teacher").original_studies()[0]
    assert (kept.teacher_epochs, kept.teacher_lr) == (ShufflenetConfig().teacher_epochs, ShufflenetConfig().teacher_lr)
    assert [study.study for study in config.original_studies()] == [
        "shufflenet_comparison/shufflenet_0.5x_g1_seed0",
        "shufflenet_comparison/shufflenet_0.5x_g8_seed0",
    ]


def test_the_papers_protocols() -> None:
    """Twenty steps of eight kernels, three runs, the four best trained finally (published.yaml, protocol)."""
    ablations = paper("ablations_cifar100_resnet34", AblationsConfig)
    tables = ablations.tables()
    assert list(tables["kernels"]) == ["K = 1", "K = 2", "K = 4", "K = 8", "K = 16"]
    found = studies(ablations)
    assert {(name, study.K, study.steps) for name, study in found.items() if name.startswith("K")} == {
        (f"K{k}_seed{run}", k, 160 // k) for k in (1, 2, 4, 8, 16) for run in range(3)
    }
    for config in (
        ablations,
        paper("shufflenet_cifar100", ShufflenetConfig),
        paper("tpe_cifar100_resnet34", TpeConfig),
        paper("n2n_cifar10_vgg19", N2nConfig),
        paper("transfer_cifar10_resnet18", TransferConfig),
    ):
        assert (config.runs, config.K, config.steps, config.epochs, config.top, config.validation) == (
            3,
            8,
            20,
            10,
            4,
            5000,
        )
    assert len(paper("shufflenet_cifar100", ShufflenetConfig).original_studies()) == 30
    transfer = studies(paper("transfer_cifar10_resnet18", TransferConfig))
    assert transfer["resnet18_cifar100_transfer_K8_seed2"].source == "transfer_cifar10_resnet18/source_seed2"


def test_names_in_a_text() -> None:
    assert names_in(" a,b ,,c,") == ("a", "b", "c") and names_in("") == ()
