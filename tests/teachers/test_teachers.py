"""The teachers: exact sizes, the order of their layers, their initialisation, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import ArchitectureError
from esnac_lib.teachers import TEACHERS, teacher

# Parameters for 10 and 100 classes.
EXACT = {
    "vgg19": (20_040_522, 20_086_692),
    "resnet18": (11_173_962, 11_220_132),
    "resnet34": (21_282_122, 21_328_292),
    "shufflenet": (987_870, 1_059_960),
    "shufflenet_1.0x_g2": (887_582, 959_672),
    "conv10": (24_356_234, 24_448_484),
}
EXACT_100 = {
    "shufflenet_0.5x_g1": 259_960,
    "shufflenet_0.5x_g3": 271_828,
    "shufflenet_1.5x_g1": 2_093_836,
    "shufflenet_1.5x_g3": 2_032_288,
}
# ESNAC Table 2, millions of parameters for 100 classes.
TABLE_2 = {
    **{(0.5, 1): "0.26", (0.5, 2): "0.27", (0.5, 3): "0.27", (0.5, 4): "0.27", (0.5, 8): "0.31"},
    **{(1.5, 1): "2.09", (1.5, 2): "2.07", (1.5, 3): "2.03", (1.5, 4): "1.99", (1.5, 8): "2.08"},
}


def count(name: str, num_classes: int, in_channels: int = 3, image_size: int = 32) -> int:
    """Trainable parameters, without drawing any."""
    with torch.device("meta"):
        module = TEACHERS[name].build(num_classes, in_channels, image_size)
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_exact(name: str) -> None:
    assert (count(name, 10), count(name, 100)) == EXACT[name]


@pytest.mark.parametrize("name", EXACT_100)
def test_original_shufflenets_without_rounding_are_exact(name: str) -> None:
    assert count(name, 100) == EXACT_100[name]


@pytest.mark.parametrize(("width", "groups"), TABLE_2)
def test_original_shufflenets_match_table_2(width: float, groups: int) -> None:
    assert f"{count(f'shufflenet_{width}x_g{groups}', 100) / 1e6:.2f}" == TABLE_2[width, groups]


def test_conv7_is_exact() -> None:
    assert count("conv7", 10, 1, 28) == 708_458


def test_conv7_at_half_width() -> None:
    """Convolutions 160 + 2,320 + 4,640 + 9,248 + 18,496 + 36,928 + 73,856, batch norms 2 · 352, linear 62,730."""
    assert count("conv7_half", 10, 1, 28) == 145_648 + 704 + 62_730


def test_resnet20_has_the_size_of_he_et_al() -> None:
    """§4.2: 0.27 M parameters on CIFAR-10, there without weights in the two shortcuts that have some here."""
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count("resnet20_s2", 10) - shortcuts == 269_722
    architecture, _ = trace(teacher("resnet20_s2", 10, 1, 28), torch.rand(1, 1, 28, 28))
    assert {shape[1:] for shape in architecture.shapes if len(shape) == 3} == {(14, 14), (7, 7), (4, 4), (1, 1)}
    assert [layer.kind for layer in architecture.layers].count("conv") == 1 + 18 + 2


def test_cnn4_is_small() -> None:
    assert 60_000 <= count("cnn4", 10, 1, 8) <= 120_000


@pytest.mark.parametrize(
    ("name", "layers"), [("vgg19", 55), ("resnet18", 60), ("resnet34", 108), ("shufflenet", 159), ("cnn4", 17)]
)
def test_number_of_layers(name: str, layers: int) -> None:
    with torch.device("meta"):
        module = TEACHERS[name].build(10, 3, 32)
    nodes = [part for part in module.modules() if not list(part.children())]
    # every leaf is a layer, except empty shortcuts, and each stride-2 unit of a ShuffleNet joins once
    joins = sum(getattr(part, "joins", False) for part in module.modules())
    assert sum(not isinstance(node, nn.Identity) for node in nodes) + joins == layers


def test_vgg19_has_16_convolutions_with_bias() -> None:
    architecture, _ = trace(teacher("vgg19", 10), torch.rand(1, 3, 32, 32))
    kinds = [layer.kind for layer in architecture.layers]
    convolutions = [layer for layer in architecture.layers if layer.kind == "conv"]
    assert len(convolutions) == 16 and all(layer["bias"] for layer in convolutions)
    assert kinds.count("max_pool") == 5
    assert kinds[:8] == ["conv", "batch_norm", "relu", "conv", "batch_norm", "relu", "max_pool", "conv"]
    assert architecture.in_shapes[-1] == ((512,),)


def test_resnet_runs_the_main_path_before_the_shortcut() -> None:
    architecture, _ = trace(teacher("resnet18", 10), torch.rand(1, 3, 32, 32))
    names = [layer.name.removeprefix("stages.stage2.0.") for layer in architecture.layers if "stage2.0." in layer.name]
    assert names == ["conv1", "bn1", "relu1", "conv2", "bn2", "shortcut.conv", "shortcut.bn", "relu2"]
    shortcut = architecture.layers[architecture.index("stages.stage2.0.shortcut.conv")]
    assert (shortcut["kernel_size"], shortcut["stride"], shortcut.channels) == ((1, 1), (2, 2), 128)
    relu = architecture.layers[architecture.index("stages.stage2.0.relu2")]
    summed = [architecture.layers[i].name for i, n in relu.inputs[0]]
    assert summed == ["stages.stage2.0.bn2", "stages.stage2.0.shortcut.bn"]
    assert architecture.layers[-3]["kernel_size"] == (4, 4)


def test_shufflenet_units() -> None:
    architecture, _ = trace(teacher("shufflenet", 100), torch.rand(1, 3, 32, 32))
    assert [layer.name for layer in architecture.layers[:3]] == ["conv", "bn", "relu"]
    assert architecture.layers[0]["kernel_size"] == (1, 1) and architecture.layers[0].channels == 24
    unit = [layer for layer in architecture.layers if layer.name.startswith("stages.stage1.0.")]
    kinds = [layer.kind for layer in unit]
    assert kinds == [
        *("conv", "batch_norm", "relu", "channel_shuffle", "conv", "batch_norm", "conv", "batch_norm"),
        *("conv", "avg_pool", "relu"),
    ]
    # the concat, a function, stands between the pool and the last ReLU: branch first, then the pooled input
    first_relu = architecture.index("stages.stage1.0.relu2")
    concat = architecture.layers[first_relu - 1]
    assert concat.kind == "concat"
    assert [shape[0] for shape in architecture.in_shapes[first_relu - 1]] == [176, 24]
    depthwise = unit[4]
    assert depthwise.channels == depthwise["groups"] == 44  # a quarter of the branch's own 176
    inserted = [layer for layer in architecture.layers if layer.name.endswith("inserted")]
    assert [(layer.channels, layer["groups"]) for layer in inserted] == [(24, 2), (200, 2), (400, 2)]
    ends = [architecture.index(f"stages.stage{stage}.{unit}.relu2") for stage, unit in ((1, 3), (2, 7), (3, 3))]
    assert [architecture.shapes[end] for end in ends] == [(200, 16, 16), (400, 8, 8), (800, 4, 4)]


SIZES = [
    *(("resnet18", 3, 28), ("resnet18", 1, 8), ("shufflenet_0.5x_g1", 3, 20), ("shufflenet_0.5x_g8", 3, 8)),
    *(("conv7", 1, 28), ("conv7", 3, 32), ("conv7", 1, 4), ("vgg19", 1, 40)),
    *(("cnn4", 1, 8), ("cnn4", 1, 28), ("cnn4", 3, 32), ("cnn4", 1, 4)),
]


@pytest.mark.parametrize(("name", "channels", "size"), SIZES)
def test_other_image_sizes(name: str, channels: int, size: int) -> None:
    module = teacher(name, 7, channels, size)
    assert module.training
    with torch.no_grad():
        assert module.eval()(torch.zeros(1, channels, size, size)).shape == (1, 7)


@pytest.mark.parametrize("name", TEACHERS)
def test_too_small_images_are_refused_with_the_smallest_size(name: str) -> None:
    smallest = TEACHERS[name].smallest
    with pytest.raises(ArchitectureError, match=f"at least {smallest} x {smallest} pixels") as caught:
        teacher(name, 10, 3, smallest - 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("resnet19", 10), "the nearest is 'resnet18'"),
        (("cnn4", 0), "num_classes = 0"),
        (("cnn4", True), "num_classes = True"),
        (("cnn4", 10, 1.0, 8), "in_channels = 1.0"),
        (("cnn4", 10, 1, "8"), "image_size = '8'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ArchitectureError, match=text) as caught:
        teacher(*arguments)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_integers() -> None:
    sizes: Any = np.array([3, 1, 8])
    assert isinstance(teacher("cnn4", *sizes), nn.Module)


def test_a_seed_decides_alone_and_leaves_the_global_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = teacher("cnn4", 10, 1, 8, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = teacher("cnn4", 10, 1, 8, seed=5).state_dict(), teacher("cnn4", 10, 1, 8, seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_without_a_seed_the_global_state_decides() -> None:
    torch.manual_seed(1)
    first, second = teacher("cnn4", 10, 1, 8), teacher("cnn4", 10, 1, 8)
    torch.manual_seed(1)
    again = teacher("cnn4", 10, 1, 8)
    assert torch.equal(first.state_dict()["conv1.weight"], again.state_dict()["conv1.weight"])
    assert not torch.equal(first.state_dict()["conv1.weight"], second.state_dict()["conv1.weight"])


def test_convolutions_start_as_he_et_al_also_grouped_ones() -> None:
    module = teacher("shufflenet", 10, seed=0)
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5_000:
            inputs = part.in_channels // part.groups * math.prod(part.kernel_size)
            assert float(part.weight.detach().std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.1), name
    plain = teacher("conv7", 10, 1, 28, seed=0)
    biases = [part.bias for part in plain.modules() if isinstance(part, nn.Conv2d)]
    assert len(biases) == 7 and all(bias is not None and not bias.any() for bias in biases)


def test_cnn4_learns_digits() -> None:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1297], order[1297:]
    module = teacher("cnn4", 10, 1, 8, seed=0)
    generator = torch.Generator().manual_seed(0)
    epochs, batches = 6, len(train) // 64
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train), generator=generator)].split(64)[:batches]:
            optimizer.zero_grad()
            F.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    module.eval()
    with torch.no_grad():
        accuracy = float((module(images[held_out]).argmax(1) == labels[held_out]).float().mean())
    assert accuracy >= 0.97
