"""One contract for every sampler, on the real space of a small teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, SpaceError
from esnac_lib.samplers.base import Observation, Proposal, Sampler
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.evolution import EvolutionSampler
from esnac_lib.samplers.n2n import N2nSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.samplers.tpe import TpeSampler
from esnac_lib.samplers.transfer import TransferSampler
from esnac_lib.samplers.width_scaling import NarrowSampler
from esnac_lib.space.decisions import Limits
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import Kernel
from esnac_lib.teachers import teacher

QUICK = KernelSettings(max_steps=6)


@cache
def learned_elsewhere() -> tuple[Kernel, ...]:
    """Two kernels of a study of another teacher."""
    space = SearchSpace(trace(teacher("conv7", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])
    source = EsnacSampler(space, 7, QUICK)
    source.tell(observed(RandomSampler(space, 7).ask(6)))
    return tuple(source.kernels(2))


def small(name: str) -> StudyConfig:
    return StudyConfig(
        sampler=name,
        K=3,
        steps=4,
        candidates=12,
        final="none",
        source="source" if "source" in SAMPLERS[name].uses else "",
    )


Make = Callable[[SearchSpace, int], Sampler]


def registered(name: str) -> Make:
    """The sampler as a study makes it."""

    def make(space: SearchSpace, seed: int) -> Sampler:
        return SAMPLERS[name].make(space, StudyConfig.from_dict({**small(name).to_dict(), "seed": seed}))

    return make


MADE: dict[str, Make] = {
    "tpe-started": lambda space, seed: TpeSampler(space, seed, startup=3),
    "tpe-multivariate-started": lambda space, seed: TpeSampler(space, seed, True, True, startup=3),
    "n2n-shrinks": lambda space, seed: N2nSampler(space, seed, evaluations=6),
    "transfer-evolution": lambda space, seed: TransferSampler(
        space, seed, learned_elsewhere(), "evolution", candidates=12
    ),
    "evolution-bred": lambda space, seed: EvolutionSampler(space, seed, population=3, tournament=2),
    "evolution-narrowed": lambda space, seed: EvolutionSampler(
        space, seed, population=3, tournament=2, first="narrowed"
    ),
    "esnac-evolution": lambda space, seed: EsnacSampler(space, seed, QUICK, "evolution", candidates=12),
    "esnac-narrowed": lambda space, seed: EsnacSampler(space, seed, QUICK, candidates=12, first="narrowed"),
    "esnac-accuracy": lambda space, seed: EsnacSampler(
        space, seed, QUICK, "local", candidates=12, surrogate="accuracy"
    ),
    "esnac-marginal": lambda space, seed: EsnacSampler(space, seed, replace(QUICK, objective="marginal"), candidates=8),
    "esnac-euclidean": lambda space, seed: EsnacSampler(
        space, seed, replace(QUICK, objective="euclidean"), candidates=8
    ),
}
"""Forms that a small study would not reach."""
CASES: dict[str, Make] = {name: registered(name) for name in SAMPLERS} | MADE


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study "source" has kernels; no kernel learns for long."""
    monkeypatch.setattr(KernelSettings.__init__, "__defaults__", tuple(vars(QUICK).values()))
    monkeypatch.setattr("esnac_lib.samplers.source_kernels.source_kernels", lambda *_: list(learned_elsewhere()))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


@pytest.fixture(params=CASES)
def make(request: pytest.FixtureRequest) -> Make:
    return CASES[request.param]


def worth(proposal: Proposal) -> float:
    """A stand-in for training: any fixed function of the architecture."""
    return int(proposal.architecture.arch_id[:6], 16) / 16**6


def observed(proposals: list[Proposal]) -> list[Observation]:
    return [Observation(p.decisions, p.architecture, worth(p)) for p in proposals]


def ids(proposals: list[Proposal]) -> list[str]:
    return [p.architecture.arch_id for p in proposals]


def test_proposes_only_new_members_of_the_space(space: SearchSpace, make: Make) -> None:
    sampler = make(space, 3)
    seen: set[str] = {space.teacher.arch_id}
    for _ in range(3):
        proposals = sampler.ask(3)
        assert len(proposals) == 3
        for proposal in proposals:
            assert space.contains(proposal.architecture)
            assert space.apply(proposal.decisions).arch_id == proposal.architecture.arch_id
            assert proposal.architecture.arch_id not in seen
            seen.add(proposal.architecture.arch_id)
        sampler.tell(observed(proposals))


