"""ONNX: what is written, what is refused, and what is never left behind. Students of real teachers: `test_export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from esnac_lib.architecture import INPUT, Architecture, Layer, slot
from esnac_lib.errors import ArchitectureError, EsnacError
from esnac_lib.export import onnx_model, to_onnx
from esnac_lib.network import Weights, build

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
