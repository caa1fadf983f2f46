"""The teacher's filters by norm: the same function, the largest first, and students that inherit those."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights, build, inherit
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.filter_order import largest_first
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.evaluation_cache import training_of
from esnac_lib.study.study import Study
from esnac_lib.teachers import teacher
from esnac_lib.training.teacher import train_teacher


class TwoPaths(nn.Module):
    """A sum, a concat, a depthwise convolution with a multiplier, PReLUs of both kinds, code that nobody knows, and
    features that are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.depthwise, self.norm = nn.Conv2d(11, 22, 3, groups=11), nn.BatchNorm2d(22)
        self.activation, self.last, self.shared = nn.PReLU(22), nn.Conv2d(22, 8, 1), nn.PReLU()
        self.unknown = nn.Bilinear(8, 8, 4)
        self.classifier = nn.Linear(8 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = torch.cat([self.left(x) + self.right(x), x.relu()], 1)
        x = self.shared(self.last(self.activation(self.norm(self.depthwise(x)))))
        columns = images.mean((1, 2))
        return self.classifier(x.flatten(1)) + self.unknown(columns, columns)


def _random(module: nn.Module, size: int, channels: int = 3) -> tuple[Architecture, Weights]:
    """A traced module in float64 with random weights, running statistics included."""
    architecture, weights = trace(module.eval(), torch.zeros(1, channels, size, size))
    rng = torch.Generator().manual_seed(0)
    noise = {name: torch.rand(tensor.shape, generator=rng, dtype=torch.float64) for name, tensor in weights.items()}
    return architecture, {
        name: noise[name] + 0.5 if name.endswith("running_var") else tensor.double() + 0.2 * (noise[name] - 0.5)
        for name, tensor in weights.items()
    }


def _output(architecture: Architecture, weights: Weights) -> Tensor:
    images = torch.rand((2, *architecture.input_shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return build(architecture, weights).eval()(images)


def test_by_hand() -> None:
    """Two convolutions of three filters: the norms are those of a filter and of what reads it."""
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1, bias=False), nn.Flatten())
    architecture, weights = trace(module, torch.zeros(1, 1, 1, 1))
    weights = {
        "0.weight": torch.tensor([1.0, -2.0, 2.0]).view(3, 1, 1, 1),
        "0.bias": torch.tensor([10.0, 20.0, 30.0]),
        "2.weight": torch.tensor([3.0, 0.0, 1.0]).view(1, 3, 1, 1),
    }
    found = largest_first(architecture, weights)  # squared norms: 1 + 9, 4 + 0, 4 + 1
    assert found["0.weight"].flatten().tolist() == [1, 2, -2] and found["0.bias"].tolist() == [10, 30, 20]
    assert found["2.weight"].flatten().tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: teacher("cnn4", 10, 3, 32, seed=0), id="cnn4"),
        pytest.param(lambda: teacher("resnet20_s2", 10, 3, 32, seed=0), id="resnet20_s2"),
        pytest.param(TwoPaths, id="sums, concats, flatten"),
        pytest.param(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10), id="shuffles and selections"),
        pytest.param(lambda: torchvision.models.mobilenet_v3_small(num_classes=10), id="squeeze and excitation"),
        pytest.param(lambda: torchvision.models.squeezenet1_1(num_classes=10), id="fire"),
        pytest.param(lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10), id="dense"),
    ],
)
def test_the_function_is_the_same_and_the_order_final(module: Callable[[], nn.Module]) -> None:
    made = module()
    architecture, weights = _random(made, 8 if isinstance(made, TwoPaths) else 32)
    found = largest_first(architecture, weights)
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in found.items())
    expected = _output(architecture, weights)
    torch.testing.assert_close(
        _output(architecture, found), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item()
    )
    again = largest_first(architecture, found)
    assert all(torch.equal(tensor, found[name]) for name, tensor in again.items())


def test_grouped_channels_stay_in_their_places() -> None:
    architecture, weights = _random(teacher("shufflenet_0.5x_g2", 10, 3, 32, seed=0), 32)
    found = largest_first(architecture, weights)
    stage = {name for name in weights if ".conv" in name}
    assert stage and all(torch.equal(found[name], weights[name]) for name in stage)


def test_a_student_inherits_the_filters_of_the_largest_norm() -> None:
    """Against filters sorted by hand, in a network where only one layer feeds another."""
    architecture, weights = _random(teacher("cnn4", 10, 1, 8, seed=0), 8, channels=1)
    first, second, *_ = [layer.name for layer in architecture.layers if layer.kind == "conv"]
    norm = next(name for name in weights if name.endswith("running_mean")).removesuffix(".running_mean")
    squares = weights[f"{first}.weight"].square().sum((1, 2, 3)) + weights[f"{second}.weight"].square().sum((0, 2, 3))
    squares = squares + weights[f"{norm}.weight"].square()
    space = SearchSpace(architecture, ("shrink",), "dependency")
    student = space.apply(Decisions(frozenset(), tuple(0.75 for _ in space.groups), frozenset()))
    left = inherit(largest_first(architecture, weights), student)[f"{first}.weight"]
    largest = squares.argsort(descending=True)[: len(left)]
    assert len(left) < len(squares) and torch.equal(left, weights[f"{first}.weight"][largest])


def test_the_order_is_torch_prunings() -> None:
    """Of every group that Torch-Pruning finds in a residual network: the same order by its own group norm."""
    pruning = pytest.importorskip("torch_pruning", reason="the extra `zoo` is not installed")
    architecture, weights = _random(teacher("resnet20_s2", 10, 3, 32, seed=0), 32)
    network = build(architecture, largest_first(architecture, weights)).eval()
    graph = pruning.DependencyGraph().build_dependency(network, torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    importance = pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    seen = 0
    for group in graph.get_all_groups(ignored_layers=[m for m in network.modules() if isinstance(m, nn.Linear)]):
        scores = importance(group)
        assert scores is not None and (np.diff(scores.detach().numpy()) <= 1e-12).all()
        seen += 1
    assert seen >= 10


def test_a_study_keeps_what_it_is_told_to() -> None:
    """The search teacher alone, and not the one on disk, which a study that keeps the first filters shares."""
    study = Study(StudyConfig(study="kept", sampler="narrow", K=2, steps=1, epochs=1, teacher_epochs=1, final="none"))
    teachers = outputs_root() / "teachers"
    first = train_teacher("search", study.config, study.data, teachers)
    by_norm = StudyConfig.from_dict(study.config.to_dict() | {"keep": "norm"})
    norm = train_teacher("search", by_norm, study.data, teachers)
    assert len([path for path in teachers.iterdir() if "-search-" in path.name]) == 1
    expected = largest_first(first.architecture, first.weights)
    assert all(torch.equal(norm.weights[name], expected[name]) for name in expected)
    assert norm.accuracy == first.accuracy and norm.architecture == first.architecture
    reference = train_teacher("reference", by_norm, study.data, teachers)
    again = train_teacher("reference", study.config, study.data, teachers)
    assert all(torch.equal(reference.weights[name], again.weights[name]) for name in again.weights)


def test_evaluations_are_not_shared_with_studies_that_keep_others() -> None:
    first = StudyConfig(study="one/a_seed0")
    norm = StudyConfig(study="one/b_seed0", keep="norm")
    assert "keep" not in training_of(first)  # as in ledgers that know no such parameter
    assert training_of(first) != training_of(norm)
