"""Greedy descent in the way of NetAdapt (Yang et al., 2018), as a baseline: from the teacher down, a share at a time.

In each iteration every dependency group offers the same cut, some 12 % of the network's size. The one whose cut raises
the distillation loss least, its batch-norm statistics re-estimated, is cut, and the network is distilled for a few
steps. The largest filters stay, and filters are ordered anew each time.

Beyond NetAdapt: loss in place of accuracy on held-out images, so that training images alone are used; an iteration that
would pass a size that is asked for takes what leads just below it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, Weights, build, inherit
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.batches import DeviceData
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError, TrainingError
from esnac_lib.objective import OBJECTIVES, Objective
from esnac_lib.seeding import make_rng
from esnac_lib.space.filter_order import largest_first
from esnac_lib.space.operators.shrink import largest_ratio
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.teacher_check import reestimate_batch_norm
from esnac_lib.training.checkpoints import cpu_copy
from esnac_lib.training.device import compute_logits
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher
from esnac_lib.training.trainer import train

PURPOSE = "greedy"  # of its random draws, and the key of its network in training
SMALLEST_SHARE = 1e-6  # a group that cannot lose this much of the size cannot be cut


@dataclass(frozen=True)
class GreedySettings:
    """How a descent goes. A value that is not allowed raises ConfigError."""

    share: float = 0.12  # of the current size that an iteration removes; halved while no group has that much to lose
    steps: int = 15  # of distillation in an iteration
    batches: int = 2  # on which each candidate's batch-norm statistics are re-estimated, and then its loss is measured
    batch_size: int = 64  # of these and of the distillation

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share = {self.share!r} must be above 0 and below 1")
        for name, least in (("steps", 1), ("batches", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} = {value!r} must be a whole number of at least {least}")


@dataclass(frozen=True, eq=False)
class Descended:
    """A network on the way down, which stands alone."""

    architecture: Architecture
    weights: Weights
    images: int  # training images that networks of the descent were given so far, in passes forward or in steps


def greedy_descent(
    teacher: TrainedTeacher, data: StudyData, config: StudyConfig, settings: GreedySettings, targets: Sequence[int]
) -> Iterator[Descended]:
    """Return the first network at or below each target, a size in what `config.objective` counts, as it is reached.

    They come from the largest target to the smallest, where the descent ends. Images are those of the search's training
    and no others; each counts once for each pass of a candidate or step of the network, and the teacher's own passes
    for the targets of these are not counted, as in the search. All draws come from (config.seed, "greedy", iteration).

    Raises ConfigError, before any work, where a target is smaller than the teacher can become, and TrainingError where
    the network diverges.
    """
    objective, start = OBJECTIVES[config.objective], teacher.architecture.standing_alone()
    _check_targets(targets, start, objective)
    network = teacher.network()
    begun = Descended(start, network.weights(), images=0)
    return _Descent(network, data, config, settings, objective).run(begun, sorted(targets, reverse=True))


@dataclass(frozen=True, eq=False)
class _Descent:
    teacher: Network
    data: StudyData
    config: StudyConfig
    settings: GreedySettings
    objective: Objective

    def run(self, begun: Descended, targets: Sequence[int]) -> Iterator[Descended]:
        self.teacher.to(self.data.device).to(memory_format=torch.channels_last).eval()
        now, iteration = begun, 0
        for target in targets:
            while self.objective.size(now.architecture) > target:
                now, iteration = self._iterate(now, target, iteration), iteration + 1
            yield replace(now, weights=cpu_copy(now.weights))

    def _iterate(self, now: Descended, target: int, iteration: int) -> Descended:
        """Cut the group whose cut raises the loss least, and distil what is left."""
        rng = make_rng(self.config.seed, PURPOSE, iteration)
        probe, lesson = self._draw(self.settings.batches, rng), self._draw(self.settings.steps, rng)
        weights, logits = largest_first(now.architecture, now.weights), self._logits(self.teacher, probe)
        images, lowest, best = now.images + len(lesson), math.inf, None
        for cut in _cuts(now.architecture, self.objective, self.settings.share, target):
            network = build(cut.standing_alone(), inherit(weights, cut))
            loss, seen = self._score(network, probe, logits)
            images += seen
            if best is None or loss < lowest:
                lowest, best = loss, network
        assert best is not None  # there is at least one cut
        self._distil(best, lesson, iteration)
        return Descended(best.architecture, best.cpu().weights(), images)

    def _draw(self, batches: int, rng: np.random.Generator) -> DeviceData:
        """Return so many batches of search images; none comes again before all have come."""
        positions, count = self.data.splits.search, batches * self.settings.batch_size
        rounds = [rng.permutation(positions) for _ in range(math.ceil(count / len(positions)))]
        return self.data.part(np.concatenate(rounds)[:count])

    def _logits(self, network: Network, images: DeviceData) -> Tensor:
        with torch.no_grad():
            batches = images.evaluation_batches(self.settings.batch_size)
            return torch.cat([compute_logits(network, x) for x, _ in batches])  # (N, classes)

    def _score(self, network: Network, probe: DeviceData, wanted: Tensor) -> tuple[float, int]:
        """Re-estimate batch-norm statistics; return the distillation loss, and how many images it took in all."""
        network.to(self.data.device).to(memory_format=torch.channels_last)
        passes = 1 + reestimate_batch_norm(network, probe, self.settings.batch_size)
        loss = F.mse_loss(self._logits(network.eval(), probe), wanted).item()
        return loss if math.isfinite(loss) else math.inf, passes * len(probe)

    def _distil(self, network: Network, lesson: DeviceData, iteration: int) -> None:
        """Train as students of the search are, on the re-estimated statistics."""
        size, seed = self.settings.batch_size, self.config.seed
        recipe = replace(Recipe.search(self.config), epochs=1, batch_size=size, reset_batch_norm=False)
        draws: dict[str, Any] = {"seed": seed, "purpose": PURPOSE, "index": iteration}
        job = TrainingJob(lesson, None, recipe, **draws, device=self.data.device, teacher=self.teacher)
        outcome = train([Trainee(PURPOSE, network)], job)[PURPOSE]
        if outcome.state != "complete":
            raise TrainingError(f"iteration {iteration} of the greedy descent failed: {outcome.error}")


def _check_targets(targets: Sequence[int], start: Architecture, objective: Objective) -> None:
    if not targets or min(targets) < 1:
        raise ConfigError(f"targets = {list(targets)}: give one or more sizes, each at least 1")
    if objective.size(least := _smallest(start)) > min(targets):
        raise _too_small(min(targets), least, objective)


def _space(architecture: Architecture) -> SearchSpace:
    return SearchSpace(architecture, ("shrink",), "dependency")


def _smallest(architecture: Architecture) -> Architecture:
    """Return what is left when all groups were cut as far as they go, again and again.

    A descent ends there too, or where channels divide into groups within some percent of it.
    """
    while (smaller := _space(architecture).smallest.standing_alone()) != architecture:
        architecture = smaller
    return architecture


def _too_small(target: int, least: Architecture, objective: Objective) -> ConfigError:
    size = f"{objective.size(least):,} {objective.label}"
    return ConfigError(f"target {target:,}: narrowing ends at {size}; give no smaller target")


def _cuts(architecture: Architecture, objective: Objective, share: float, target: int) -> list[Architecture]:
    """Return the network with a share of its size taken from each of the groups that have as much, not below target."""
    space, size = _space(architecture), objective.size(architecture)
    while share > SMALLEST_SHARE:
        goal = max(size * (1 - share), target)
        cuts = [_narrowed(space, group, objective.size, goal) for group in range(len(space.groups))]
        if found := [cut for cut in cuts if cut is not None]:
            return found
        share /= 2
    raise _too_small(target, architecture, objective)


def _narrowed(
    space: SearchSpace, number: int, size: Callable[[Architecture], float], goal: float
) -> Architecture | None:
    """Return the network with one group as wide as a size of at most `goal` lets it be; None where none is enough."""
    group = space.groups[number]
    ratios = group.ratios_between(0.0, largest_ratio(group))

    def cut(ratio: float) -> Architecture:
        return space.apply(space.decide({"shrink": tuple(ratio * (g == number) for g in range(len(space.groups)))}))

    first = bisect_left(ratios, -goal, key=lambda ratio: -size(cut(ratio)))
    return cut(ratios[first]) if first < len(ratios) else None
