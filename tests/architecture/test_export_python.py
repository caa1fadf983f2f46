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

from esnac_lib.architecture.export import naming, python_expressions
from esnac_lib.architecture.export.python_file import python_weights, save_python, to_python
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import ACTIVATIONS, LAYER_TYPES, OPERATIONS, Slot
from esnac_lib.architecture.network import Weights, build
from esnac_lib.errors import ArchitectureError, EsnacError

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


def test_what_is_nested_deeply_stays_together() -> None:
    names = [
        "features.1.0.block.0.conv",
        "features.1.0.block.1.fc1",
        "features.1.0.block.1.fc2",
        "features.1.1.block.0.conv",
    ]
    layers = tuple(Layer(name, "conv", (slot(n - 1),), 2, SAME) for n, name in enumerate(names))
    body = to_python(Architecture(layers, (2, 8, 8), slot(3))).partition("forward")[2].splitlines()[1:]
    assert [line.strip() for line in body] == [
        "x = self.features_1_0_block_0_conv(x)",
        "x = self.features_1_0_block_1_fc1(x)",
        "x = self.features_1_0_block_1_fc2(x)",
        "",
        "return self.features_1_1_block_0_conv(x)",
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

IMAGE, FEATURES = (4, 7, 7), (6, 1, 1)  # features: after a flatten
BOTH = (slot(INPUT), slot(INPUT, INPUT))

KINDS: dict[str, list[tuple[int, dict[str, Any], tuple[int, ...]]]] = {
    "conv": [
        (4, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2), "groups": 2}, IMAGE),
    ],
    "linear": [(3, {"bias": False}, FEATURES)],
    "batch_norm": [
        (0, {"eps": 1e-2, "momentum": 0.5, "affine": False}, IMAGE), (0, {"momentum": 0.2}, FEATURES),
    ],
    "relu": [(0, {}, IMAGE)],
    "sigmoid": [(0, {}, IMAGE)],
    "dropout": [(0, {"p": 0.3}, IMAGE)],
    "max_pool": [
        (0, {"kernel_size": 3, "stride": (1, 2), "padding": 1, "dilation": (2, 1), "ceil_mode": True}, IMAGE),
    ],
    "avg_pool": [
        (0, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}, (4, 6, 6)),
    ],
    "adaptive_avg_pool": [(0, {"output_size": (3, 2)}, IMAGE)],
    "flatten": [(0, {}, IMAGE)],
    "concat": [(0, {}, IMAGE)],
    "channel_shuffle": [(0, {"groups": 2}, IMAGE)],
    "activation": [
        (0, {"function": name, "arguments": arguments}, IMAGE)
        for name, count in ACTIVATIONS.items() for arguments in ((0.5,) * count, (0.25, 0.75)[:count])
    ],
    "prelu": [(0, {"shared": True}, IMAGE), (0, {}, IMAGE), (0, {}, FEATURES)],
    "layer_norm": [
        (0, {"eps": 1e-2, "weight": weight, "bias": bias}, shape)
        for weight in (True, False) for bias in (True, False) for shape in (IMAGE, FEATURES)
    ],
    "group_norm": [(0, {"groups": 2, "eps": 1e-2, "affine": affine}, IMAGE) for affine in (True, False)],
    "instance_norm": [(0, {"eps": 1e-2, "affine": affine}, IMAGE) for affine in (True, False)],
    "scale": [
        (0, {"weight": weight, "bias": bias}, shape)
        for weight in (True, False) for bias in (True, False) for shape in (IMAGE, FEATURES)
    ],
    "affine": [(0, {"factor": f, "offset": o}, IMAGE) for f in (1, -0.5) for o in (0, 2, -0.25)],
    "multiply": [(0, {}, IMAGE)],
    "add": [(0, {}, IMAGE)],
    "select": [
        (0, {"runs": runs}, shape) for shape in (IMAGE, FEATURES)
        for runs in (
            [(0, 4)], [(1, 3)], [(3, 4)], [(0, 1), (2, 3)], [(2, 4), (0, 2)], [(0, 1), (2, 3), (1, 2), (3, 4)],
            [(3, 4), (2, 3), (1, 2), (0, 1)], [(0, 2), (0, 2), (0, 2), (0, 2), (1, 3)], [(1, 2), (1, 2)],
        )
    ],
    "unflatten": [(0, {}, FEATURES)],
    "upsample": [
        (0, {"size": (9, 5), "mode": mode, "align_corners": corners}, IMAGE)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area") for corners in (False, True)
    ],
    "pad": [
        (0, {"sizes": (1, 2, 0, 3), "mode": mode, "value": 0.5}, IMAGE)
        for mode in ("constant", "reflect", "replicate", "circular")
    ] + [(0, {"sizes": (-1, 0, 0, -2)}, IMAGE)],
    "adaptive_max_pool": [(0, {"output_size": (3, 2)}, IMAGE)],
    "stochastic_depth": [(0, {"p": p, "mode": mode}, IMAGE) for p in (0, 0.4, 1) for mode in ("row", "batch")],
    "zeros": [(2, {}, IMAGE)],
    "broadcast": [
        (0, {"operation": operation, "channels": channels, "width": shape == IMAGE, "trained": trained}, shape)
        for operation in OPERATIONS for channels in (False, True) for trained in (False, True)
        for shape in (IMAGE, FEATURES)
    ],
    "rms_norm": [(0, {"eps": 1e-2, "weight": w}, shape) for w in (True, False) for shape in (IMAGE, FEATURES)],
}  # fmt: skip


