"""N2N: network to network compression by policy gradients, in two stages (Ashok et al., 2018), on the same objective.

Stage 1: a bidirectional LSTM reads the teacher's layer configurations and keeps or removes each layer. Stage 2: an LSTM
reads the best student of stage 1 and chooses a kept share of 0.1, 0.2 … 1.0 for each channel group. Both learn by
REINFORCE, with a reward of f less a moving average of past rewards, from 5 students an update.

What the papers leave open, and what is done here:

- Every proposal must be new, while the authors' program learns from a known student's reward again. A known draw is
  drawn again, then from flatter and flatter policies (`TEMPERATURES`), so that a policy that has converged goes on in
  its neighbourhood; at last a random member without skips fills in, from which nothing is learned unless a policy could
  have proposed it.
- An `ask` may be for any number of students, all from one policy; trials are learned from five at a time in the order
  observed. Where an ask is not for 5, some proposals are an update old.
- Half of the evaluations go to each stage, as in their program (100 updates a stage), which the ask at the boundary may
  overrun. A study of 160 evaluations has 16 updates a stage.
- The moving average decays (their program: the mean of all past updates) and starts at the first update's own mean: no
  baseline at all would reinforce whatever was drawn first.
- The layer configurations are ESNAC's, every feature divided by its greatest value in the teacher: raw channel counts
  saturate an LSTM of this size.
- One choice for a group of coupled channels, made at its first layer that is left, in place of one for every layer.
- A student that diverges has f = 0, as for every sampler (their program: -1 for one that cannot be built).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from esnac_lib.architecture.encoding import MAX_EDGE, encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.comparison import ONE_BY_ONE, Variant
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import SpaceError
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.random import random_proposals
from esnac_lib.samplers.unseen import Unseen
from esnac_lib.seeding import make_generator
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:  # PyTorch is loaded by the first policy: the registry of samplers has to do without it
    from torch import Tensor

    from esnac_lib.samplers.n2n_policies import Learner

STAGES = ("remove", "shrink")  # the operators of the two stages; where the space has others, they stay unused
# DEVIATION: their 0.003 hardly moves a policy in a sixth of their updates; ten times that did, on synthetic f.
REMOVAL_RATE = 0.03
SHRINKAGE_RATE = 0.1  # theirs; both with Adam
SHARES = 10  # kept shares 0.1 … 1.0
DRAWS = 40  # from a policy at each temperature
TEMPERATURES = (1.0, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Stage:
    """A learner, what its choices decide, and how many of the observations it has seen."""

    learner: Learner
    layers: tuple[int, ...] = ()  # of the teacher, which stage 1 chooses about; empty in stage 2
    groups: tuple[int, ...] = ()  # of channels, which stage 2 chooses about; empty in stage 1
    removed: frozenset[int] = frozenset()  # layers that stage 2 finds removed
    seen: int = 0

    def catch_up(self, observations: Sequence[Observation]) -> None:
        """Learn from the observations that are this stage's and have not been seen, in their order."""
        for trial in observations[self.seen :]:
            choices = self.choices(trial.decisions)
            if choices is not None and trial.f is not None:
                self.learner.learn(choices, trial.f)
        self.seen = len(observations)

    def decisions(self, choices: Sequence[int], nothing: Decisions) -> Decisions:
        """Return what S choices decide."""
        removed = self.removed | {i for i, choice in zip(self.layers, choices, strict=False) if choice}
        ratios = list(nothing.ratios)
        for g, choice in zip(self.groups, choices, strict=False):
            ratios[g] = (SHARES - 1 - choice) / SHARES
        return Decisions(removed, tuple(ratios), frozenset())

    def choices(self, decisions: Decisions) -> list[int] | None:
        """Return the choices that gave these decisions; None if none of this stage did."""
        if self.layers:
            found = [int(i in decisions.removed) for i in self.layers]
        else:
            found = [SHARES - 1 - round(decisions.ratios[g] * SHARES) for g in self.groups]
            if not found or min(found) < 0 or not any(decisions.ratios):
                return None
        nothing = Decisions(frozenset(), (0.0,) * len(decisions.ratios), frozenset())
        return found if self.decisions(found, nothing) == decisions else None


