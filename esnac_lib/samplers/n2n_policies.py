"""The two policies of N2N, which choose what is removed and shrunk, and how they learn by REINFORCE (`n2n.py`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esnac_lib.samplers.n2n import SHARES

STUDENTS = 5  # a policy update learns from
HIDDEN, LAYERS = 30, 2  # of both LSTMs, as in the authors' program
BASELINE_DECAY = 0.8


class Policy(nn.Module, ABC):
    """A distribution over sequences of S choices, made by an LSTM that reads layer configurations.

    features: (T, d) in the order read. steps: the S ascending positions in it at which a choice is made. The weights
    are drawn from `generator`, uniform in ±1/√hidden as PyTorch draws an LSTM's.
    """

    options: int  # of each choice
    extra: int  # inputs besides the features
    both: bool  # whether the LSTM is bidirectional

    def __init__(self, features: Tensor, steps: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.features, self.steps, width = features, list(steps), features.shape[1] + self.extra
        with torch.device("meta"):  # constructors that draw nothing
            self.lstm = nn.LSTM(width, HIDDEN, LAYERS, batch_first=True, bidirectional=self.both)
            self.head = nn.Linear(HIDDEN * (1 + self.both), self.options)
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

    options, extra, both = 2, 0, True

    def forward(self, choices: Tensor) -> Tensor:
        """As in `Policy`; these choices do not depend on one another."""
        states = self.lstm(self.features.unsqueeze(0))[0]  # (1, T, 2·hidden)
        return self.head(states[:, self.steps]).expand(len(choices), -1, -1)

    @torch.no_grad()
    def sample(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """As in `Policy`."""
        return _draw(self(torch.empty(count)) / temperature, generator)


class ShrinkagePolicy(Policy):
    """Choose a kept share (k + 1)/10 for each of S groups; with a layer, the LSTM reads the share chosen last or 1."""

    options, extra, both = SHARES, 1, False

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
    """Draw a choice for each row of logits: (B, S, options) -> (B, S)."""
    return torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(logits.shape[:2])


def reinforce_loss(log_prob: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """Return what REINFORCE descends: the mean of -(R - b) log π over B students; both tensors (B,)."""
    return -((rewards - baseline) * log_prob).mean()


class Learner:
    """A policy and what it has learned so far."""

    def __init__(self, policy: Policy, rate: float) -> None:
        self.policy = policy
        self.baseline: float | None = None
        self._optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
        self._waiting: list[tuple[Sequence[int], float]] = []

    def learn(self, choices: Sequence[int], reward: float) -> None:
        """Take in one more student; every fifth brings an update."""
        self._waiting.append((choices, reward))
        if len(self._waiting) < STUDENTS:
            return
        choices_, rewards = (torch.tensor(part) for part in zip(*self._waiting, strict=True))
        self._waiting, mean = [], float(rewards.mean())
        past = mean if self.baseline is None else self.baseline
        self._optimiser.zero_grad()
        reinforce_loss(self.policy.log_prob(choices_), rewards, past).backward()
        self._optimiser.step()
        self.baseline = BASELINE_DECAY * past + (1 - BASELINE_DECAY) * mean
