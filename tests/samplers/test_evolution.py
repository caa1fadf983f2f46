"""Regularised evolution: who may be a parent, what a child is made of, and that it finds something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.tracing import trace
from esnac_lib.samplers.base import Observation, Proposal, Sampler
from esnac_lib.samplers.evolution import EvolutionSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import OPERATORS, SearchSpace
from esnac_lib.teachers import teacher


@lru_cache
def traced(name: str) -> Architecture:
    channels, size = (1, 8) if name == "cnn4" else (3, 32)
    return trace(teacher(name, 10, channels, size, seed=0), torch.zeros(1, channels, size, size))[0]


def space_of(name: str = "cnn4", *operators: str) -> SearchSpace:
    return SearchSpace(traced(name), operators or OPERATORS)


def synthetic_f(space: SearchSpace, decisions: Decisions, student: Architecture) -> float:
    """A stand-in for training: some layers are needed more than others, narrow ones cost, and each skip a little."""
    needed = [(37 * i % 11) / 11 * 0.12 for i in range(len(space.teacher.layers))]
    loss = sum(needed[i] for i in decisions.removed) + 0.25 * sum(r**3 for r in decisions.ratios)
    compression = 1 - student.num_params / space.teacher.num_params
    return compression * (2 - compression) * float(np.exp(-loss - 0.01 * len(decisions.skips)))


def told(space: SearchSpace, proposals: list[Proposal]) -> list[Observation]:
    return [
        Observation(p.decisions, p.architecture, synthetic_f(space, p.decisions, p.architecture)) for p in proposals
    ]


def search(space: SearchSpace, sampler: Sampler, steps: int, n: int) -> np.ndarray:
    """The f of all steps * n proposals, in their order."""
    found: list[float] = []
    for _ in range(steps):
        trials = told(space, sampler.ask(n))
        sampler.tell(trials)
        found += [trial.f for trial in trials if trial.f is not None]
    assert len(found) == steps * n
    return np.array(found)


def searches(space: SearchSpace, make: Callable[[SearchSpace, int], Sampler], steps: int, n: int) -> np.ndarray:
    """The f of four searches: (4, steps * n)."""
    return np.stack([search(space, make(space, seed), steps, n) for seed in range(4)])


def ids(proposals: list[Proposal]) -> list[str]:
    return [p.architecture.arch_id for p in proposals]


@pytest.fixture
def space() -> SearchSpace:
    return space_of()


def test_it_starts_as_random_search(space: SearchSpace) -> None:
    sampler, random = EvolutionSampler(space, 3, population=6), RandomSampler(space, 3)
    for _ in range(2):
        proposals = sampler.ask(3)
        assert ids(proposals) == ids(random.ask(3))
        sampler.tell(told(space, proposals))
        random.tell(told(space, proposals))
    assert ids(sampler.ask(3)) != ids(random.ask(3))


def test_a_trial_without_f_is_no_parent_and_does_not_fill_the_population(space: SearchSpace) -> None:
    sampler, random = EvolutionSampler(space, 3, population=4), RandomSampler(space, 3)
    trials = told(space, random.ask(4))
    trials[1] = replace(trials[1], f=None)
    sampler.tell(trials)
    random.tell(trials)
    assert ids(sampler.ask(2)) == ids(random.ask(2))


class Recording(SearchSpace):
    """A space that notes what it crosses and mutates."""

    def mutate(self, decisions: Decisions, rng: np.random.Generator) -> Decisions:
        self.__dict__.setdefault("mutated", []).append(decisions)
        return super().mutate(decisions, rng)

    def cross(self, a: Decisions, b: Decisions, rng: np.random.Generator) -> Decisions:
        child = super().cross(a, b, rng)
        self.__dict__.setdefault("crossed", []).append((a, b, child))
        return child


def evolved(crossover: float, tournament: int) -> tuple[Recording, list[Observation]]:
    """A space after eight proposals of a sampler that was told the given twelve trials, six of which live."""
    recording = Recording(traced("cnn4"))
    trials = told(recording, RandomSampler(recording, 0).ask(12))
    trials[2] = replace(trials[2], f=2.0)  # the best of all, dead of old age
    sampler = EvolutionSampler(recording, 1, population=6, tournament=tournament, crossover=crossover)
    sampler.tell(trials)
    assert len(sampler.ask(8)) == 8
    return recording, trials


def test_parents_are_among_the_youngest_and_win_a_tournament() -> None:
    recording, trials = evolved(crossover=0.0, tournament=6)
    best = max(trials[6:], key=lambda trial: trial.f or 0.0)
    assert {d.to_json() for d in recording.mutated} == {best.decisions.to_json()}  # all six meet in each tournament

    recording, trials = evolved(crossover=0.0, tournament=2)
    ranked = sorted(trials[6:], key=lambda trial: trial.f or 0.0)
    parents = {d.to_json() for d in recording.mutated}
    assert len(parents) > 1 and parents <= {trial.decisions.to_json() for trial in ranked[1:]}  # the worst never wins


def test_a_crossed_child_is_mutated_too() -> None:
    recording, trials = evolved(crossover=1.0, tournament=3)
    alive = [trial.decisions for trial in trials[6:]]
    assert len(recording.mutated) == len(recording.crossed) >= 8
    for (a, b, child), mutated in zip(recording.crossed, recording.mutated, strict=True):
        assert a in alive and b in alive and mutated == child


def test_random_members_fill_in_where_children_are_all_known(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = EvolutionSampler(space, 1, population=4, crossover=0.0)
    trials = told(space, sampler.ask(4))
    sampler.tell(trials)
    monkeypatch.setattr(space, "mutate", lambda decisions, rng: decisions)
    proposals = sampler.ask(3)
    assert len(proposals) == 3
    assert len({*ids(proposals), *(trial.architecture.arch_id for trial in trials)}) == 7


def test_resumed_at_any_step_it_goes_on_alike(space: SearchSpace) -> None:
    sampler, past = EvolutionSampler(space, 2, population=6), []
    for _ in range(5):
        proposals = sampler.ask(3)
        resumed = EvolutionSampler(space, 2, population=6)
        resumed.tell(past)
        assert ids(resumed.ask(3)) == ids(proposals)
        past += told(space, proposals)
        sampler.tell(past[-3:])


@pytest.mark.parametrize("operators", [OPERATORS, ("remove", "shrink")], ids=",".join)
def test_it_finds_better_students_than_random_search(operators: tuple[str, ...]) -> None:
    space = space_of("cnn4", *operators)
    random, evolution = (searches(space, make, 12, 4) for make in (RandomSampler, EvolutionSampler))
    assert evolution.max(1).mean() > random.max(1).mean() + 0.02
    assert evolution[:, -12:].mean() > random[:, -12:].mean() + 0.1