@dataclass(eq=False)
class N2nSampler(SeededSampler):
    """N2N's two policies behind ask and tell. They remove and shrink; other operators of the space stay unused.

    Where the space cannot shrink (or not remove), all evaluations are stage 1's (stage 2's). The policies depend on the
    seed and the observations: on the best f without shrinking, and on those that a stage could have proposed. Raises
    SpaceError for a space with neither removal nor shrinkage.
    """

    evaluations: int = 160  # of the whole study
    removal_share: float = 0.5  # of the evaluations, after which stage 2 begins
    removal_rate: float = REMOVAL_RATE
    shrinkage_rate: float = SHRINKAGE_RATE
    max_edge: int = MAX_EDGE  # as in `encode`

    def __post_init__(self) -> None:
        space, operators = self.space, [name for name in STAGES if name in self.space.operators]
        if not operators:
            raise SpaceError(f"operators = {list(space.operators)}: N2N only removes and shrinks; add one or both")
        self._staged = SearchSpace(space.teacher, operators, space.grouping.kind, space.limits)
        can_remove, can_shrink = "remove" in operators and bool(space.removable), "shrink" in operators
        share = round(self.removal_share * self.evaluations)
        self._removals = share if can_remove and can_shrink else math.inf * can_remove
        self._scale = np.maximum(1.0, encode(space.teacher, self.max_edge).max(0))
        self._first = self._removal_stage() if can_remove else None
        self._second: Stage | None = None

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals, all of one stage."""
        unseen = Unseen(self.space, self.observations)
        proposals = list(islice(unseen.among(self._draw(self._stage())), n))
        left = n - len(proposals)
        return proposals + random_proposals(self._staged, self.seed, self.observations, left, proposals)

    def _stage(self) -> Stage:
        """Return the stage of the next proposals, having learned from all observations."""
        if self._first is not None and len(self.observations) < self._removals:
            stage = self._first
        else:
            removed = self._best_removals()
            if self._second is None or self._second.removed != removed:
                self._second = self._shrinkage_stage(removed)
            stage = self._second
        stage.catch_up(self.observations)
        return stage

    def _best_removals(self) -> frozenset[int]:
        """Return the layers missing in the best observed student that only removes; none if no such one has f > 0."""
        better = [trial for trial in self.observations if trial.f is not None and trial.f > 0]
        only = [trial for trial in better if trial.decisions == self._removing(trial.decisions.removed)]
        return max(only, key=lambda trial: trial.f or 0.0).decisions.removed if only else frozenset()

    def _removing(self, layers: frozenset[int]) -> Decisions:
        return Decisions(layers, self.space.nothing.ratios, frozenset())

    def _removal_stage(self) -> Stage:
        from esnac_lib.samplers.n2n_policies import Learner, RemovalPolicy

        place = {layer: position for position, layer in enumerate(self.space.teacher.canonical_order)}
        layers = tuple(sorted(self.space.removable, key=place.__getitem__))
        positions = [place[layer] for layer in layers]
        features, generator = self._features(self.space.teacher), make_generator(self.seed, "n2n-removal")
        policy = RemovalPolicy(features, positions, generator)
        return Stage(Learner(policy, self.removal_rate), layers=layers)

    def _shrinkage_stage(self, removed: frozenset[int]) -> Stage:
        from esnac_lib.samplers.n2n_policies import Learner, ShrinkagePolicy

        student = self.space.apply(self._removing(removed))
        names = {layer.name: i for i, layer in enumerate(self.space.teacher.layers)}
        origins = [student.layers[i].origin or student.layers[i].name for i in student.canonical_order]
        first: dict[int, list[int]] = {}  # position in the student -> the groups of which its layer is the first
        for g, group in enumerate(self.space.groups):
            members = {layer for segment in group.segments for layer in segment.positions}
            left = [position for position, name in enumerate(origins) if names[name] in members]
            if left:
                first.setdefault(left[0], []).append(g)
        # a layer that is the first of several groups is read once for each
        order = [position for position in range(len(origins)) for _ in first.get(position, [-1])]
        groups = tuple(g for position in sorted(first) for g in first[position])
        steps = [at for at, position in enumerate(order) if position in first]
        generator = make_generator(self.seed, "n2n-shrinkage")
        policy = ShrinkagePolicy(self._features(student)[order], steps, generator)
        return Stage(Learner(policy, self.shrinkage_rate), groups=groups, removed=removed)

    def _features(self, architecture: Architecture) -> Tensor:
        """Return the (L, d) layer configurations in canonical order, each feature by the teacher's greatest."""
        import torch

        return torch.from_numpy((encode(architecture, self.max_edge) / self._scale).astype(np.float32))

    def _draw(self, stage: Stage) -> Iterator[Decisions]:
        """Yield a bounded number of draws from the stage's policy, those that were drawn before left out."""
        if not stage.layers and not stage.groups:
            return
        generator = make_generator(self.seed, "n2n-draws", len(self.observations))
        drawn: set[Decisions] = {trial.decisions for trial in self.observations}
        for temperature in TEMPERATURES:
            for choices in stage.learner.policy.sample(DRAWS, temperature, generator).tolist():
                decisions = stage.decisions(choices, self.space.nothing)
                if decisions not in drawn:
                    drawn.add(decisions)
                    yield decisions


def check(config: StudyConfig) -> Iterator[str]:
    """Refuse limits, and operators that neither remove nor shrink."""
    for limit in ("max_params", "max_macs"):
        if value := getattr(config, limit):
            yield f"{limit} = {value}: sampler = 'n2n' keeps no limits; leave it 0"
    if not set(STAGES) & set(config.operator_names):
        given = f"operators = {config.operators!r}"
        yield f"{given}: sampler = 'n2n' only removes and shrinks; give it one or both of those"


ENTRY = SamplerEntry(
    "n2n", "N2N", "#8C8C8C", lambda space, config: N2nSampler(space, config.seed, config.num_evaluations), check,
    variants=(Variant("n2n", "N2N", ONE_BY_ONE),), budget_defines_result=True,
)  # fmt: skip
