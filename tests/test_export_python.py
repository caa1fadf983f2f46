"""Generated programs: what they say, what they compute, and what names they use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import architectures
from hypothesis import given, settings
from torch import Tensor, nn

from esnac_lib.architecture import INPUT, Architecture, Layer, Slot, slot
from esnac_lib.errors import ArchitectureError, EsnacError
from esnac_lib.export import naming, python_file, python_weights, save_python, to_python
from esnac_lib.layer_types import LAYER_TYPES
from esnac_lib.network import Weights, build

SAME = {"kernel_size": 3, "padding": 1}


def module_of(architecture: Architecture) -> nn.Module:
    """An object of the generated class."""
    space: dict[str, Any] = {}
    exec(compile(to_python(architecture), "student.py", "exec"), space)
    return space["Student"]()


def random_weights(architecture: Architecture) -> Weights:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build(architecture).weights()
    for name, tensor in weights.items():
        if name.endswith(("running_mean", "running_var", "bias")):
            weights[name] = torch.rand(tensor.shape, generator=generator) + 0.5
    return weights


def assert_same(architecture: Architecture, train: bool = False) -> None:
    """In float64: batch norms of small batches magnify rounding."""
    weights = {name: tensor.double() for name, tensor in random_weights(architecture).items()}
    x = torch.randn(3, *architecture.input_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found: list[Tensor] = []
    for module in (build(architecture, weights), module_of(architecture).double()):
        if found:
            module.load_state_dict(python_weights(architecture, weights))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)  # the same draws for dropout
            found.append(module.train(train)(x))
    scale = float(found[0].abs().max())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-7 * scale)


def widths_and_formats(sources: dict[str, str], folder: Path) -> None:
    """No line is too long, and neither linter nor formatter has anything to say, at two line lengths."""
    for name, source in sources.items():
        assert max(map(len, source.splitlines())) <= 88
        (folder / f"{name}.py").write_text(source)
    for command in (
        ["check"],
        ["format", "--check", "--diff"],
        ["format", "--check", "--diff", "--line-length", "120"],
    ):
        line = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# -- what it looks like ------------------------------------------------------------------------------------------------

BLOCKS = Architecture(
    (
        Layer("conv", "conv", (slot(INPUT),), 4, {**SAME, "bias": False}),
        Layer("bn", "batch_norm", (slot(0),), attrs={"eps": 1e-3}),
        Layer("relu", "relu", (slot(1),)),
        Layer("stages.stage1.0.conv1", "conv", (slot(2),), 4, SAME | {"groups": 4}),
        Layer("stages.stage1.0.relu1", "relu", (slot(3),)),
        Layer("stages.stage1.0.relu2", "relu", (slot(2, 2, 4),)),
        Layer("stages.stage1.1.drop", "dropout", (slot(2, 5),), attrs={"p": 0.25}),
        Layer("stages.stage1.1.pool", "max_pool", (slot(6),), attrs={"kernel_size": (3, 1), "stride": 2}),
        Layer("stages.stage1.1.other", "avg_pool", (slot(5),), attrs={"kernel_size": (3, 1), "stride": (2, 2)}),
        Layer("cat", "concat", (slot(7), slot(7, 8))),
        Layer("average", "adaptive_avg_pool", (slot(9),), attrs={"output_size": 1}),
        Layer("flatten", "flatten", (slot(10),)),
        Layer("fc", "linear", (slot(11),), 3),
    ),
    (1, 6, 6),
    slot(12),
)

PROGRAM = '''"""Tiny: a network found by esnac_lib, which is not needed to use it.