def single(kind: str, channels: int, attrs: dict[str, Any], shape: tuple[int, ...]) -> Architecture:
    """A network of one layer, after a flatten if its input has one pixel."""
    flat = [Layer("flat", "flatten", (slot(INPUT),))] if shape == FEATURES else []
    source = len(flat) - 1
    inputs = BOTH if LAYER_TYPES[kind].slots == 2 else (slot(source),)
    return Architecture((*flat, Layer("it", kind, inputs, channels, attrs)), shape, slot(len(flat)))


@pytest.mark.parametrize("kind", sorted(set(LAYER_TYPES) - {"opaque"}))
def test_every_kind_with_options(kind: str) -> None:
    for channels, attrs, shape in KINDS[kind]:
        architecture = single(kind, channels, attrs, shape)
        assert_same(architecture)
        assert_same(architecture, train=True)


def test_every_kind_is_clean(tmp_path: Path) -> None:
    sources = {
        f"{kind}{n}": to_python(single(kind, *case)) for kind, cases in KINDS.items() for n, case in enumerate(cases)
    }
    widths_and_formats(sources, tmp_path)


# What the constructor and forward say of a layer that reads x, of 8 channels and 6×6 pixels.
WRITTEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("activation", {"function": "silu"}, "", "F.silu(x)"),
    ("activation", {"function": "gelu_tanh"}, "", 'F.gelu(x, approximate="tanh")'),
    ("activation", {"function": "leaky_relu", "arguments": [0.01]}, "", "F.leaky_relu(x)"),
    ("activation", {"function": "leaky_relu", "arguments": [0.2]}, "", "F.leaky_relu(x, negative_slope=0.2)"),
    ("activation", {"function": "hardtanh", "arguments": [0, 1]}, "", "F.hardtanh(x, min_val=0.0)"),
    ("activation", {"function": "tanh"}, "", "torch.tanh(x)"),
    ("prelu", {}, "nn.PReLU(8)", "self.it(x)"),
    ("prelu", {"shared": True}, "nn.PReLU()", "self.it(x)"),
    ("layer_norm", {"eps": 1e-6}, "LayerNorm2d(8, eps=1e-06)", "self.it(x)"),
    ("layer_norm", {"bias": False}, "LayerNorm2d(8, bias=False)", "self.it(x)"),
    ("group_norm", {"groups": 4}, "nn.GroupNorm(4, 8)", "self.it(x)"),
    ("instance_norm", {"affine": True}, "nn.InstanceNorm2d(8, affine=True)", "self.it(x)"),
    ("scale", {}, "Scale(8)", "self.it(x)"),
    ("scale", {"bias": True}, "Scale(8, bias=True)", "self.it(x)"),
    ("affine", {"factor": 0.5}, "", "0.5 * x"),
    ("affine", {"offset": -3}, "", "x - 3.0"),
    ("affine", {"factor": 2, "offset": 1}, "", "2.0 * x + 1.0"),
    ("multiply", {}, "", "x * (2 * x)"),
    ("add", {}, "", "x + 2 * x"),
    ("select", {"runs": [(2, 5)]}, "", "x[:, 2:5]"),
    ("select", {"runs": [(0, 4)]}, "", "x[:, :4]"),
    ("select", {"runs": [(4, 8)]}, "", "x[:, 4:]"),
    ("select", {"runs": [(n, n + 1) for n in (1, 3, 5, 7)]}, "", "x[:, 1::2]"),
    ("select", {"runs": [(n, n + 1) for n in (0, 3)]}, "", "x[:, :4:3]"),
    ("select", {"runs": [(6, 8), (0, 3)]}, "", "torch.cat([x[:, 6:], x[:, :3]], dim=1)"),
    ("select", {"runs": [(n, n + 1) for n in (0, 4, 1, 5, 2, 6, 3, 7)]}, "", "F.channel_shuffle(x, 2)"),
    ("select", {"runs": [(n, n + 1) for n in (0, 4, 1, 5)]}, "", "F.channel_shuffle(x, 2)[:, :4]"),
    ("select", {"runs": [(n, n + 1) for n in (5, 7, 0)]}, "", "torch.cat([x[:, 5:6], x[:, 7:], x[:, :1]], dim=1)"),
    ("select", {"runs": [(n, n + 1) for n in (3, 5, 7)]}, "", "x[:, 3::2]"),
    ("select", {"runs": [(n, n + 1) for n in (6, 1, 3, 5, 7)]}, "", "F.channel_shuffle(x, 4)[:, 3:]"),
    ("select", {"runs": [(n, n + 1) for n in (7, 6, 5, 4, 3)]}, "Select(7, 6, 5, 4, 3)", "self.it(x)"),
    ("upsample", {"size": 12}, "", "F.interpolate(x, size=(12, 12))"),
    ("upsample", {"size": 12, "mode": "bilinear", "align_corners": True}, "",
     'F.interpolate(x, size=(12, 12), mode="bilinear", align_corners=True)'),
    ("pad", {"sizes": (0, 1, 0, 1)}, "", "F.pad(x, (0, 1, 0, 1))"),
    ("pad", {"sizes": (1, 1, 1, 1), "mode": "reflect"}, "", 'F.pad(x, (1, 1, 1, 1), mode="reflect")'),
    ("pad", {"sizes": (1, 1, 1, 1), "value": -1}, "", "F.pad(x, (1, 1, 1, 1), value=-1.0)"),
    ("adaptive_max_pool", {"output_size": 1}, "nn.AdaptiveMaxPool2d(1)", "self.it(x)"),
    ("stochastic_depth", {"p": 0.2}, "StochasticDepth(0.2)", "self.it(x)"),
    ("stochastic_depth", {"p": 0.2, "mode": "batch"}, 'StochasticDepth(0.2, mode="batch")', "self.it(x)"),
    ("zeros", {}, "", "x.new_zeros(x.shape[0], 3, 6, 6)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attrs", "module", "expression"), WRITTEN)
