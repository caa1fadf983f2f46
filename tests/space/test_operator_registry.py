"""An operator from outside the library: registered, searched with, shown, and taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build, inherit
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.experiment import ExperimentConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, SpaceError
from esnac_lib.report.figures.variants import decisions_made
from esnac_lib.report.records.experiment import ExperimentRecord, decisions_table
from esnac_lib.report.records.study import read
from esnac_lib.samplers.tpe import decisions_of, distributions, parameters_of
from esnac_lib.seeding import make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.base import SubsetOperator, places
from esnac_lib.space.registry import OPERATORS
from esnac_lib.space.search_space import SAMPLINGS, SearchSpace
from esnac_lib.study.plan import make_plan
from esnac_lib.study.study import Study
from esnac_lib.teachers import teacher


class Smooth(SubsetOperator):
    """Replaces ReLUs by sigmoids."""

    name = "smooth"
    column = "smoothed"
    label = "ReLUs smoothed"
    rates: ClassVar = {"paper": (0.3, 0.7), "mild": (0.1,)}

    def choices(self, space: SearchSpace) -> Sequence[int]:
        return [i for i, layer in enumerate(space.teacher.layers) if layer.kind == "relu"]

    def normalise(self, space: SearchSpace, part: frozenset[int], before: Mapping[str, Any]) -> frozenset[int]:
        return super().normalise(space, part, before) - before["remove"]

    def apply(self, space: SearchSpace, architecture: Architecture, part: frozenset[int]) -> Architecture:
        layers, place = list(architecture.layers), places(space.teacher, architecture)
        for i in part:
            layers[place[i]] = replace(layers[place[i]], kind="sigmoid")
        return replace(architecture, layers=tuple(layers))

    def read(self, space: SearchSpace, student: Architecture, here: Mapping[int, int]) -> frozenset[int]:
        return frozenset(i for i in self.choices(space) if i in here and student.layers[here[i]].kind == "sigmoid")

    def may_happen(self, space: SearchSpace) -> dict[int, str]:
        return dict.fromkeys(self.choices(space), "become smooth")


@pytest.fixture(autouse=True)
def operator() -> Iterator[Smooth]:
    yield OPERATORS.register(Smooth())  # type: ignore[misc]
    OPERATORS.unregister("smooth")


@cache
def traced() -> tuple[Architecture, dict[str, torch.Tensor]]:
    return trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))


NAMES = ("remove", "shrink", "smooth")


def test_a_space_draws_and_applies_it() -> None:
    architecture, weights = traced()
    space = SearchSpace(architecture, NAMES)
    relus = OPERATORS["smooth"].choices(space)
    assert space.operators == NAMES and f"{len(relus)} choices of smooth" in repr(space)
    assert space.num_decisions == len(architecture.layers) + len(space.groups) + len(relus)
    rng = make_rng(0, "test")
    for sampling in SAMPLINGS:
        space.sampling = sampling
        a, b = space.sample(rng), space.sample(rng)
        for decisions in (a, b, space.mutate(a, rng), space.cross(a, b, rng)):
            smoothed = set(decisions.part("smooth"))
            assert smoothed <= set(relus) - decisions.removed
            assert space.normalise(decisions) == decisions == Decisions.from_json(decisions.to_json())
            student = space.apply(decisions)
            sigmoids = {layer.name for layer in student.layers if layer.kind == "sigmoid"}
            assert sigmoids == {architecture.layers[i].name for i in smoothed}
            found = space.decisions_of(student)
            assert found is not None and space.apply(found) == student
            assert build(student, inherit(weights, student))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    walk = [space.nothing]
    for _ in range(300):
        walk.append(space.mutate(walk[-1], rng))
    assert {i for decisions in walk for i in decisions.part("smooth")} == set(relus)


def test_candidates_with_it_are_built_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace(traced()[0], NAMES)
    maker, rng, apply = CandidateMaker(space), make_rng(1, "test"), space.apply
    applied: list[Decisions] = []
    monkeypatch.setattr(space, "apply", lambda decisions: applied.append(decisions) or apply(decisions))
    drawn = [space.sample(rng) for _ in range(10)] + [space.nothing]
    for decisions in drawn:
        candidate, student = maker.make(decisions), apply(decisions)
        assert (candidate.arch_id, candidate.num_params) == (student.arch_id, student.num_params)
        assert candidate.macs == student.macs and candidate.key == Candidate.of(student).key
        np.testing.assert_array_equal(candidate.encode(), encode(student))
    assert applied == [decisions for decisions in drawn if decisions.extra]


def test_tpe_tunes_it() -> None:
    space = SearchSpace(traced()[0], NAMES)
    relus = OPERATORS["smooth"].choices(space)
    assert [name for name in distributions(space) if "smooth" in name] == [f"smooth {i}" for i in relus]
    for k in range(10):
        decisions = space.sample(make_rng(2, "test", k))
        assert decisions_of(space, parameters_of(space, decisions)) == decisions


def test_spaces_without_it_are_as_before() -> None:
    architecture, _ = traced()
    space = SearchSpace(architecture)
    assert space.operators == ("remove", "shrink", "skip")
    with_it = [space.sample(make_rng(3, "test", k)) for k in range(5)]
    OPERATORS.unregister("smooth")
    assert [SearchSpace(architecture).sample(make_rng(3, "test", k)) for k in range(5)] == with_it
    foreign = replace(space.nothing, extra={"smooth": {3, 0}})
    assert foreign.to_json().endswith(', "extra": {"smooth": [0, 3]}}') and "extra" not in space.nothing.to_json()
    assert space.normalise(foreign) == space.nothing == replace(foreign, extra={"smooth": ()})
    with pytest.raises(SpaceError, match="smooth"):
        SearchSpace(architecture, NAMES)
    with pytest.raises(ConfigError, match="smooth"):
        StudyConfig(operators="smooth")


@pytest.mark.parametrize("sampler", ["random", "tpe", "n2n"])
def test_a_study_of_two_steps(sampler: str) -> None:
    config = StudyConfig(
        study="smoothing/toy_seed0", sampler=sampler, operators=",".join(NAMES), K=2, steps=2, epochs=1,
        teacher_epochs=1, search_images=64, final="none", device="cpu",
    )  # fmt: skip
    study = Study(config)
    plan = make_plan(study)
    assert "become smooth" in plan.parts.set_index("layer")["may"]["relu1"]
    assert "choices of smooth" in plan.summary.index
    study.run()
    record = read(study.folder)
    decided = [record.decisions(trial) for trial in record.observed["trial"]]
    students = [Architecture.from_json(text).arch_id for text in record.observed["architecture"]]
    assert len(decided) == 4 and [study.space.apply(decisions).arch_id for decisions in decided] == students
    assert any(decisions.extra for decisions in decided) == (sampler != "n2n")  # whose two stages are the paper's

    experiment = ExperimentRecord(study.folder, ExperimentConfig(), {"toy": (record,)})
    table = decisions_table(experiment, {"toy": "toy"})
    assert table["smoothed"].tolist() == [len(decisions.part("smooth")) for decisions in decided]
    labels = [axes.get_xlabel() for axes in decisions_made(experiment, {"toy": "toy"}).axes]
    assert labels == ["layers removed", "filters taken [share]", "connections added", "ReLUs smoothed"]
