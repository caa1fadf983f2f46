"""TPE in the original space, one hyperparameter a decision (ESNAC §6.4), through Optuna's ask and tell.

>>> TpeSampler(space, seed)                                              # the classic form: every parameter by itself
>>> TpeSampler(space, seed, multivariate=True, constant_liar=True)       # what Optuna does by default today
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from esnac_lib.config.comparison import DASHED, ONE_BY_ONE, Variant
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.random import random_proposals
from esnac_lib.samplers.unseen import Unseen
from esnac_lib.seeding import derive_seed
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.base import Interval
from esnac_lib.space.search_space import SearchSpace

MAX_ASKS = 20  # of Optuna for one proposal; a random member of the space fills in if all of them bring nothing new


@dataclass(eq=False)
class TpeSampler(SeededSampler):
    """Tree-structured Parzen estimators (Bergstra et al., 2011) over the decisions of a space.

    Optuna stores nothing: each `ask` makes a study in memory from the observations, and seeds it by their number, so a
    resumed study draws what it would have drawn. Its `group` would change nothing: every trial has every parameter.
    Startup trials are uniform over the parameters as Optuna draws them: half of all layers removed and half of all
    pairs connected (the paper found "too many skip connections" in them).
    """

    multivariate: bool = False  # one estimator for all parameters, which sees how they interact, instead of one each
    constant_liar: bool = False  # proposals not observed yet count as bad, so that those of one step differ
    startup: int = 10  # random trials before the first estimate

    def __post_init__(self) -> None:
        self.distributions = distributions(self.space)
        self._finished: list[optuna.trial.FrozenTrial] = []

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals. For one that is not new, Optuna is asked again."""
        study, unseen = self._study(), Unseen(self.space, self.observations)
        proposals: list[Proposal] = []
        for _ in range(n):
            suggested = next(unseen.among(self._suggestions(study)), None)
            if suggested is None:  # many suggestions brought nothing new
                fill = random_proposals(self.space, self.seed, self.observations, 1, proposals)
                suggested = next(unseen.among(proposal.decisions for proposal in fill), None)
            if suggested is None:
                break
            proposals.append(suggested)
        return proposals

    def tell(self, trials: Sequence[Observation]) -> None:
        """Learn about finished trials. Their parameters are those of their (normalised) decisions."""
        super().tell(trials)
        for trial in trials:
            if trial.f is not None:
                params = parameters_of(self.space, trial.decisions)
                finished = optuna.trial.create_trial(value=trial.f, params=params, distributions=self.distributions)
                self._finished.append(finished)

    def _study(self) -> optuna.Study:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.startup,
            seed=derive_seed(self.seed, "tpe", len(self.observations)) % 2**32,
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
    """Return one parameter for each decision, `space.num_decisions` of them, by name.

    As in the paper's counts there is one for every layer of the teacher: those of layers that must stay change nothing.
    """
    return {
        name: FloatDistribution(kind.low, kind.high)
        if isinstance(kind, Interval)
        else CategoricalDistribution(kind.options)
        for operator in space.used
        for name, kind in operator.hyperparameters(space).items()
    }


def decisions_of(space: SearchSpace, parameters: dict[str, Any]) -> Decisions:
    """Return the decisions, in one form and within the limits, that a set of parameters stands for.

    An operator that the space lacks does nothing.
    """
    parts = {operator.name: operator.from_hyperparameters(space, parameters) for operator in space.used}
    return space.within(space.decide(parts))


def parameters_of(space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
    """Return the parameters that stand for some decisions, such that `decisions_of` gives them back, normalised.

    Decisions that no parameters give (`Skip.to_hyperparameters`) lose what none stands for.
    """
    decisions = space.normalise(decisions)
    parts = [operator.to_hyperparameters(space, decisions) for operator in space.used]
    return {name: value for part in parts for name, value in part.items()}


CLASSIC = SamplerEntry(
    "tpe", "TPE", "#56B4E9", lambda space, config: TpeSampler(space, config.seed),
    variants=(Variant("tpe", "TPE", ONE_BY_ONE),),
)  # fmt: skip
MULTIVARIATE = SamplerEntry(
    "tpe_multivariate", "TPE, multivariate", "#56B4E9",
    lambda space, config: TpeSampler(space, config.seed, multivariate=True, constant_liar=True),
    linestyle=DASHED, variants=(Variant("tpe_multivariate", "TPE, multivariate", ONE_BY_ONE),),
)  # fmt: skip