def test_the_same_seed_asks_the_same_and_another_seed_something_else(space: SearchSpace, make: Make) -> None:
    def history(seed: int) -> list[str]:
        sampler, found = make(space, seed), []
        for _ in range(2):
            proposals = sampler.ask(2)
            sampler.tell(observed(proposals))
            found += ids(proposals)
        return found

    assert history(5) == history(5)
    assert history(5) != history(6)


def test_with_the_same_observations_it_continues_as_if_it_had_never_stopped(space: SearchSpace, make: Make) -> None:
    sampler = make(space, 1)
    first = sampler.ask(3)
    sampler.tell(observed(first))
    second = sampler.ask(3)
    sampler.tell(observed(second))
    going_on = sampler.ask(3)

    resumed = make(space, 1)
    resumed.tell(observed(first + second))
    again = resumed.ask(3)
    assert ids(again) == ids(going_on)
    assert [p.mean for p in again] == [p.mean for p in going_on]


def test_asking_twice_gives_the_same(space: SearchSpace, make: Make) -> None:
    sampler = make(space, 1)
    assert ids(sampler.ask(2)) == ids(sampler.ask(2))


def test_a_fault_of_the_machine_is_no_observation_but_is_not_proposed_again(space: SearchSpace, make: Make) -> None:
    sampler = make(space, 2)
    first = sampler.ask(3)
    sampler.tell([*observed(first[:2]), Observation(first[2].decisions, first[2].architecture, None)])
    assert first[2].architecture.arch_id not in ids(sampler.ask(3))


def test_an_exhausted_space_ends(make: Make) -> None:
    conv = Layer("conv", "conv", (slot(INPUT),), channels=2, attrs={"kernel_size": 3, "padding": 1})
    rest = [
        Layer("relu", "relu", (slot(0),)),
        Layer("flat", "flatten", (slot(1),)),
        Layer("fc", "linear", (slot(2),), 3),
    ]
    small = SearchSpace(Architecture((conv, *rest), (1, 4, 4), slot(3)), operators=("remove",))
    assert len(small.removable) == 1  # so there is one student: without the ReLU
    if make is CASES["narrow"]:  # which cannot do without shrinking
        with pytest.raises(SpaceError, match="add shrink to the operators"):
            make(small, 0).ask(4)
        return
    sampler = make(small, 0)
    proposals = sampler.ask(4)
    assert len(proposals) == 1
    sampler.tell(observed(proposals))
    assert sampler.ask(4) == []


def test_esnac_predicts_before_it_observes(space: SearchSpace) -> None:
    sampler = EsnacSampler(space, 0, QUICK, "random", candidates=12)
    first = sampler.ask(4)
    assert all(p.kernel is None and p.mean is None and p.ei is None for p in first)
    sampler.tell(observed(first))
    second = sampler.ask(4)
    assert [p.kernel for p in second] == [0, 1, 2, 3]
    for p in second:
        assert p.mean is not None and p.variance is not None and p.ei is not None
        assert p.variance > QUICK.noise  # the predictive variance includes observation noise
        assert p.ei >= 0


def test_every_kernel_has_the_teacher_and_may_have_nothing_else(space: SearchSpace) -> None:
    sampler = EsnacSampler(space, 0, replace(QUICK, subset_probability=0.0), candidates=5)
    sampler.tell(observed(RandomSampler(space, 0).ask(4)))
    [kernel] = sampler.kernels(1)
    assert kernel.f.tolist() == [0.0]
    assert len(sampler.ask(2)) == 2


@pytest.mark.parametrize("name", CASES)
def test_limits_are_kept_or_refused(space: SearchSpace, name: str) -> None:
    if name in SAMPLERS:
        try:
            StudyConfig.from_dict({**small(name).to_dict(), "max_params": 1000})
        except ConfigError as refused:
            assert "keeps no limits" in str(refused)
            return
    elif name.startswith("n2n"):
        return
    limits = Limits(max_params=space.teacher.num_params // 3)
    limited = SearchSpace(space.teacher, limits=limits)
    sampler = CASES[name](limited, 3)
    for _ in range(2):
        proposals = sampler.ask(3)
        assert proposals
        assert all(limits.allow(proposal.architecture) for proposal in proposals)
        sampler.tell(observed(proposals))


def test_a_search_that_starts_from_narrowed_teachers(space: SearchSpace) -> None:
    sampler = EsnacSampler(space, 3, QUICK, candidates=12, first="narrowed")
    first = sampler.ask(3)
    assert ids(first) == ids(NarrowSampler(space, 3).ask(3))
    sampler.tell(observed(first))
    assert [proposal.kernel for proposal in sampler.ask(3)] == [0, 1, 2]
