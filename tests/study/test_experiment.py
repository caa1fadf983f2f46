"""Experiments: what their studies share is what each would have found alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from esnac_lib.config.experiment import Changes, ExperimentConfig
from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.files import load_weights
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.study.environment import describe_environment
from esnac_lib.study.evaluation_cache import EvaluationCache, content_of
from esnac_lib.study.experiment import Experiment
from esnac_lib.study.study import Study
from esnac_lib.training.progress import Progress

TINY: dict[str, Any] = {
    "study": "tiny", "K": 2, "steps": 2, "epochs": 1, "teacher_epochs": 2, "candidates": 6, "search_images": 300,
    "device": "cpu", "top": 1,
}  # fmt: skip
SAME = ["trial", "step", "arch_id", "state", "accuracy", "f", "error", "decisions", "architecture", "best_epoch"]


class Sizes(ExperimentConfig):
    """Random search in steps of two and of four: the first step of both begins with the same two architectures."""

    def variants(self) -> dict[str, Changes]:
        return {"twos": {"sampler": "random"}, "four": {"sampler": "random", "K": 4, "steps": 1}}


class Quiet(Progress):
    """Says nothing."""

    def note(self, text: str) -> None:
        pass


def experiment(**changes: Any) -> Experiment:
    return Experiment(Sizes(**TINY | changes), Quiet())


def ledger(study: str) -> Ledger:
    return Ledger(study_dir(StudyConfig(study=study)) / "ledger.sqlite", read_only=True)


@pytest.fixture(autouse=True)
def _shared_teachers(tmp_path_factory: pytest.TempPathFactory, outputs: Path) -> None:
    shared = tmp_path_factory.getbasetemp() / "teachers-of-experiments"
    shared.mkdir(exist_ok=True)
    outputs.mkdir()
    (outputs / "teachers").symlink_to(shared)


def test_what_is_looked_up_is_what_training_gives() -> None:
    assert experiment(final="validated", final_epochs=1).run()
    trained, shared = ledger("tiny/twos_seed0"), ledger("tiny/four_seed0")
    assert shared.results("shared") == {
        "trial0000": {"study": "tiny/twos_seed0", "trial": 0},
        "trial0001": {"study": "tiny/twos_seed0", "trial": 1},
    }
    assert not trained.results("shared")
    curves = [source.epochs("search").query("name == 'trial0001'") for source in (trained, shared)]
    pd.testing.assert_frame_equal(*(curve.drop(columns="seconds").reset_index(drop=True) for curve in curves))

    # the slow twin: the same study in no experiment looks nothing up
    shared_with = StudyConfig.from_dict(shared.config)
    Study(StudyConfig.from_dict(shared_with.to_dict() | {"study": "alone"}), Quiet()).run()
    assert not ledger("alone").results("shared")
    pd.testing.assert_frame_equal(ledger("alone").trials()[SAME], shared.trials()[SAME])
    assert ledger("alone").results("solution") == shared.results("solution")


def test_a_student_that_was_looked_up_can_go_into_final_training() -> None:
    """Its weights are trained again, to the bits that the evaluation gave where it was made."""
    experiment(final="validated", final_epochs=1, top=2).run()
    shared = ledger("tiny/four_seed0").results("shared")
    names = [name for name in ledger("tiny/four_seed0").results("final") if name in shared]
    assert names, "with another seed, none of the best two was looked up"
    for name in names:
        here, there = (
            load_weights(study_dir(StudyConfig(study=study)) / "students" / f"trial{trial:04d}.safetensors")
            for study, trial in (("tiny/four_seed0", int(name[5:])), (shared[name]["study"], shared[name]["trial"]))
        )
        assert here.keys() == there.keys() and all((here[key] == there[key]).all() for key in here)


def test_only_the_same_training_on_the_same_machine_is_looked_up() -> None:
    experiment().run()
    study = experiment().config.studies()[0]
    text = ledger(study.study).trials()["architecture"].iloc[0]
    content = content_of(ledger(study.study))
    environment = describe_environment("cpu")

    def found(config: StudyConfig, environment: dict[str, Any], **other: str) -> bool:
        asking = EvaluationCache(study_dir(study).parent / "asks", config, environment, content | other)
        asking.refresh()
        return asking.find(text) is not None

    asking = StudyConfig.from_dict(study.to_dict() | {"study": "tiny/asks"})
    assert found(asking, environment)
    assert found(StudyConfig.from_dict(asking.to_dict() | {"sampler": "esnac", "K": 3, "final_lr": 0.3}), environment)
    for name, value in {"seed": 1, "epochs": 2, "search_images": 301, "batch_size": 16, "validation": 198,
                        "augment": False, "teacher_epochs": 3, "teacher_lr": 0.2, "schedule": "step",
                        "teacher": "conv7", "dataset": "fashion_mnist"}.items():  # fmt: skip
        assert not found(StudyConfig.from_dict(asking.to_dict() | {name: value}), environment), name
    for part in content:
        assert not found(asking, environment, **{part: "another"}), part
    assert not found(asking, environment | {"threads": 7})
    assert not found(asking, environment | {"device": "cuda"})
    assert not found(asking, environment | {"versions": {"torch": "1.0"}})
    assert not found(StudyConfig.from_dict(asking.to_dict() | {"study": "asks"}), environment)  # in no experiment


def test_a_diverged_student_is_looked_up_and_a_fault_of_the_machine_is_not() -> None:
    experiment().run()
    first = study_dir(experiment().studies[0]).parent / "another"
    rows = [ProposalRow(None, f"id{i}", 1, 1, "{}", f'{{"layers": {i}}}', None, None, None, 0.0) for i in range(3)]
    rows.append(ProposalRow(None, "id3", 1, 1, "{}", '{"kind": "dropout"}', None, None, None, 0.0))
    config = experiment().studies[0].to_dict() | {"study": "tiny/another"}
    with Ledger.start(first / "ledger.sqlite", config) as book:
        book.record(0, rows)
        book.fail(0, "diverged", 1.0)
        book.fail(1, "out of memory", 1.0, f=None)
        book.complete(3, 0.9, 0.5, 1, 1.0)  # the third is still waiting
        book.result("fingerprint", "started", {"weights": "these"})
        book.result("teacher", "search", {"weights": "those"})
    environment = describe_environment("cpu")
    (first / "environment.json").write_text(json.dumps(environment))
    asking = EvaluationCache(
        first.parent / "asks", StudyConfig.from_dict(config), environment, {"weights": "these", "trained": "those"}
    )
    asking.refresh()
    diverged = asking.find('{"layers": 0}')
    assert diverged is not None and diverged.accuracy is None and diverged.error == "diverged"
    assert [asking.find(row.architecture) for row in rows[1:]] == [None, None, None]


def test_what_is_finished_is_not_touched_and_what_is_left_is_done() -> None:
    assert experiment(max_minutes=1e-6).run() is False
    assert len(experiment().left) == 2
    assert experiment().run()
    assert repr(experiment()) == "Experiment('tiny': 2 studies, 2 finished)"
    before = {path: path.read_bytes() for path in experiment().folder.rglob("*.*") if path.is_file()}
    assert experiment().run()
    assert before == {path: path.read_bytes() for path in before}
    assert [study.study for study in experiment(runs=2).left] == ["tiny/twos_seed1", "tiny/four_seed1"]


def test_every_study_is_checked_at_once() -> None:
    experiment().run()
    with pytest.raises(ConfigError, match=r"'tiny/twos_seed0' was started with other .* epochs: stored 1, given 2"):
        experiment(epochs=2)
    with pytest.raises(ConfigError, match="top = 5 is out of range"):
        experiment(final="validated", top=5)
    with pytest.raises(ConfigError, match="the name of an experiment has no '/'"):
        experiment(study="a/b")
