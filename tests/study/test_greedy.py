"""Greedy descent: the sizes that are asked for, the group of least loss, and every training image counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, Weights, build
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.paths import data_root_of
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError
from esnac_lib.objective import OBJECTIVES
from esnac_lib.seeding import make_rng
from esnac_lib.space.verification import verify
from esnac_lib.study import greedy
from esnac_lib.study.greedy import Descended, GreedySettings, greedy_descent
from esnac_lib.teachers import teacher
from esnac_lib.training.job import Outcome, Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher
from esnac_lib.training.trainer import train

WIDTHS = (6, 8, 10)
CONFIG = StudyConfig(study="greedy", device="cpu", search_images=300)
SETTINGS = GreedySettings(share=0.2, steps=3, batches=2, batch_size=32)
Stats = list[tuple[Tensor, Tensor]]


class Chain(nn.Sequential):
    """Three convolutions, with batch norms or without."""

    def __init__(self, widths: Sequence[int] = WIDTHS, norms: bool = True) -> None:
        layers: list[nn.Module] = []
        for before, width in pairwise((1, *widths)):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width) if norms else nn.Identity()]
            layers += [nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


class Mixed(nn.Module):
    """A residual sum, a depthwise convolution and a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.inner, self.back = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 12, 1)
        self.depthwise, self.branch = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 8, 1)
        self.after, self.classifier = nn.BatchNorm2d(20), nn.Linear(20, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        x = x + self.back(self.inner(x).relu())
        x = self.after(torch.cat([self.depthwise(x), self.branch(x)], 1)).relu()
        return self.classifier(x.mean((2, 3)))


class Grouped(nn.Sequential):
    """Convolutions in two and in three groups, which are cut by whole multiples."""

    def __init__(self) -> None:
        grouped = nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 9, 3, groups=3), nn.ReLU()
        super().__init__(nn.Conv2d(1, 8, 3), *grouped, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 10))


@pytest.fixture(scope="module")
def data() -> StudyData:
    return StudyData(load_dataset(CONFIG.dataset, data_root_of(CONFIG)), CONFIG, "cpu")


def trained(module: Callable[[], nn.Module], seed: int = 0) -> TrainedTeacher:
    """A teacher with filters of uneven size, that nobody trained."""
    torch.manual_seed(seed)
    architecture, weights = trace(module(), torch.zeros(1, 1, 8, 8))
    convolutions = [name for name, tensor in weights.items() if tensor.ndim == 4]
    uneven = {name: weights[name] * torch.rand(len(weights[name]), 1, 1, 1) * 2 for name in convolutions}
    return TrainedTeacher("search", architecture, dict(weights) | uneven, 0.5, ())