def test_how_a_layer_is_written(kind: str, attrs: dict[str, Any], module: str, expression: str) -> None:
    source = to_python(single(kind, 3 if kind == "zeros" else 0, attrs, (8, 6, 6)))
    assert source.rstrip().endswith(f"return {expression}")
    made = source.partition("        super().__init__()\n")[2] if module == "" else source
    assert f"        self.it = {module}\n" in made if module else "self." not in made


def test_norms_of_features_are_pytorchs_own() -> None:
    layers = (
        Layer("flat", "flatten", (slot(INPUT),)), Layer("bn", "batch_norm", (slot(0),)),
        Layer("ln", "layer_norm", (slot(1),), attrs={"bias": False}),
        Layer("last", "layer_norm", (slot(2),), attrs={"weight": False}),
    )  # fmt: skip
    source = to_python(Architecture(layers, (2, 3, 1), slot(3)))
    for line in ("bn = nn.BatchNorm1d(6)", "ln = nn.LayerNorm(6, bias=False)", "last = nn.LayerNorm(6)",
                 'last.register_parameter("weight", None)'):  # fmt: skip
        assert f"        self.{line}\n" in source
    assert "class LayerNorm2d" not in source


GATED = Architecture(
    (
        Layer("conv", "conv", (slot(INPUT),), 8, SAME),
        Layer("se.avgpool", "adaptive_avg_pool", (slot(0),), attrs={"output_size": 1}),
        Layer("se.fc1", "conv", (slot(1),), 2, {"kernel_size": 1}),
        Layer("se.act", "activation", (slot(2),), attrs={"function": "silu"}),
        Layer("se.fc2", "conv", (slot(3),), 8, {"kernel_size": 1}),
        Layer("se.gate", "sigmoid", (slot(4),)),
        Layer("mul", "multiply", (slot(5), slot(0))),
        Layer("layer_scale", "scale", (slot(6),)),
        Layer("drop_path", "stochastic_depth", (slot(7),), attrs={"p": 0.1}),
        Layer("norm", "layer_norm", (slot(0, 8),)),
        Layer("split", "select", (slot(9, 9),), attrs={"runs": [(0, 4)]}),
        Layer("half", "affine", (slot(10),), attrs={"factor": 0.5}),
        Layer("rest", "zeros", (slot(11),), 4),
        Layer("cat", "concat", (slot(11), slot(12))),
        Layer("pool", "adaptive_avg_pool", (slot(13),), attrs={"output_size": 1}),
        Layer("flat", "flatten", (slot(14),)),
        Layer("fc", "linear", (slot(15),), 3),
    ),
    (3, 6, 6),
    slot(16),
)

