"""N2N: network to network compression by policy gradients, in two stages (Ashok et al., 2018), on the same objective.

Stage 1: a bidirectional LSTM reads the teacher's layer configurations and keeps or removes each layer. Stage 2: an LSTM
reads the best student of stage 1 and chooses a kept share of 0.1, 0.2 … 1.0 for each channel group. Both learn by
REINFORCE, with a reward of f less a moving average of past rewards, from 5 students an update.

What the papers leave open, and what is done here:

- Every proposal must be new, while the authors' program looks the reward of a known student up and learns from it
  again. A known draw is drawn again, then from flatter and flatter policies (`TEMPERATURES`), so that a policy that has
  made up its mind goes on in its neighbourhood; at last a random member without skips fills in, which teaches nothing
  unless a policy could have proposed it.
- An `ask` may be for any number of students. Its proposals come from one policy, and trials are learned from five at a
  time in the order told; where an ask is not for 5, some of them are an update old.
- How the evaluations are divided: half to each stage, as in their program (100 updates a stage), which the ask at the
  boundary may overrun. A study of 160 evaluations has 16 updates a stage.
- The decay of the moving average (their program has the plain mean of all past updates), and its start: the first
  update's own mean, for there is no past reward, and none at all would reinforce whatever was drawn first.
- The layer configurations are ESNAC's, every feature divided by its greatest value in the teacher: raw channel counts
  saturate an LSTM of this size.
- One choice for a group of tied channels, made at its first layer that is left, in place of one for every layer.
- A student that diverges has f = 0, as for every sampler (their program: -1 for one that cannot be built).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.architecture.encoding import MAX_EDGE, encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import SpaceError
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.samplers.random import random_proposals
from esnac_lib.seeding import make_generator
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

STAGES = ("remove", "shrink")  # the operators of the two stages; where the space has others, they stay unused
STUDENTS = 5  # a policy update learns from
HIDDEN, LAYERS = 30, 2  # of both LSTMs, as in the authors' program
# DEVIATION: their 0.003 hardly moves a policy in a sixth of their updates; ten times that did, on synthetic f.
REMOVAL_RATE = 0.03
SHRINKAGE_RATE = 0.1  # theirs; both with Adam
BASELINE_DECAY = 0.8
SHARES = 10  # kept shares 0.1 … 1.0
DRAWS = 40  # from a policy at each temperature
TEMPERATURES = (1.0, 1.0, 2.0, 4.0, 8.0)


# -- policies ----------------------------------------------------------------------------------------------------------


class Policy(nn.Module, ABC):
    """A distribution over sequences of S choices, made by an LSTM that reads layer configurations.

    features: (T, d) in the order read. steps: the S ascending positions in it at which a choice is made. The weights
    are drawn from `generator`, uniform in ±1/√hidden as PyTorch draws an LSTM's.
    """

    def __init__(
        self, features: Tensor, steps: Sequence[int], extra: int, options: int, both: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.features, self.steps = features, list(steps)
        with torch.device("meta"):  # constructors that draw nothing
            self.lstm = nn.LSTM(features.shape[1] + extra, HIDDEN, LAYERS, batch_first=True, bidirectional=both)
            self.head = nn.Linear(HIDDEN * (1 + both), options)
        self.to_empty(device="cpu")
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-1 / math.sqrt(HIDDEN), 1 / math.sqrt(HIDDEN), generator=generator)

    @abstractmethod
    def forward(self, choices: Tensor) -> Tensor:
        """(B, S) choices -> (B, S, options) logits of each, given those before it."""

    @abstractmethod
    def sample(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """(count, S) int64 choices; the logits are divided by the temperature."""

    def log_prob(self, choices: Tensor) -> Tensor:
        """(B, S) choices -> (B,) log-probabilities."""
        return self(choices).log_softmax(-1).gather(2, choices.unsqueeze(2)).squeeze(2).sum(1)


class RemovalPolicy(Policy):
    """Keep (0) or remove (1) each of S layers; all layers are read in both directions."""

    def __init__(self, features: Tensor, steps: Sequence[int], generator: torch.Generator) -> None:
        super().__init__(features, steps, 0, 2, True, generator)

    def forward(self, choices: Tensor) -> Tensor:
        """As in `Policy`; these choices do not depend on one another."""
        states = self.lstm(self.features.unsqueeze(0))[0]  # (1, T, 2·hidden)
        return self.head(states[:, self.steps]).expand(len(choices), -1, -1)

    @torch.no_grad()
    def sample(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """As in `Policy`."""
        return _draw(self(torch.empty(count)) / temperature, generator)


class ShrinkagePolicy(Policy):
    """Choose a kept share (k + 1)/10 for each of S groups.

    With a layer's features the LSTM reads the share that was chosen last, at first 1.
    """

    def __init__(self, features: Tensor, steps: Sequence[int], generator: torch.Generator) -> None:
        super().__init__(features, steps, 1, SHARES, False, generator)

    def forward(self, choices: Tensor) -> Tensor:
        """As in `Policy`."""
        shares = torch.cat([torch.ones(len(choices), 1), _share(choices)], dim=1)  # (B, S + 1)
        known = torch.searchsorted(torch.tensor(self.steps), torch.arange(len(self.features)))  # choices made before
        inputs = torch.cat([self.features.expand(len(choices), -1, -1), shares[:, known].unsqueeze(2)], dim=2)
        return self.head(self.lstm(inputs)[0][:, self.steps])

    @torch.no_grad()
    def sample(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """As in `Policy`."""
        share, state, begin = torch.ones(count, 1), None, 0
        choices = []
        for step in self.steps:
            stretch = self.features[begin : step + 1].expand(count, -1, -1)
            inputs = torch.cat([stretch, share.unsqueeze(1).expand(-1, stretch.shape[1], -1)], dim=2)
            states, state = self.lstm(inputs, state)
            choices.append(_draw(self.head(states[:, -1:]) / temperature, generator))  # (count, 1)
            share, begin = _share(choices[-1]), step + 1
        return torch.cat(choices, dim=1)


def _share(choices: Tensor) -> Tensor:
    return (choices + 1) / SHARES


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One choice for each row of logits: (B, S, options) -> (B, S)."""
    flat = logits.softmax(-1).flatten(0, 1)
    return torch.multinomial(flat, 1, generator=generator).view(logits.shape[:2])


