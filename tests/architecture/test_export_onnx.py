"""ONNX: what is written, what is refused, and what is never left behind. Students of real teachers: `test_export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from esnac_lib.architecture.export import onnx_model
from esnac_lib.architecture.export.onnx_model import to_onnx
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import ACTIVATIONS, LAYER_TYPES
from esnac_lib.architecture.network import Weights, build
from esnac_lib.errors import ArchitectureError, EsnacError

NET = Architecture(
    (
        Layer("a", "conv", (slot(INPUT),), 4, {"kernel_size": 3, "padding": 1}),
        Layer("b", "sigmoid", (slot(0),)),
        Layer("c", "avg_pool", (slot(0, 0, 1),), attrs={"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        Layer("d", "channel_shuffle", (slot(2),), attrs={"groups": 2}),
        Layer("e", "concat", (slot(2), slot(2, 3))),
        Layer("f", "dropout", (slot(4),)),
        Layer("g", "adaptive_avg_pool", (slot(5),), attrs={"output_size": (2, 3)}),
        Layer("h", "flatten", (slot(6),)),
        Layer("i", "linear", (slot(7),), 3),
    ),
    (2, 6, 6),
    slot(8),
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return build(NET).weights()


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [found] = session.run(["output"], {"input": x.numpy()})
    return torch.from_numpy(found)


def test_opset_and_fixed_batch_are_as_asked(weights: Weights, tmp_path: Path) -> None:
    """Weights in float64 become float32, and the global random state stays as it was."""
    path = tmp_path / "student.onnx"
    path.write_text("an older file")
    before = torch.get_rng_state()
    doubles = {name: tensor.double() for name, tensor in weights.items()}
    to_onnx(path, NET, doubles, opset=18, dynamic_batch=False)
    assert torch.equal(torch.get_rng_state(), before)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    [into] = model.graph.input
    assert [size.dim_value for size in into.type.tensor_type.shape.dim] == [1, 2, 6, 6]
    x = torch.rand(1, 2, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(run(path, x), build(NET, weights).eval()(x), rtol=0, atol=1e-6)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["student.onnx"]


def test_a_file_that_computes_something_else_is_never_written(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = weights | {"i.bias": weights["i.bias"] + 0.1}
    export = onnx_model._export
    monkeypatch.setattr(onnx_model, "_export", lambda network, *options: export(build(NET, others).eval(), *options))
    with pytest.raises(EsnacError, match="onnxruntime gives other outputs"):
        to_onnx(tmp_path / "new" / "student.onnx", NET, weights)
    assert not list((tmp_path / "new").iterdir())


class Program:
    """Stands in for what PyTorch exports."""

    def save(self, path: Path, external_data: bool) -> None:
        path.write_bytes(b"no model")


def test_a_file_that_onnxruntime_cannot_read_is_never_written(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "_export", lambda *arguments: Program())
    with pytest.raises(EsnacError, match="onnxruntime cannot run what PyTorch exported") as caught:
        to_onnx(tmp_path / "new" / "student.onnx", NET, weights)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


def test_missing_packages_are_named(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name != "onnx" else object())
    with pytest.raises(EsnacError, match=r"^ONNX needs packages that are missing: pip install onnxruntime onnxscript$"):
        to_onnx(tmp_path / "student.onnx", NET, weights)


@pytest.mark.parametrize("opset", [17, 0, 999, "18", 18.0, True])
def test_an_opset_that_is_refused(opset: Any, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(
        EsnacError, match=r"^opset = .*: allowed are integers from 18 to \d\d, or None for PyTorch's choice$"
    ):
        to_onnx(tmp_path / "student.onnx", NET, weights, opset=opset)


def test_an_opset_that_pytorch_does_not_export(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **options: export(*a, **options | {"opset_version": 18}))
    with pytest.raises(EsnacError, match=r"^opset = 19: this PyTorch can only export opset 18; give that, or None$"):
        to_onnx(tmp_path / "student.onnx", NET, weights, opset=19)
    assert not (tmp_path / "student.onnx").exists()


def test_what_pytorch_cannot_export_is_told_in_one_line(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ValueError("no way\n\n" + "long story " * 100)

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(EsnacError, match=r"cannot export this student as ONNX \(ValueError: no way long") as caught:
        to_onnx(tmp_path / "student.onnx", NET, weights)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_weights_and_paths_that_do_not_fit(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchitectureError, match=r"weights lack 'a\.weight'"):
        to_onnx(tmp_path / "student.onnx", NET, {})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(onnx_model, "_export", lambda *arguments: Program())
    with pytest.raises(EsnacError, match=r"^cannot write '.*' \(File exists\)"):
        to_onnx(tmp_path / "file" / "student.onnx", NET, weights)


# -- every kind of layer -----------------------------------------------------------------------------------------------


def side_by_side(*layers: tuple[Any, ...], shape: tuple[int, ...] = (4, 6, 5)) -> Architecture:
    """Layers (kind, attrs, channels) that all read the input, flattened and joined."""
    made: list[Layer] = []
    for kind, attrs, *channels in layers:
        index = len(made)
        inputs = (slot(INPUT),) * max(1, LAYER_TYPES[kind].slots)
        made.append(Layer(f"{index}", kind, inputs, *channels, attrs=attrs))
        made.append(Layer(f"flat{index}", "flatten", (slot(index),)))
    made.append(Layer("join", "concat", tuple(slot(i) for i in range(1, len(made), 2))))
    return Architecture(tuple(made), shape, slot(len(made) - 1))


def gates() -> Architecture:
    """Products and sums with broadcasting, and kinds that read features."""
    layers = (
        Layer("pool", "adaptive_avg_pool", (slot(INPUT),), attrs={"output_size": 1}),
        Layer("flat", "flatten", (slot(0),)), Layer("bn", "batch_norm", (slot(1),)),
        Layer("ln", "layer_norm", (slot(2),)), Layer("scale", "scale", (slot(3),)), Layer("prelu", "prelu", (slot(4),)),
        Layer("back", "unflatten", (slot(5),)), Layer("one", "conv", (slot(INPUT),), 1, {"kernel_size": 1}),
        Layer("product", "multiply", (slot(6), slot(INPUT))), Layer("sum", "add", (slot(8, INPUT), slot(7, 7))),
        Layer("zeros", "zeros", (slot(9),), 3), Layer("cat", "concat", (slot(10), slot(9), slot(7))),
    )  # fmt: skip
    return Architecture(layers, (4, 6, 5), slot(11))


NUMBERS = (0.5, 0.75)
KINDS = {
    "activations": side_by_side(
        *(("activation", {"function": name, "arguments": NUMBERS[:n]}) for name, n in ACTIVATIONS.items())
    ),
    "norms": side_by_side(
        ("prelu", {}), ("prelu", {"shared": True}), ("layer_norm", {}), ("layer_norm", {"bias": False, "eps": 0.1}),
        ("group_norm", {"groups": 2}), ("group_norm", {"groups": 4, "affine": False}), ("instance_norm", {}),
        ("instance_norm", {"affine": True}), ("scale", {}), ("scale", {"bias": True}), ("batch_norm", {}),
    ),
    "maps": side_by_side(
        ("affine", {"factor": -2, "offset": 1}), ("select", {"runs": [(1, 3)]}), ("zeros", {}, 2),
        ("select", {"runs": [(3, 4), (0, 2), (1, 2)]}), ("stochastic_depth", {"p": 0.5}),
        ("adaptive_max_pool", {"output_size": 1}), ("adaptive_max_pool", {"output_size": (3, 5)}),
        *(("pad", {"sizes": (1, 2, 3, 0), "mode": mode, "value": 0.5}) for mode in
          ("constant", "reflect", "replicate", "circular")),
        ("pad", {"sizes": (-1, 2, 0, -2)}),
    ),
    "tensors": side_by_side(
        *(("broadcast", {"operation": operation, "height": True, "trained": trained})
          for operation in ("add", "subtract", "multiply", "divide") for trained in (False, True)),
        ("broadcast", {"operation": "add", "channels": True}), ("rms_norm", {}), ("rms_norm", {"weight": False}),
    ),
    "sizes": side_by_side(
        *(("upsample", {"size": size, "mode": mode, "align_corners": corners})
          for size in ((12, 10), (4, 7)) for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
          for corners in ((False, True) if mode.startswith("bi") else (False,)))
    ),
    "gates": gates(),
}  # fmt: skip


def some_weights(architecture: Architecture) -> Weights:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(tensor.shape, generator=generator) + 0.25
        if name.endswith("running_var")
        else torch.randn(tensor.shape, generator=generator)
        for name, tensor in build(architecture).weights().items()
    }


def assert_same(architecture: Architecture, weights: Weights, path: Path) -> None:
    to_onnx(path, architecture, weights)
    for count in (1, 2, 5):
        x = torch.randn(count, *architecture.input_shape, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = build(architecture, weights).eval()(x)
        torch.testing.assert_close(run(path, x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_computes_the_same(name: str, tmp_path: Path) -> None:
    assert_same(KINDS[name], some_weights(KINDS[name]), tmp_path / "student.onnx")


def test_every_kind_is_among_them() -> None:
    """Those of NET, and of the students of real teachers, besides."""
    found = {layer.kind for network in (NET, *KINDS.values()) for layer in network.layers}
    assert found == set(LAYER_TYPES) - {"max_pool", "relu", "opaque"}


def test_a_pool_that_onnx_has_not_is_named_in_one_line(tmp_path: Path) -> None:
    """Four rows of six: windows of one and of two pixels, which overlap."""
    architecture = side_by_side(("adaptive_max_pool", {"output_size": (4, 5)}))
    with pytest.raises(EsnacError, match=r"cannot export .* No ONNX function found .*adaptive_max_pool2d") as caught:
        to_onnx(tmp_path / "student.onnx", architecture, {})
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*.onnx*"))


# -- opaque layers -----------------------------------------------------------------------------------------------------


class Rolled(nn.Module):
    """What no table knows, with a counter of integers."""

    def __init__(self, careful: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.careful = careful

    def forward(self, x: Tensor) -> Tensor:
        if not self.careful and float(x.sum()) > 0:
            return -x
        return torch.roll(self.norm(x), 1, 2).cumsum(3)


def opaque(code: nn.Module | None) -> Architecture:
    tensors = [(name, tuple(tensor.shape), name in ("norm.weight", "norm.bias"))
               for name, tensor in Rolled().state_dict().items()]  # fmt: skip
    attrs = {"what": "roll", "inputs": [(2, 3, 3)], "output": (2, 3, 3), "tensors": tensors}
    layer = Layer("mix", "opaque", (slot(INPUT),), attrs=attrs, code=code, reason="torch.roll")
    return Architecture((layer,), (2, 3, 3), slot(0))


def test_opaque_code_goes_out_if_it_can(tmp_path: Path) -> None:
    code = Rolled()
    code(torch.randn(4, 2, 3, 3))  # moves the running statistics and the counter
    architecture = opaque(code)
    weights = build(architecture).weights()
    assert weights["mix.norm.num_batches_tracked"].dtype == torch.int64
    assert_same(architecture, weights, tmp_path / "student.onnx")


@pytest.mark.parametrize(
    ("code", "why"), [(Rolled(careful=False), "cannot export this student"), (None, "only its teacher's module")]
)
def test_opaque_code_that_cannot_go_out_is_told_in_one_line(code: Any, why: str, tmp_path: Path) -> None:
    weights = build(opaque(Rolled())).weights()
    with pytest.raises(EsnacError, match=why) as caught:
        to_onnx(tmp_path / "student.onnx", opaque(code), weights)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not list(tmp_path.glob("*.onnx*"))