GATED_CLASS = """
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

        self.se_avgpool = nn.AdaptiveAvgPool2d(1)
        self.se_fc1 = nn.Conv2d(8, 2, 1)
        self.se_fc2 = nn.Conv2d(2, 8, 1)

        self.layer_scale = Scale(8)
        self.drop_path = StochasticDepth(0.1)
        self.norm = LayerNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)

        y = F.silu(self.se_fc1(self.se_avgpool(x)))
        y = torch.sigmoid(self.se_fc2(y))
        y = y * x

        y = self.drop_path(self.layer_scale(y))
        x = self.norm(x + y)
        x = 0.5 * (2 * x)[:, :4]
        y = x.new_zeros(x.shape[0], 4, 6, 6)
        return self.fc(torch.flatten(self.pool(torch.cat([x, y], dim=1)), 1))
"""


def test_gates_scales_and_padded_shortcuts_read_well() -> None:
    source = to_python(GATED)
    assert source.endswith(GATED_CLASS)
    found = [line.removeprefix("class ").partition("(")[0] for line in source.splitlines() if line.startswith("class ")]
    assert found == ["LayerNorm2d", "Scale", "StochasticDepth", "Student"]
    assert_same(GATED)
    assert_same(GATED, train=True)


def test_products_and_sums_of_sums_are_in_brackets() -> None:
    layers = (
        Layer("product", "multiply", (slot(INPUT, INPUT), slot(INPUT, INPUT))),
        Layer("more", "multiply", (slot(INPUT, 0), slot(INPUT, 0))),
        Layer("sum", "add", (slot(INPUT, 1), slot(INPUT, 1))),
        Layer("less", "affine", (slot(INPUT, 2),), attrs={"factor": 0.1, "offset": -1e-3}),
        Layer("first", "select", (slot(INPUT, 3),), attrs={"runs": [(0, 1)]}),
    )
    architecture = Architecture(layers, (2, 3, 3), slot(4))
    body = to_python(architecture).partition("Tensor:\n")[2].splitlines()
    assert [line.strip() for line in body] == [
        "y = 2 * x * (2 * x)",
        "y = (x + y) * (x + y)",
        "y = x + y + (x + y)",
        "y = 0.1 * (x + y) - 0.001",
        "return (x + y)[:, :1]",
    ]
    assert_same(architecture)


