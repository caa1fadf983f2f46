"""TPE in the original space, one hyperparameter a decision (ESNAC §6.4), through Optuna's ask and tell.

>>> TpeSampler(space, seed)                                              # the classic form: every parameter by itself
>>> TpeSampler(space, seed, multivariate=True, constant_liar=True)       # what Optuna does by default today
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from esnac_lib.architecture.graph import INPUT
from esnac_lib.config.comparison import DASHED, ONE_BY_ONE, Variant
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry
from esnac_lib.samplers.random import random_proposals
from esnac_lib.samplers.unseen import Unseen
from esnac_lib.seeding import derive_seed
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

MAX_ASKS = 20  # of Optuna for one proposal; a random member of the space fills in if all of them bring nothing new


class TpeSampler:
    """Tree-structured Parzen estimators (Bergstra et al., 2011) over the decisions of a space.

    multivariate: one estimator for all parameters together, so that it sees how they interact, instead of one for each.
    constant_liar: proposals not observed yet count as bad, so that the proposals of one step differ. Both are on in
    Optuna's default form, both off in the classic one. (Optuna's `group` would change nothing: every trial has every
    parameter.) startup: random trials before the first estimate, uniform over the parameters as Optuna draws them:
    half of all layers removed and half of all pairs connected (the paper found "too many skip connections" in them).

    Optuna stores nothing: each `ask` makes a study in memory from the observations, and seeds it by their
    number, so a resumed study draws what it would have drawn.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        multivariate: bool = False,
        constant_liar: bool = False,
        startup: int = 10,
    ) -> None:
        self.space = space
        self.seed = seed
        self.multivariate = multivariate
        self.constant_liar = constant_liar
        self.startup = startup
        self.distributions = distributions(space)
        self._observations: list[Observation] = []
        self._finished: list[optuna.trial.FrozenTrial] = []

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals. For one that is not new, Optuna is asked again."""
        study, unseen = self._study(), Unseen(self.space, self._observations)
        proposals: list[Proposal] = []
        for _ in range(n):
            suggested = next(unseen.among(self._suggestions(study)), None)
            if suggested is None:  # many suggestions brought nothing new
                fill = random_proposals(self.space, self.seed, self._observations, 1, proposals)
                suggested = next(unseen.among(proposal.decisions for proposal in fill), None)
            if suggested is None:
                break
            proposals.append(suggested)
        return proposals

    def tell(self, trials: Sequence[Observation]) -> None:
        """Learn about finished trials. Their parameters are those of their (normalised) decisions."""
        self._observations.extend(trials)
        self._finished += [
            optuna.trial.create_trial(
                value=trial.f,
                params=parameters_of(self.space, trial.decisions),
                distributions=self.distributions,
            )
            for trial in trials
            if trial.f is not None
        ]

    def _study(self) -> optuna.Study:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.startup,
            seed=derive_seed(self.seed, "tpe", len(self._observations)) % 2**32,
            multivariate=self.multivariate,
            constant_liar=self.constant_liar,
        )
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line for each study that is made
        try:
            study = optuna.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        study.add_trials(self._finished)
        return study

    def _suggestions(self, study: optuna.Study) -> Iterator[Decisions]:
        """Yield what Optuna proposes, a bounded number of times; it learns that all but the last have failed."""
        for _ in range(MAX_ASKS):
            trial = study.ask(self.distributions)
            yield decisions_of(self.space, trial.params)
            study.tell(trial, state=TrialState.FAIL)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One parameter a decision, `space.num_decisions` of them, by name.

    As in the paper's counts there is one for every layer of the teacher: those of layers that must stay change nothing.
    """
    choice = CategoricalDistribution((False, True))
    found: dict[str, BaseDistribution] = {}
    if "remove" in space.operators:
        found |= {_removal(i): choice for i in range(len(space.teacher.layers))}
    if "shrink" in space.operators:
        found |= {_ratio(g): FloatDistribution(0.0, _largest_ratio(space, g)) for g in range(len(space.groups))}
    if "skip" in space.operators:
        found |= {_skip(i, j): choice for i, j in space.connectable}
    return found


def decisions_of(space: SearchSpace, parameters: dict[str, Any]) -> Decisions:
    """The decisions, in one form and within the limits, that a set of parameters stands for.

    An operator that the space lacks does nothing.
    """
    removed = frozenset(i for i in range(len(space.teacher.layers)) if parameters.get(_removal(i)))
    ratios = tuple(float(parameters.get(_ratio(g), 0.0)) for g in range(len(space.groups)))
    skips = frozenset((i, j) for i, j in space.connectable if parameters.get(_skip(i, j)))
    return space.within(Decisions(removed, ratios, skips))


def parameters_of(space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
    """The parameters that stand for some decisions, such that `decisions_of` gives them back, normalised.

    A skip that starts at the network's input is no parameter: it came from a pair whose first layer was removed, and
    that pair stands for it. (Decisions that no parameters give, such as such a skip without such a layer, lose it.)
    """
    decisions = space.normalise(decisions)
    found: dict[str, Any] = {}
    if "remove" in space.operators:
        found |= {_removal(i): i in decisions.removed for i in range(len(space.teacher.layers))}
    if "shrink" in space.operators:
        found |= {_ratio(g): min(ratio, _largest_ratio(space, g)) for g, ratio in enumerate(decisions.ratios)}
    if "skip" in space.operators:
        skips = {(i, j) for i, j in decisions.skips if i != INPUT}
        skips |= {_stand_in(space, decisions, j) for i, j in decisions.skips if i == INPUT}
        found |= {_skip(i, j): (i, j) in skips for i, j in space.connectable}
    return found


def _stand_in(space: SearchSpace, decisions: Decisions, target: int) -> tuple[int, int]:
    """A pair of layers that normalises to a skip from the input into `target`, and to no skip that is not there."""
    for i, j in space.connectable:
        if j == target and i in decisions.removed:
            skips = space.normalise(Decisions(decisions.removed, decisions.ratios, frozenset({(i, j)}))).skips
            if (INPUT, target) in skips and skips <= decisions.skips:
                return i, j
    return INPUT, target


def _largest_ratio(space: SearchSpace, group: int) -> float:
    """Optuna's ranges include their upper end, ours does not."""
    return float(np.nextafter(space.groups[group].max_ratio, 0.0))


def _removal(layer: int) -> str:
    return f"remove {layer}"


def _ratio(group: int) -> str:
    return f"ratio {group}"


def _skip(source: int, target: int) -> str:
    return f"skip {source} {target}"


CLASSIC = SamplerEntry(
    "tpe",
    "TPE",
    "#56B4E9",
    lambda space, config: TpeSampler(space, config.seed),
    variants=(Variant("tpe", "TPE", ONE_BY_ONE),),
)
MULTIVARIATE = SamplerEntry(
    "tpe_multivariate",
    "TPE, multivariate",
    "#56B4E9",
    lambda space, config: TpeSampler(space, config.seed, multivariate=True, constant_liar=True),
    linestyle=DASHED,
    variants=(Variant("tpe_multivariate", "TPE, multivariate", ONE_BY_ONE),),
)