With its weights:

    from safetensors.torch import load_file

    model = Tiny()
    model.load_state_dict(load_file("student.safetensors"))
    model.eval()
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tiny(nn.Module):
    """Maps (batch, 1, 6, 6) to (batch, 3).

    111 parameters; 2,616 multiply-accumulates an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4, eps=0.001)

        self.stage1_0_conv1 = nn.Conv2d(4, 4, 3, padding=1, groups=4)

        self.stage1_1_drop = nn.Dropout(p=0.25)
        self.stage1_1_pool = nn.MaxPool2d((3, 1), stride=2)
        self.stage1_1_other = nn.AvgPool2d((3, 1), stride=2)

        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))

        y = F.relu(self.stage1_0_conv1(x))
        y = F.relu(2 * x + y)

        x = self.stage1_1_pool(self.stage1_1_drop(x + y))
        y = self.stage1_1_other(y)
        x = torch.cat([x, x + y], dim=1)

        return self.fc(torch.flatten(self.average(x), 1))
'''


def test_it_reads_as_a_person_would_write_it() -> None:
    assert to_python(BLOCKS, "Tiny") == PROGRAM


def test_that_program_computes_the_same() -> None:
    assert_same(BLOCKS)
    assert_same(BLOCKS, train=True)


def test_the_state_dict_has_the_names_of_the_attributes() -> None:
    weights = random_weights(BLOCKS)
    state = python_weights(BLOCKS, weights)
    assert torch.equal(state["stage1_0_conv1.bias"], weights["stages.stage1.0.conv1.bias"])
    assert state.keys() == module_of(BLOCKS).state_dict().keys()
    assert int(state["bn.num_batches_tracked"]) == 0
    state["fc.bias"].zero_()
    assert weights["fc.bias"].all(), "copies"


def test_only_what_is_needed_is_imported() -> None:
    plain = Architecture((Layer("bn", "batch_norm", (slot(INPUT),)),), (2, 3, 3), slot(0))
    assert "import torch\n" not in to_python(plain) and "as F" not in to_python(plain)
    assert_same(plain)


def test_a_network_without_layers() -> None:
    empty = Architecture((), (2, 3, 3), ((INPUT, 3),))
    assert to_python(empty).endswith("    def forward(self, x: Tensor) -> Tensor:\n        return 3 * x\n")
    assert_same(empty)


def test_long_sums_and_joins_are_broken_up(tmp_path: Path) -> None:
    """Thirty tensors with long names, all read at the end, in a sum, in a concat, and in the output."""
    layers = [
        Layer(f"a.very.long.path.to.some.module.{n}.with_a_long_name", "conv", (slot(INPUT),), 2, SAME)
        for n in range(30)
    ]
    everything: Slot = tuple((i, 1 + i % 12) for i in range(30))
    layers.append(Layer("all", "conv", (everything,), 2, SAME))
    layers.append(Layer("join", "concat", (everything, *(slot(i) for i in range(30)), everything, slot(30, 30))))
    layers.append(Layer("last", "conv", (slot(31),), 2, {"kernel_size": (3, 5), "padding": (1, 2), "stride": 1}))
    architecture = Architecture(tuple(layers), (2, 6, 6), (*everything, (32, 10)))
    widths_and_formats({"wide": to_python(architecture)}, tmp_path)
    assert_same(architecture)


def test_a_tensor_read_much_later_has_a_name_of_its_own() -> None:
    layers = [Layer("first", "conv", (slot(INPUT),), 2, SAME)]
    layers += [Layer(f"conv{n}", "conv", (slot(n - 1),), 2, SAME) for n in range(1, 15)]
    architecture = Architecture(tuple(layers), (2, 6, 6), slot(INPUT, 0, 14))
    source = to_python(architecture)
    assert "def forward(self, image: Tensor)" in source and "first = self.first(image)" in source
    assert "return image + first + x" in source
    assert_same(architecture)


def test_functions_without_a_path_stay_in_their_block() -> None:
    """As torch.fx names what a module's forward calls: relu, relu_1, cat, avg_pool2d."""
    layers = (
        Layer("a.conv", "conv", (slot(INPUT),), 2, SAME),
        Layer("relu", "relu", (slot(0),)),
        Layer("avg_pool2d", "avg_pool", (slot(1),), attrs={"kernel_size": 2, "stride": 2}),
        Layer("a.bn", "batch_norm", (slot(2),)),
        Layer("relu_1", "relu", (slot(3),)),
        Layer("max_pool2d", "max_pool", (slot(4),), attrs={"kernel_size": 2, "stride": 2}),
        Layer("b.conv", "conv", (slot(5),), 2, SAME),
    )
    body = to_python(Architecture(layers, (2, 8, 8), slot(6))).partition("forward")[2].splitlines()[1:]
    assert [line.strip() for line in body] == [
        "x = F.relu(self.a_conv(x))",
        "x = F.relu(self.a_bn(self.avg_pool2d(x)))",
        "",
        "x = self.max_pool2d(x)",
        "",
        "return self.b_conv(x)",
    ]


@settings(max_examples=40)
@given(architecture=architectures())
def test_any_graph_computes_the_same(architecture: Architecture) -> None:
    assert_same(architecture)
    assert_same(architecture, train=True)


def test_any_graph_is_clean(tmp_path: Path) -> None:
    sources: dict[str, str] = {}

    @settings(max_examples=40, database=None)
    @given(architecture=architectures(most=30))
    def collect(architecture: Architecture) -> None:
        sources[f"student{len(sources)}"] = to_python(architecture)

    collect()
    widths_and_formats(sources, tmp_path)


# -- every kind of layer -----------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[int, dict[str, Any], tuple[int, ...]]] = {
    "conv": (
        4, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2), "groups": 2}, (4, 7, 7)
    ),
    "batch_norm": (0, {"eps": 1e-2, "momentum": 0.5, "affine": False}, (4, 7, 7)),
    "relu": (0, {}, (4, 7, 7)),
    "sigmoid": (0, {}, (4, 7, 7)),
    "dropout": (0, {"p": 0.3}, (4, 7, 7)),
    "max_pool": (
        0, {"kernel_size": 3, "stride": (1, 2), "padding": 1, "dilation": (2, 1), "ceil_mode": True}, (4, 7, 7)
    ),
    "avg_pool": (
        0, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}, (4, 6, 6)
    ),
    "adaptive_avg_pool": (0, {"output_size": (3, 2)}, (4, 7, 7)),
    "flatten": (0, {}, (4, 7, 7)),
    "concat": (0, {}, (4, 7, 7)),
    "channel_shuffle": (0, {"groups": 2}, (4, 7, 7)),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(set(LAYER_TYPES) - {"linear"}))
