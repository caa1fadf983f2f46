"""Bundles: what is refused when saving, what a damaged one does, and that nothing of the teacher is needed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import architectures
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from esnac_lib.architecture.export.bundle import load_bundle, read_bundle, save_bundle
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.network import Weights, build, inherit
from esnac_lib.errors import ArchitectureError, EsnacError
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.space.search_space import SearchSpace

ROOT = Path(__file__).resolve().parents[2]
FILES = ("bundle.json", "architecture.json", "weights.safetensors")


def net(filters: int = 4) -> Architecture:
    layers = (
        Layer("conv", "conv", (slot(INPUT),), filters, {"kernel_size": 3}),
        Layer("bn", "batch_norm", (slot(0),)),
        Layer("flatten", "flatten", (slot(1),)),
        Layer("linear", "linear", (slot(2),), 3),
    )
    return Architecture(layers, (2, 4, 4), slot(3))


def weights_of(architecture: Architecture) -> Weights:
    return build(architecture).weights()


def refused(folder: Path) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(EsnacError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """As one who means harm would: with the sum that fits."""
    (folder / name).write_bytes(data)
    sums = json.loads((folder / "bundle.json").read_text())["sha256"]
    edit(folder, sha256=sums | {name: hashlib.sha256(data).hexdigest()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "student", net(), weights_of(net()), classes=("cat", "dog", "Ø"))
    return tmp_path / "student"


def test_it_says_what_it_is(tmp_path: Path) -> None:
    architecture = net()
    save_bundle(tmp_path, architecture, weights_of(architecture), normalisation=([0.5, 0.25], [0.1, 2]))
    facts = json.loads((tmp_path / "bundle.json").read_text())
    assert facts.pop("sha256").keys() == {"architecture.json", "weights.safetensors"}
    assert facts == {
        "format": "esnac bundle",
        "version": 1,
        "arch_id": architecture.arch_id,
        "input_shape": [2, 4, 4],
        "output_shape": [3],
        "params": 4 * 2 * 9 + 4 + 2 * 4 + 3 * 16 + 3,
        "macs": 4 * 2 * 9 * 4 + 3 * 16,
        "classes": None,
        "normalisation": {"mean": [0.5, 0.25], "std": [0.1, 2.0]},
    }
    assert read_bundle(tmp_path).normalisation == ((0.5, 0.25), (0.1, 2.0))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(FILES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in weights_of(net()).items()}
    save_bundle(tmp_path, net(), weights)
    found = load_bundle(tmp_path).weights()
    assert all(found[name].dtype == dtype and torch.equal(found[name], weights[name]) for name in weights)


def test_weights_may_share_memory_and_be_strided(tmp_path: Path) -> None:
    weights = weights_of(net())
    weights["bn.bias"] = weights["bn.weight"] = torch.arange(8.0)[::2]
    weights["linear.weight"] = torch.rand(16, 3).T
    save_bundle(tmp_path, net(), weights)
    found = read_bundle(tmp_path).weights
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_bundle_is_replaced_and_other_files_are_left_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    save_bundle(folder, net(6), weights_of(net(6)))
    found = read_bundle(folder)
    assert found.architecture == net(6) and found.classes is None
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, "notes.txt"))


def test_it_needs_its_teacher_no_more(tmp_path: Path) -> None:
    """A shrunk student names channels of its teacher; out of its bundle it is a teacher of its own, shrunk again."""
    space = SearchSpace(net(8))
    student = shrink(space.teacher, {0: np.arange(2, 8)})
    weights = inherit(weights_of(space.teacher), student)
    with pytest.raises(ArchitectureError):
        inherit(weights, student)
    save_bundle(tmp_path, student, weights)
    bundle = read_bundle(tmp_path)
    assert bundle.architecture == student and inherit(bundle.weights, bundle.architecture).keys() == weights.keys()
    smaller = shrink(bundle.architecture, {0: np.arange(1, 3)})
    assert torch.equal(inherit(bundle.weights, smaller)["conv.weight"], weights["conv.weight"][1:3])


def test_what_cannot_be_written_leaves_the_old_bundle(folder: Path, tmp_path: Path) -> None:
    (folder / "bundle.json.part").mkdir()
    with pytest.raises(EsnacError, match=r"cannot write into .* \(Is a directory\)"):
        save_bundle(folder, net(6), weights_of(net(6)))
    assert read_bundle(folder).architecture == net()
    assert not (folder / "weights.safetensors.part").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(EsnacError, match="File exists"):
        save_bundle(tmp_path / "file", net(), weights_of(net()))


@pytest.mark.parametrize("classes", ["abc", ["a", "b"], ["a", "b", 3], {"a": 1, "b": 2, "c": 3}, 3])
def test_classes_that_do_not_fit_are_refused(classes: Any, tmp_path: Path) -> None:
    with pytest.raises(EsnacError, match=r"^classes = .*: it must be a list of 3 names, one for each output$"):
        save_bundle(tmp_path / "new", net(), weights_of(net()), classes=classes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "scale",
    [1.0, (0.5, 0.5), ([0.5, 0.5],), ([0.5], [1.0]), ([0.5, 0.5], [1.0, 0.0]), ([0.5, float("nan")], [1.0, 1.0]),
     ([0.5, "x"], [1.0, 1.0])],
)  # fmt: skip
def test_a_normalisation_that_does_not_fit_is_refused(scale: Any, tmp_path: Path) -> None:
    with pytest.raises(EsnacError, match=r"^normalisation = .*each with 2 numbers"):
        save_bundle(tmp_path, net(), weights_of(net()), normalisation=scale)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EsnacError, match=r"'conv.weight' has shape \(6, 2, 3, 3\): it must be \(4, 2, 3, 3\)"):
        save_bundle(tmp_path, net(), weights_of(net(6)))
    with pytest.raises(EsnacError, match=r"'bn.bias' holds torch.int64: it must hold floating-point"):
        save_bundle(tmp_path, net(), weights_of(net()) | {"bn.bias": torch.arange(4)})


@given(architecture=architectures())
@settings(max_examples=20)
def test_any_graph_comes_back(tmp_path_factory: pytest.TempPathFactory, architecture: Architecture) -> None:
    folder, weights = tmp_path_factory.mktemp("bundle"), weights_of(architecture)
    save_bundle(folder, architecture, weights)
    found = read_bundle(folder)
    assert found.architecture == architecture and found.weights.keys() == weights.keys()
    x = torch.randn(2, *architecture.input_shape)
    with torch.no_grad():
        assert torch.equal(load_bundle(folder)(x), build(architecture, weights).eval()(x))


def opaque() -> Architecture:
    attrs = {"what": "roll", "inputs": [(3,)], "output": (3,)}
    layer = Layer(
        "mix", "opaque", (slot(3),), attrs=attrs, code=torch.nn.Identity(), reason="torch.roll\nin mix, line 7"
    )
    return Architecture((*net().layers, layer), (2, 4, 4), slot(4))


def test_an_opaque_layer_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(EsnacError) as caught:
        save_bundle(tmp_path / "new", opaque(), weights_of(opaque()))
    assert str(caught.value) == "layer 'mix' is opaque (torch.roll in mix, line 7): a bundle cannot hold its code"
    assert not (tmp_path / "new").exists()


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert name in refused(folder) and "No such file" in refused(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    assert "give a folder that save_bundle wrote" in refused(tmp_path / "nowhere")
    (tmp_path / "bundle.json").write_text('{"version": 1}')
    assert "is not of a bundle" in refused(tmp_path)


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_a_cut_or_changed_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, flip: int
) -> None:
    """flip 0 cuts the file, others change one byte. In bundle.json that may hit what cannot be checked: a name."""
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(folder, net(), weights_of(net()), classes=["a", "b", "c"])
    data = bytearray((folder / name).read_bytes())
    position = int(place * len(data))
    if flip:
        data[position] ^= flip
    else:
        del data[position:]
    (folder / name).write_bytes(data)
    try:
        found = read_bundle(folder)
    except EsnacError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    else:
        assert name == "bundle.json" and (flip or data.endswith(b"}")) and found.architecture == net()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "has version 2, this library reads up to version 1: install a newer esnac_lib"),
        ({"version": "1"}, "has the version '1', which does not exist"),
        ({"version": True}, "has the version True"),
        ({"params": 1}, "bundle.json says params = 1, the graph 135"),
        ({"input_shape": [3, 4, 4]}, r"says input_shape = \[3, 4, 4\]"),
        ({"classes": ["a"]}, "one for each output"),
        ({"normalisation": {"mean": [0.5]}}, "damaged .KeyError: 'std'"),
        ({"normalisation": 3}, "damaged .TypeError"),
        ({"sha256": {}}, "damaged .KeyError"),
        ({"sha256": "x"}, "damaged .TypeError"),
    ],
)
def test_facts_that_do_not_fit(changes: dict[str, Any], why: str, folder: Path) -> None:
    edit(folder, **changes)
    with pytest.raises(EsnacError, match=why):
        load_bundle(folder)
    refused(folder)


def test_an_exchanged_file_is_named(folder: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "other", net(), weights_of(net()))
    (folder / "weights.safetensors").write_bytes((tmp_path / "other" / "weights.safetensors").read_bytes())
    assert "weights.safetensors is not the file that was saved with it" in refused(folder)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("weights.safetensors", save(weights_of(net(6))), "it must be (4, 2, 3, 3)"),
        ("weights.safetensors", save(weights_of(net()) | {"bn.bias": torch.arange(4)}), "floating-point"),
        ("weights.safetensors", save({"conv.weight": torch.zeros(4, 2, 3, 3)}), "weights lack 'conv.bias'"),
        ("weights.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "damaged"),
        ("weights.safetensors", b"", "damaged"),
        ("architecture.json", net(6).to_json().encode(), "it must be (6, 2, 3, 3)"),
        ("architecture.json", net().to_json().replace('"version":1', '"version":9').encode(), "version 9"),
        ("architecture.json", net().to_json().replace("batch_norm", "exec").encode(), "kind 'exec'"),
        ("architecture.json", opaque().to_json().encode(), "'mix' is opaque (torch.roll in mix, line 7)"),
        ("architecture.json", b"\xff\xfe", "damaged"),
        ("architecture.json", b"[" * 100_000, "damaged"),
        ("architecture.json", b"__import__('os').abort()", "not an architecture in JSON"),
    ],
)
def test_files_made_to_harm_are_refused(name: str, data: bytes, why: str, folder: Path) -> None:
    replace_file(folder, name, data)
    assert why in refused(folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b"null", b"1e999"])
def test_facts_made_to_harm_are_refused(text: bytes, folder: Path) -> None:
    (folder / "bundle.json").write_bytes(text)
    assert "bundle.json" in refused(folder)


def test_loading_imports_nothing_of_teachers_or_searches(folder: Path) -> None:
    code = (
        "import sys; from esnac_lib.architecture.export import load_bundle; import torch\n"
        f"print(load_bundle({str(folder)!r})(torch.zeros(2, 2, 4, 4)).shape)\n"
        "print([m for m in sys.modules if m.startswith(('esnac_lib.teachers', 'esnac_lib.space', 'onnx', 'pandas'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "torch.Size([2, 3])\n[]\n"