# -- REINFORCE ---------------------------------------------------------------------------------------------------------


def reinforce_loss(log_prob: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """What REINFORCE descends: the mean of -(R - b) log π over B students; both tensors (B,)."""
    return -((rewards - baseline) * log_prob).mean()


class Learner:
    """A policy and what it has learned so far."""

    def __init__(self, policy: Policy, rate: float) -> None:
        self.policy = policy
        self.baseline: float | None = None
        self._optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
        self._waiting: list[tuple[Sequence[int], float]] = []

    def learn(self, choices: Sequence[int], reward: float) -> None:
        """One more student; every fifth brings an update."""
        self._waiting.append((choices, reward))
        if len(self._waiting) == STUDENTS:
            self._update()
            self._waiting = []

    def _update(self) -> None:
        choices = torch.tensor([choices for choices, _ in self._waiting])
        rewards = torch.tensor([reward for _, reward in self._waiting])
        mean = float(rewards.mean())
        past = mean if self.baseline is None else self.baseline
        self._optimiser.zero_grad()
        reinforce_loss(self.policy.log_prob(choices), rewards, past).backward()
        self._optimiser.step()
        self.baseline = BASELINE_DECAY * past + (1 - BASELINE_DECAY) * mean


# -- the stages --------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A learner, what its choices decide, and how many of the told trials it has seen.

    layers: the teacher's layers that stage 1 chooses about; groups: the channel groups that stage 2 does. removed: the
    layers that stage 2 finds removed. Empty where it is the other stage.
    """

    learner: Learner
    layers: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    removed: frozenset[int] = frozenset()
    seen: int = 0

    def catch_up(self, told: Sequence[Observation]) -> None:
        """Learn from the told trials that are this stage's and have not been seen, in their order."""
        for trial in told[self.seen :]:
            choices = self.choices(trial.decisions)
            if choices is not None and trial.f is not None:
                self.learner.learn(choices, trial.f)
        self.seen = len(told)

    def decisions(self, choices: Sequence[int], nothing: Decisions) -> Decisions:
        """What S choices decide."""
        removed = self.removed | {i for i, choice in zip(self.layers, choices, strict=False) if choice}
        ratios = list(nothing.ratios)
        for g, choice in zip(self.groups, choices, strict=False):
            ratios[g] = (SHARES - 1 - choice) / SHARES
        return Decisions(removed, tuple(ratios), frozenset())

    def choices(self, decisions: Decisions) -> list[int] | None:
        """The choices that gave these decisions; None if none of this stage did."""
        if self.layers:
            found = [int(i in decisions.removed) for i in self.layers]
        else:
            found = [SHARES - 1 - round(decisions.ratios[g] * SHARES) for g in self.groups]
            if not found or min(found) < 0 or not any(decisions.ratios):
                return None
        nothing = Decisions(frozenset(), (0.0,) * len(decisions.ratios), frozenset())
        return found if self.decisions(found, nothing) == decisions else None


class N2nSampler:
    """N2N's two policies behind ask and tell. They remove and shrink; where the space has skips, none is proposed.

    evaluations: of the whole study; removal_share: the share of them after which stage 2 begins. Where the space cannot
    shrink (or not remove), all of them are stage 1's (stage 2's). max_edge: as in `encode`.

    The policies are a function of the seed and the trials told: of the best f without shrinking, and of the trials that
    a stage could have proposed. Raises SpaceError for a space with neither removal nor shrinkage.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        evaluations: int = 160,
        removal_share: float = 0.5,
        removal_rate: float = REMOVAL_RATE,
        shrinkage_rate: float = SHRINKAGE_RATE,
        max_edge: int = MAX_EDGE,
    ) -> None:
        operators = [name for name in STAGES if name in space.operators]
        if not operators:
            raise SpaceError(f"operators = {list(space.operators)}: N2N only removes and shrinks; add one or both")
        self.space = space
        self.seed = seed
        self.removal_rate = removal_rate
        self.shrinkage_rate = shrinkage_rate
        self.max_edge = max_edge
        self._staged = SearchSpace(space.teacher, operators, space.grouping.kind, space.limits)
        can_remove, can_shrink = "remove" in operators and bool(space.removable), "shrink" in operators
        self._removals = round(removal_share * evaluations) if can_remove and can_shrink else math.inf * can_remove
        self._scale = np.maximum(1.0, encode(space.teacher, max_edge).max(0))
        self._first = self._removal_stage() if can_remove else None
        self._second: Stage | None = None
        self._observations: list[Observation] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to n proposals, all of one stage."""
        seen = {self.space.teacher.arch_id, *(trial.architecture.arch_id for trial in self._observations)}
        proposals: list[Proposal] = []
        for decisions in self._draw(self._stage()):
            if len(proposals) == n:
                break
            architecture = self.space.apply(decisions)
            if architecture.arch_id not in seen:
                seen.add(architecture.arch_id)
                proposals.append(Proposal(decisions, architecture))
        left = n - len(proposals)
        return proposals + random_proposals(self._staged, self.seed, self._observations, left, proposals)

    def tell(self, trials: Sequence[Observation]) -> None:
        """Remember finished trials; the policies learn from them at the next `ask`."""
        self._observations.extend(trials)

    def _stage(self) -> Stage:
        """The stage of the next proposals, having learned from all that was told."""
        if self._first is not None and len(self._observations) < self._removals:
            stage = self._first
        else:
            removed = self._best_removals()
            if self._second is None or self._second.removed != removed:
                self._second = self._shrinkage_stage(removed)
            stage = self._second
        stage.catch_up(self._observations)
        return stage

    def _best_removals(self) -> frozenset[int]:
        """The layers missing in the best observed student that is not shrunk; none if no such one beats the teacher."""
        best, removed = 0.0, self.space.nothing.removed
        for trial in self._observations:
            plain = Decisions(trial.decisions.removed, self.space.nothing.ratios, frozenset())
            if trial.decisions == plain and trial.f is not None and trial.f > best:
                best, removed = trial.f, trial.decisions.removed
        return removed

    def _removal_stage(self) -> Stage:
        place = {layer: position for position, layer in enumerate(self.space.teacher.canonical_order)}
        layers = tuple(sorted(self.space.removable, key=place.__getitem__))
        positions = [place[layer] for layer in layers]
        generator = make_generator(self.seed, "n2n-removal")
        policy = RemovalPolicy(self._features(self.space.teacher), positions, generator)
        return Stage(Learner(policy, self.removal_rate), layers=layers)

    def _shrinkage_stage(self, removed: frozenset[int]) -> Stage:
        student = self.space.apply(Decisions(removed, self.space.nothing.ratios, frozenset()))
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
        """(L, d): the layer configurations, in canonical order, each feature relative to the teacher's greatest."""
        return torch.from_numpy((encode(architecture, self.max_edge) / self._scale).astype(np.float32))

    def _draw(self, stage: Stage) -> Iterator[Decisions]:
        """A bounded number of draws from the stage's policy, those that were drawn before left out."""
        if not stage.layers and not stage.groups:
            return
        generator = make_generator(self.seed, "n2n-draws", len(self._observations))
        drawn: set[Decisions] = {trial.decisions for trial in self._observations}
        for temperature in TEMPERATURES:
            for choices in stage.learner.policy.sample(DRAWS, temperature, generator).tolist():
                decisions = stage.decisions(choices, self.space.nothing)
                if decisions not in drawn:
                    drawn.add(decisions)
                    yield decisions