def test_every_kind_with_options(kind: str) -> None:
    channels, attrs, shape = KINDS[kind]
    architecture = Architecture((Layer("it", kind, (slot(INPUT),), channels, attrs),), shape, slot(0))
    assert_same(architecture)
    assert_same(architecture, train=True)


def test_linear_without_bias() -> None:
    layers = (Layer("f", "flatten", (slot(INPUT),)), Layer("l", "linear", (slot(0),), 3, {"bias": False}))
    assert_same(Architecture(layers, (2, 2, 2), slot(1)))


def test_a_layer_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_file, "MODULES", {"conv": "Conv2d", "linear": "Linear"})
    with pytest.raises(ArchitectureError, match=r"^layer 'bn' \(batch_norm\) cannot be written as Python"):
        to_python(BLOCKS)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (["stages.stage1.0.conv1", "conv"], ["stage1_0_conv1", "conv"]),
        (["features.0.conv", "features.1"], ["features_0_conv", "features_1"]),
        (["features.block1.conv", "features.norm"], ["features_block1_conv", "features_norm"]),
        (["a.b.conv", "c.b.conv"], ["b_conv", "c_b_conv"]),
        (["0", "1", "0.1"], ["conv0", "conv1", "conv0_1"]),
        (["a.b", "a_b", "a-b", "a b"], ["a_b", "a_b_2", "a_b_3", "a_b_4"]),
        (["type", "class", "forward", "training"], ["type_conv", "class_conv", "forward_conv", "training_conv"]),
        (["type", "type_conv"], ["type_conv", "type_conv_2"]),
        (["__private", "_", "Ünïcode", "日本"], ["private", "conv", "n_code", "conv_2"]),
        (["self", "torch", "nn", "x"], ["self", "torch", "nn", "x"]),
    ],
)
def test_attribute_names(layers: list[str], wanted: list[str]) -> None:
    found = naming.attribute_names([Layer(name, "conv", (slot(INPUT),), 2, SAME) for name in layers])
    assert found == wanted


def test_names_are_kept_short() -> None:
    layers = [Layer(f"{name}.conv", "relu", (slot(INPUT),)) for name in ("features.denseblock1.denselayer16", "x" * 99)]
    layers += [Layer(f"{n}" * 60, "adaptive_avg_pool", (slot(INPUT),), attrs={"output_size": 1}) for n in (1, 2)]
    names = naming.attribute_names(layers)
    assert names[0] == "denselayer16_conv" or names[0] == "denseblock1_denselayer16_conv"
    assert len(set(names)) == 4 and all(name.isidentifier() and len(name) <= 34 for name in names)


def test_variables_hide_nothing() -> None:
    layers = [Layer(name, "relu", (slot(INPUT),)) for name in ("x", "sum", "torch", "F", "self", "relu", "if")]
    found = naming.variable_names(layers, ("x",))
    assert found == ["x_relu", "sum_relu", "torch_relu", "F_relu", "self_relu", "relu", "if_relu"]


def test_layers_may_have_any_name() -> None:
    names = ["x", "y", "z", "image", "total", "self", "torch", "nn", "F", "forward", "import", "a\n'\"\\", "", "{}"]
    layers = [Layer(name or "é", "conv", (slot(i - 1) if i else slot(INPUT),), 2, SAME) for i, name in enumerate(names)]
    architecture = Architecture(tuple(layers), (2, 5, 5), slot(INPUT, *range(len(names))))
    assert_same(architecture)


@pytest.mark.parametrize("name", ["class", "1a", "a b", "", "nn", "F", "torch", "Tensor", "print", "_A", None, 3])
def test_class_names_that_are_refused(name: Any) -> None:
    with pytest.raises(EsnacError, match=r"^class_name = .*: needed is a name of a class that is not taken"):
        to_python(BLOCKS, name)


# -- files -------------------------------------------------------------------------------------------------------------


def test_two_files_are_written(tmp_path: Path) -> None:
    save_python(tmp_path / "new", BLOCKS, random_weights(BLOCKS), "Tiny")
    assert (tmp_path / "new" / "student.py").read_text() == PROGRAM
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["student.py", "student.safetensors"]


def test_nothing_is_written_with_weights_that_do_not_fit(tmp_path: Path) -> None:
    weights = random_weights(BLOCKS)
    del weights["fc.bias"]
    with pytest.raises(ArchitectureError, match=r"weights lack 'fc.bias'"):
        save_python(tmp_path / "new", BLOCKS, weights)
    assert not (tmp_path / "new").exists()