def test_long_operands_and_numbers_fit_on_their_lines(tmp_path: Path) -> None:
    """Every name is needed until the end, so that none is short."""
    wide = "a.rather.long.path.to.a.layer_with_a_very_long_name"
    layers = [Layer(f"{wide}_{n}", "conv", (slot(INPUT),), 40, SAME) for n in range(12)]
    everything = slot(*range(12))
    third = {"factor": -1 / 3e5, "offset": -2 / 3e7}
    layers += [
        Layer(f"{wide}_product", "multiply", (everything, slot(1, 2, 2))),
        Layer(f"{wide}_sum", "add", (everything, slot(1, 2, 2))),
        Layer(f"{wide}_affine", "affine", (everything,), attrs=third),
        Layer(f"{wide}_affine2", "affine", (slot(14),), attrs={"factor": 1 / 3e5}),
        Layer(f"{wide}_some", "select", (everything,), attrs={"runs": [(3, 7), (0, 3), (7, 9), (10, 39)]}),
        Layer(f"{wide}_many", "select", (slot(*range(11)),), attrs={"runs": [(n, n + 1) for n in range(39, -1, -1)]}),
        Layer(f"{wide}_zeros", "zeros", (everything,), 4),
        Layer(f"{wide}_pad", "pad", (everything,), attrs={"sizes": (1, 1, 1, 1), "mode": "replicate"}),
        Layer(f"{wide}_up", "upsample", (everything,), attrs={"size": 6, "mode": "bilinear", "align_corners": True}),
        Layer("crop", "pad", (slot(19),), attrs={"sizes": (-1, -1, -1, -1)}),
        Layer("join", "concat", tuple(slot(i) for i in (*range(19), 20, 21))),
    ]
    architecture = Architecture(tuple(layers), (2, 6, 6), slot(22))
    widths_and_formats({"long": to_python(architecture)}, tmp_path)
    assert_same(architecture)


def test_a_layer_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_expressions, "MODULES", {"conv": "nn.Conv2d", "linear": "nn.Linear"})
    with pytest.raises(ArchitectureError, match=r"^layer 'bn' \(batch_norm\) cannot be written as Python"):
        to_python(BLOCKS)


def test_an_opaque_layer_is_named_with_its_reason(tmp_path: Path) -> None:
    attrs = {"what": "roll", "inputs": [(2, 3, 3)], "output": (2, 3, 3)}
    layer = Layer("mix", "opaque", (slot(INPUT),), attrs=attrs, code=nn.Identity(), reason="torch.roll in\nmix, line 7")
    architecture = Architecture((layer,), (2, 3, 3), slot(0))
    for act in (lambda: to_python(architecture), lambda: save_python(tmp_path / "new", architecture, {})):
        with pytest.raises(ArchitectureError) as caught:
            act()
        assert str(caught.value) == (
            "layer 'mix' is opaque (torch.roll in mix, line 7): a Python file cannot hold its code"
        )
    assert not (tmp_path / "new").exists()


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


@pytest.mark.parametrize(
    "name", ["class", "1a", "a b", "", "nn", "F", "torch", "Tensor", "print", "_A", "Scale", None, 3]
)
def test_class_names_that_are_refused(name: Any) -> None:
    with pytest.raises(EsnacError, match=r"^class_name = .*: it must be a name of a class that is not taken"):
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
