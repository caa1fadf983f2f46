"""TPE: one parameter a decision, Optuna as a proposer that stores nothing, both of its forms."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from graphs import architectures
from hypothesis import given, settings
from hypothesis import strategies as st
from samplers.test_evolution import ids, searches, space_of, told

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.samplers import tpe
from esnac_lib.samplers.base import Observation
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.tpe import MAX_ASKS, TpeSampler, decisions_of, distributions, parameters_of
from esnac_lib.seeding import derive_seed
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import OPERATORS, SearchSpace

FORMS: dict[str, dict[str, Any]] = {
    "classic": {},
    "default": {"multivariate": True, "constant_liar": True},
}


@pytest.fixture
def space() -> SearchSpace:
    return space_of()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[request.param]


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "without", "skips"), [("resnet18", 64, 529), ("resnet34", 112, 1717)])
def test_the_paper_s_numbers_of_hyperparameters(name: str, without: int, skips: int) -> None:
    for operators, number in ((("remove", "shrink"), without), (OPERATORS, skips)):
        space = space_of(name, *operators)
        study = TpeSampler(space, 0)._study()
        assert len(study.ask(distributions(space)).params) == number == space.num_decisions


@pytest.mark.parametrize("operators", [("remove",), ("shrink",), ("skip",), ("shrink", "skip"), OPERATORS])
def test_a_space_with_fewer_operators_has_fewer_parameters(operators: tuple[str, ...]) -> None:
    space = space_of("cnn4", *operators)
    assert len(distributions(space)) == space.num_decisions
    sampler = TpeSampler(space, 0)
    assert [p.decisions for p in sampler.ask(2)] == [space.normalise(p.decisions) for p in sampler.ask(2)]


def test_ratios_stay_below_the_largest_that_is_drawn() -> None:
    space = space_of("shufflenet", "shrink")
    assert [group.max_ratio for group in space.groups] == [0.9] * 4
    for distribution in distributions(space).values():
        assert isinstance(distribution, optuna.distributions.FloatDistribution)
        assert distribution.low == 0 and 0.8999 < distribution.high < 0.9
    extreme = parameters_of(space, Decisions(frozenset(), (0.95,) * 4, frozenset()))
    assert all(distribution.high == extreme[name] for name, distribution in distributions(space).items())


@settings(max_examples=60)
@given(architectures(), st.integers(0, 2**32), st.sampled_from((0.02, 0.3, 1.0)))
def test_decisions_survive_being_parameters(architecture: Architecture, seed: int, density: float) -> None:
    space, rng = SearchSpace(architecture), np.random.default_rng(seed)
    raw = {
        name: bool(rng.random() < density) if "ratio" not in name else rng.random() * distribution.high
        for name, distribution in distributions(space).items()
    }
    decisions = decisions_of(space, raw)
    again = parameters_of(space, decisions)
    assert again.keys() == raw.keys()
    assert decisions_of(space, again) == decisions


def test_a_skip_from_the_input_is_told_by_the_removed_layer_it_came_from() -> None:
    """Three ReLUs on the input, then a head: a skip out of a removed first ReLU starts at the input."""
    relus = [Layer(f"relu{i}", "relu", (slot(i - 1),)) for i in range(3)]
    head = [Layer("flat", "flatten", (slot(2),)), Layer("fc", "linear", (slot(3),), 3)]
    space = SearchSpace(Architecture((*relus, *head), (1, 4, 4), slot(4)))
    raw = dict.fromkeys(distributions(space), False) | {"remove 0": True, "skip 0 2": True}
    decisions = decisions_of(space, raw)
    assert decisions == Decisions(frozenset({0}), (), frozenset({(INPUT, 2)}))
    assert parameters_of(space, decisions) == raw
    orphan = Decisions(frozenset(), (), frozenset({(INPUT, 2)}))  # relu0 is there, so no parameters give this
    assert decisions_of(space, parameters_of(space, orphan)) == space.nothing


def test_the_layer_told_brings_no_skip_that_is_not_there() -> None:
    """Of two removed layers, the first read the input and another layer; only the second read the input alone."""
    reads = [slot(INPUT), slot(INPUT, 0), slot(INPUT), slot(1, 2), slot(3)]
    relus = [Layer(f"relu{i}", "relu", (read,)) for i, read in enumerate(reads)]
    head = [Layer("flat", "flatten", (slot(4),)), Layer("fc", "linear", (slot(5),), 3)]
    space = SearchSpace(Architecture((*relus, *head), (1, 4, 4), slot(6)))
    decisions = Decisions(frozenset({1, 2}), (), frozenset({(INPUT, 4)}))
    raw = parameters_of(space, decisions)
    assert raw["skip 2 4"] and not raw["skip 1 4"]
    assert decisions_of(space, raw) == decisions


def test_removing_a_layer_that_must_stay_changes_nothing(space: SearchSpace) -> None:
    fixed = [i for i in range(len(space.teacher.layers)) if i not in space.removable]
    raw = parameters_of(space, space.nothing)
    assert fixed and decisions_of(space, raw | {f"remove {i}": True for i in fixed}) == space.nothing


# -- asking and telling ------------------------------------------------------------------------------------------------


def test_it_proposes_what_an_optuna_study_of_its_own_would(space: SearchSpace, form: dict[str, Any]) -> None:
    """The slow twin: trials enqueued, asked and told one by one in one study, then a sampler of the same seed."""
    trials = told(space, RandomSampler(space, 4).ask(14))
    sampler = TpeSampler(space, 9, **form)
    sampler.tell([*trials[:5], Observation(trials[5].decisions, trials[5].architecture, None), *trials[6:]])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for trial in [*trials[:5], *trials[6:]]:
        study.enqueue_trial(parameters_of(space, trial.decisions))
        asked = study.ask(distributions(space))
        study.tell(asked, trial.f)
    study.sampler = optuna.samplers.TPESampler(
        seed=derive_seed(9, "tpe", 14) % 2**32, multivariate=bool(form), constant_liar=bool(form)
    )
    expected: dict[str, Decisions] = {}
    while len(expected) < 3:
        decisions = decisions_of(space, study.ask(distributions(space)).params)
        expected.setdefault(space.apply(decisions).arch_id, decisions)
    assert {p.architecture.arch_id: p.decisions for p in sampler.ask(3)} == expected


def test_the_default_form_is_optuna_s_default(space: SearchSpace) -> None:
    mine, theirs = TpeSampler(space, 0, **FORMS["default"])._study().sampler, optuna.samplers.TPESampler()
    assert isinstance(mine, optuna.samplers.TPESampler)
    study = optuna.create_study()
    assert mine._is_multivariate(study) is theirs._is_multivariate(study) is True
    assert mine._constant_liar is theirs._constant_liar is True
    assert mine._group is theirs._group is False
    assert mine._n_startup_trials == theirs._n_startup_trials


def test_the_number_of_trials_told_changes_the_draws(space: SearchSpace, form: dict[str, Any]) -> None:
    """Optuna's own trap: a sampler of the same seed would draw its first proposals again after a restart."""
    sampler = TpeSampler(space, 0, **form)
    draws = []
    for _ in range(3):
        draws.append(sampler._study().ask(sampler.distributions).params)
        trials = told(space, sampler.ask(2))
        sampler.tell([Observation(trial.decisions, trial.architecture, None) for trial in trials])  # also without any f
    assert all(a != b for a, b in pairwise(draws))