def descend(
    data: StudyData, of: TrainedTeacher, targets: Sequence[int], settings: GreedySettings = SETTINGS, **changes: Any
) -> list[Descended]:
    config = StudyConfig.from_dict(CONFIG.to_dict() | changes)
    return list(greedy_descent(of, data, config, settings, targets))


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["params", "macs"])
def test_each_size_is_met_and_the_networks_can_be_trained_on(data: StudyData, objective: str) -> None:
    of, size = trained(Chain), OBJECTIVES[objective].size
    whole = int(size(of.architecture))
    targets = [whole // 8, whole, whole // 2, whole // 4]
    found = descend(data, of, targets, objective=objective)
    sizes = [size(one.architecture) for one in found]
    assert sizes[0] == whole and found[0].images == 0
    for one, target in zip(found, sorted(targets, reverse=True), strict=True):
        assert 0.75 * target < size(one.architecture) <= target
        assert one.architecture == one.architecture.standing_alone()
    assert all(a.images < b.images for a, b in pairwise(found))
    last = found[-1]
    job = TrainingJob(data.search, data.validation, Recipe.final(replaced(final_epochs=1)), seed=0, purpose="final")
    assert train([Trainee("last", build(last.architecture, last.weights))], job)["last"].state == "complete"


def replaced(**changes: Any) -> StudyConfig:
    return StudyConfig.from_dict(CONFIG.to_dict() | changes)


def test_a_share_is_removed_at_a_time(data: StudyData) -> None:
    """CNN-4, wide enough that a filter is little: after an iteration between 0.86 and 0.88 of the size are left."""
    of = trained(lambda: teacher("cnn4", 10, 1, 8, seed=0))
    sizes = [of.architecture.num_params]
    settings = replace(SETTINGS, share=0.12)
    with pytest.MonkeyPatch.context() as patch:
        scored = greedy._cuts
        patch.setattr(greedy, "_cuts", lambda now, *rest: sizes.append(now.num_params) or scored(now, *rest))
        descend(data, of, [sizes[0] // 2], settings)
    assert len(sizes) == 1 + 6 and all(0.86 < b / a <= 0.88 for a, b in pairwise(sizes[1:]))


@pytest.mark.parametrize("module", [Chain, Mixed, Grouped])
def test_a_teacher_that_cannot_become_so_small_is_told_at_once(
    data: StudyData, module: Callable[[], nn.Module]
) -> None:
    of = trained(module)
    with pytest.raises(
        ConfigError, match=r"^target 1: narrowing ends at ([\d,]+) parameters; give no smaller .*$"
    ) as no:
        greedy_descent(of, data, CONFIG, SETTINGS, [1000, 1])
    least = int(str(no.value).split("at ")[1].split(" ")[0].replace(",", ""))
    [found] = descend(data, of, [least], replace(SETTINGS, share=0.9, steps=1))
    assert found.architecture.num_params == least
    with pytest.raises(ConfigError, match="ends at"):
        greedy_descent(of, data, CONFIG, SETTINGS, [least - 1])


def test_a_descent_that_ends_above_its_target_says_so(data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where channels divide into groups, what all cuts at once leave need not be where single cuts end."""
    of = trained(Chain)
    least = greedy._smallest(of.architecture).num_params
    monkeypatch.setattr(greedy, "_check_targets", lambda *_: None)
    with pytest.raises(ConfigError, match=f"^target {least - 1}: narrowing ends at {least} parameters; .*$"):
        descend(data, of, [least - 1], replace(SETTINGS, share=0.9, steps=1))


@pytest.mark.parametrize(
    "changes", [{"share": 0}, {"share": 1}, {"steps": 0}, {"batches": 0}, {"batch_size": 1}, {"steps": 1.5}]
)
def test_settings_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(changes))} = .* must be "):
        GreedySettings(**changes)


def test_targets_are_checked(data: StudyData) -> None:
    for targets in ([], [0]):
        with pytest.raises(ConfigError, match="targets = "):
            greedy_descent(trained(Chain), data, CONFIG, SETTINGS, targets)


def test_the_weights_of_each_network_are_its_own(data: StudyData) -> None:
    """What becomes of them changes neither the teacher nor the descent."""
    of = trained(Chain)
    whole, first = of.architecture.num_params, of.weights["0.weight"].clone()
    targets = [whole, whole // 2, whole // 2, whole // 4]
    undisturbed = descend(data, of, targets)
    for one, expected in zip(greedy_descent(of, data, CONFIG, SETTINGS, targets), undisturbed, strict=True):
        for name, tensor in one.weights.items():
            assert torch.equal(tensor, expected.weights[name]) and tensor.is_contiguous()
            tensor.zero_()
    assert torch.equal(of.weights["0.weight"], first)


# -- the group of least loss -------------------------------------------------------------------------------------------


def forward(w: Weights, x: Tensor, stats: Stats | None) -> tuple[Tensor, Stats]:
    """The chain by hand: with these statistics, or with those of the batch, which are returned."""
    seen: Stats = []
    for place in range(3):
        x = F.conv2d(x, w[f"{3 * place}.weight"], w[f"{3 * place}.bias"], padding=1)
        seen.append((x.mean((0, 2, 3)), x.var((0, 2, 3))))
        spread = x.var((0, 2, 3), unbiased=False) if stats is None else stats[place][1]
        mean = seen[-1][0] if stats is None else stats[place][0]
        x = (x - mean[:, None, None]) / (spread[:, None, None] + 1e-5).sqrt()
        scale, shift = w[f"{3 * place + 1}.weight"], w[f"{3 * place + 1}.bias"]
        x = F.relu(x * scale[:, None, None] + shift[:, None, None])
    return x.mean((2, 3)) @ w["11.weight"].T + w["11.bias"], seen


def without_smallest(w: Weights, place: int, count: int) -> Weights:
    """All filters in the order of falling norm, of one convolution the first alone."""
    orders = []
    for i in range(3):
        reading = w["11.weight" if i == 2 else f"{3 * i + 3}.weight"].double().square()
        felt = w[f"{3 * i}.weight"].double().square().sum((1, 2, 3)) + w[f"{3 * i + 1}.weight"].double().square()
        felt += reading.sum((0, 2, 3) if i < 2 else 0)
        orders.append(felt.argsort(descending=True, stable=True)[: count if i == place else None])
    cut = {name: tensor[orders[int(name.split(".")[0]) // 3]] for name, tensor in w.items() if name[:2] != "11"}
    for i, reader in enumerate(("3", "6", "11")):
        cut[f"{reader}.weight"] = cut.get(f"{reader}.weight", w["11.weight"])[:, orders[i]]
    return cut | {"11.bias": w["11.bias"]}


def brute_force(of: TrainedTeacher, data: StudyData, goal: float) -> tuple[int, Weights, list[float]]:
    """The group whose cut costs least, what is left with averaged statistics, and the loss of each group."""
    drawn = make_rng(CONFIG.seed, "greedy", 0).permutation(data.splits.search)[:64]
    batches = [x for x, _ in data.part(drawn).evaluation_batches(32)]
    teacher_stats = [(of.weights[f"{i}.running_mean"], of.weights[f"{i}.running_var"]) for i in (1, 4, 7)]
    losses, left = [], []
    for place in range(3):
        count = max(k for k in range(1, 11) if k <= WIDTHS[place] and num_params(place, k) <= goal)
        cut = without_smallest(of.weights, place, count)
        seen = [forward(cut, x, None)[1] for x in batches]
        stats = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in zip(*seen, strict=True)]
        pairs = [(forward(cut, x, stats)[0], forward(of.weights, x, teacher_stats)[0]) for x in batches]
        losses.append(float(np.mean([(one - other).square().mean().item() for one, other in pairs])))
        named = {3 * i + 1: pair for i, pair in enumerate(stats)}
        averaged = {f"{i}.running_mean": mean for i, (mean, _) in named.items()}
        left.append(cut | averaged | {f"{i}.running_var": variance for i, (_, variance) in named.items()})
    best = int(np.argmin(losses))
    return best, left[best], losses


def num_params(place: int, count: int) -> int:
    a, b, c = (count if i == place else width for i, width in enumerate(WIDTHS))
    return 9 * (a + a * b + b * c) + 3 * (a + b + c) + 10 * c + 10


def untrained(trainees: Sequence[Trainee], job: TrainingJob) -> dict[str, Outcome]:
    """In place of training: leaves a network as it is."""
    return {one.key: Outcome(one.key, "complete", None, False, (), 1, None, None, {}, {}, 0.0) for one in trainees}


def test_the_group_of_least_loss_is_cut_and_its_statistics_are_plain_averages(
    data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "train", untrained)
    chosen = set()
    for seed in range(6):
        of = trained(Chain, seed)
        goal = 0.8 * of.architecture.num_params
        best, expected, losses = brute_force(of, data, goal)
        assert sorted(losses)[1] > 1.001 * min(losses)  # no tie
        [found] = descend(data, of, [int(goal)])
        assert {name: tuple(t.shape) for name, t in found.weights.items()} == {
            n: tuple(expected[n].shape) for n in found.weights
        }
        for name, tensor in found.weights.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6, msg=f"{seed}: {name}")
        chosen.add(best)
    assert len(chosen) > 1


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norms", "expected"), [(True, 3 * 2 * 64 + 96), (False, 3 * 64 + 96)])
def test_every_training_image_is_counted_and_no_other_is_seen(
    norms: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: three groups, each with a pass for statistics and one for the loss on 2 × 32, and 3 steps of 32."""
    data = StudyData(load_dataset(CONFIG.dataset, data_root_of(CONFIG)), CONFIG, "cpu")
    of, passed, positions = trained(lambda: Chain(norms=norms)), [0], []
    forwards, part = Network.forward, data.part

    def counted(self: Network, x: Tensor) -> Tensor:
        passed[0] += len(x) if self.architecture != of.architecture else 0
        return forwards(self, x)

    monkeypatch.setattr(Network, "forward", counted)
    monkeypatch.setattr(data, "part", lambda drawn: positions.append(drawn) or part(drawn))
    [found] = descend(data, of, [int(0.8 * of.architecture.num_params)])
    assert found.images == passed[0] == expected
    assert [len(drawn) for drawn in positions] == [64, 96]
    assert set(np.concatenate(positions)) <= set(data.splits.search)
    assert not {"validation", "test", "everything"} & set(vars(data))
    halves = descend(data, of, [of.architecture.num_params // 2])
    assert halves[0].images == passed[0] - expected > expected  # of all iterations together


def test_few_images_come_again_after_all_others(data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    part = data.part
    monkeypatch.setattr(data, "part", lambda positions: drawn.append(positions) or part(positions))
    of = trained(Chain)
    descend(data, of, [int(0.8 * of.architecture.num_params)], replace(SETTINGS, steps=20))
    counts = np.unique(drawn[1], return_counts=True)[1]
    assert len(drawn[1]) == 640 and len(counts) == 300 and set(counts) == {2, 3}


# -- bits, and networks that are no chains -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data: StudyData) -> None:
    of = trained(Chain)
    target = [of.architecture.num_params // 3]
    [one], [same], [other] = (descend(data, of, target, seed=seed) for seed in (0, 0, 1))
    assert one.architecture == same.architecture and one.images == same.images
    assert all(torch.equal(tensor, same.weights[name]) for name, tensor in one.weights.items())
    assert not all(
        tensor.shape == other.weights[name].shape and torch.equal(tensor, other.weights[name])
        for name, tensor in one.weights.items()
    )


def test_sums_depthwise_convolutions_and_concats_descend(data: StudyData) -> None:
    of = trained(Mixed)
    whole = of.architecture.num_params
    for one in descend(data, of, [whole // 2, whole // 5]):
        layers: dict[str, Any] = {layer.name: layer for layer in one.architecture.layers}
        assert layers["depthwise"]["groups"] == layers["depthwise"].channels == layers["stem"].channels
        assert layers["back"].channels == layers["stem"].channels
        assert isinstance(one.architecture, Architecture) and "python" in verify(one.architecture, one.weights).checks