def test_resumed_at_any_step_it_goes_on_alike(space: SearchSpace, form: dict[str, Any]) -> None:
    sampler, past = TpeSampler(space, 2, **form), []
    for step in range(6):
        proposals = sampler.ask(4)
        resumed = TpeSampler(space, 2, **form)
        resumed.tell(past)
        assert ids(resumed.ask(4)) == ids(proposals)
        past += told(space, proposals)
        if step == 2:
            past[-1] = Observation(past[-1].decisions, past[-1].architecture, None)
        sampler.tell(past[-4:])


def test_proposals_of_one_step_know_of_each_other_with_the_constant_liar(space: SearchSpace) -> None:
    trials = told(space, RandomSampler(space, 4).ask(12))

    def asked(constant_liar: bool) -> list[str]:
        sampler = TpeSampler(space, 0, multivariate=True, constant_liar=constant_liar)
        sampler.tell(trials)
        return ids(sampler.ask(4))

    with_liar, without = asked(True), asked(False)
    assert with_liar[0] == without[0]
    assert with_liar[1:] != without[1:]


def test_known_architectures_are_asked_for_again_and_then_random_ones_fill_in(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = RandomSampler(space, 7).ask(3)
    drawn: list[Decisions] = []

    def stubborn(space: SearchSpace, parameters: dict[str, Any]) -> Decisions:
        drawn.append(known[len(drawn) % 3].decisions if len(drawn) % 4 else space.nothing)
        return drawn[-1]

    sampler = TpeSampler(space, 0)
    sampler.tell(told(space, known[:2]))
    monkeypatch.setattr(tpe, "decisions_of", stubborn)
    proposals = sampler.ask(4)
    assert ids(proposals)[0] == known[2].architecture.arch_id  # the only new one
    assert len(drawn) == 3 + 3 * MAX_ASKS  # index 2 is the new one's
    assert len({space.teacher.arch_id, *ids(known), *ids(proposals)}) == 7  # the other three are random


def test_optuna_says_nothing_and_keeps_its_settings(space: SearchSpace, capfd: pytest.CaptureFixture[str]) -> None:
    before, state = optuna.logging.get_verbosity(), np.random.get_state()[1].copy()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    sampler = TpeSampler(space, 0, **FORMS["default"])
    sampler.tell(told(space, sampler.ask(12)))
    sampler.ask(2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    optuna.logging.set_verbosity(before)
    assert (np.random.get_state()[1] == state).all()


def test_it_finds_better_students_than_random_search(form: dict[str, Any]) -> None:
    """Without skips: with them, half of all pairs connected is where TPE starts, as in the paper."""
    space = space_of("cnn4", "remove", "shrink")
    random = searches(space, RandomSampler, 12, 4)
    found = searches(space, lambda space, seed: TpeSampler(space, seed, **form), 12, 4)
    assert found.max(1).mean() > random.max(1).mean() + 0.005
    assert found[:, -12:].mean() > random[:, -12:].mean() + 0.1
