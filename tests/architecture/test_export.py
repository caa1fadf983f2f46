"""Students of several teachers, shrunk, cut short and connected, go out in three forms and come back the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esnac_lib.architecture.export.bundle import load_bundle, read_bundle, save_bundle
from esnac_lib.architecture.export.everything import save_all
from esnac_lib.architecture.export.onnx_model import to_onnx
from esnac_lib.architecture.export.python_file import python_weights, save_python, to_python
from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.network import Weights, build, inherit, weight_shapes
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import EsnacError
from esnac_lib.seeding import make_generator, make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import teacher

TEACHERS = {"cnn4": (1, 8), "conv7": (1, 28), "resnet18": (3, 16), "shufflenet": (3, 32), "vgg19": (3, 32)}


def images(architecture: Architecture, count: int) -> Tensor:
    return torch.randn(count, *architecture.input_shape, generator=make_generator(1, "images", count))


@lru_cache
def student(name: str) -> tuple[Architecture, Weights]:
    """A student that uses all three operators, with running statistics of its own."""
    channels, size = TEACHERS[name]
    architecture, weights = trace(teacher(name, 10, channels, size, seed=0), torch.zeros(1, channels, size, size))
    space = SearchSpace(architecture)
    for index in range(100):
        decisions = space.sample(make_rng(0, name, index))
        if decisions.removed and decisions.skips and any(decisions.ratios):
            break
    else:
        pytest.fail("no sample of the space removes, shrinks and connects")
    architecture = space.apply(decisions)
    network = build(architecture, inherit(weights, architecture))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(images(architecture, 8))
    return architecture, network.weights()


def answers(name: str, count: int) -> Tensor:
    architecture, weights = student(name)
    with torch.no_grad():
        return build(architecture, weights).eval()(images(architecture, count))


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.isfinite().all() and expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_bundle_gives_back_exactly_what_was_saved(name: str, tmp_path: Path) -> None:
    architecture, weights = student(name)
    save_bundle(tmp_path, architecture, weights, classes=list("abcdefghij"))
    found = read_bundle(tmp_path)
    assert found.architecture == architecture
    assert found.architecture.to_json() == architecture.standing_alone().to_json()
    assert list(found.weights) == list(weights)
    assert all(torch.equal(found.weights[key], weights[key]) for key in weights)
    network = load_bundle(tmp_path)
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(images(architecture, 3)), answers(name, 3))


# Nothing of esnac_lib can be imported in there.
USER = """
import importlib, pathlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "esnac_lib":
            raise ImportError("esnac_lib is blocked")

sys.meta_path.insert(0, Block())
import torch
from safetensors.torch import load_file, save_file

found = {}
for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
    module = importlib.import_module(f"{folder.name}.student")
    model = module.Student()
    model.load_state_dict(load_file(folder / "student.safetensors"))
    with torch.no_grad():
        found[folder.name] = model.eval()(load_file(folder / "images.safetensors")["images"])
save_file(found, sys.argv[1] + "/outputs.safetensors")
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a student with student.py, student.safetensors and some images."""
    folder = tmp_path_factory.mktemp("programs")
    for name in TEACHERS:
        architecture, weights = student(name)
        names = [f"class {index}" for index in range(10)] if name == "vgg19" else list("abcdefghij")
        told = {
            "classes": names,
            "normalisation": ((1 / 3,) * architecture.input_shape[0], (2 / 3,) * architecture.input_shape[0]),
        }
        save_python(folder / name, architecture, weights, **{} if name == "conv7" else told)
        save_file({"images": images(architecture, 3)}, folder / name / "images.safetensors")
    return folder


def test_python_files_compute_the_same_without_this_library(programs: Path) -> None:
    command = [sys.executable, "-c", USER, str(programs)]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(programs / "outputs.safetensors")
    assert set(found) == set(TEACHERS)
    for name in TEACHERS:
        assert_close(found[name], answers(name, 3), 1e-5)


def test_python_files_are_clean(programs: Path) -> None:
    """For a user's linter at its defaults and at this project's settings."""
    sources = [str(programs / name / "student.py") for name in TEACHERS]
    strict = ["--line-length", "120", "--target-version", "py311"]
    for command in (
        ["check"],
        ["check", *strict, "--select", "E,F,W,I,UP,B,SIM,C4,RUF"],
        ["format", "--check", "--diff"],
        ["format", "--check", "--diff", *strict],
    ):
        line = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", *sources]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", TEACHERS)
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    architecture, weights = student(name)
    path = tmp_path / "deep" / "student.onnx"
    to_onnx(path, architecture, weights)
    assert [entry.name for entry in path.parent.iterdir()] == ["student.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        [found] = session.run(["output"], {"input": images(architecture, count).numpy()})
        assert_close(torch.from_numpy(found), answers(name, count), 1e-4)


def test_all_forms_at_once_each_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    architecture, weights = student("cnn4")
    found = save_all(tmp_path / "taken", architecture, weights)
    assert found == {"bundle": "taken", "python": "taken/python/student.py", "onnx": "taken/student.onnx"}
    assert all(Path(path).exists() for path in found.values())
    last = architecture.output_shape
    attrs = {"what": "roll", "inputs": [last], "output": last}
    layer = Layer("mix", "opaque", (architecture.output,), attrs=attrs, code=nn.Identity(), reason="torch.roll")
    mixed = replace(architecture, layers=(*architecture.layers, layer), output=slot(len(architecture.layers)))
    found = save_all(tmp_path / "mixed", mixed, weights)
    assert found["onnx"] == "mixed/student.onnx"
    assert all(
        found[form].startswith("not written: layer 'mix' is opaque (torch.roll)") for form in ("bundle", "python")
    )
    assert [path.name for path in (tmp_path / "mixed").iterdir()] == ["student.onnx"]


# -- raw images in, names of classes out -------------------------------------------------------------------------------

NAMES = (
    "T-shirt/top",
    'a "quoted" one',
    "back\\slash",
    "new\nline",
    "Ünïcode 🙂",
    "100 %",
    "{braces}",
    "it's",
    "",
    "last",
)
RAW_USER = """
import json, sys
import numpy, torch
from safetensors.torch import load_file
from student import Student, predict

model = Student()
model.load_state_dict(load_file("student.safetensors"))
images = numpy.load("images.npy")
print(json.dumps([predict(model, images), predict(model, torch.tensor(images))]))
"""


def raw_study(channels: int, folder: Path) -> StudyData:
    """Images of a user's own, whose channels differ in brightness, so that a wrong normalisation shows."""
    rng = make_rng(0, "raw", channels)
    arrays = {"classes": np.array(NAMES)}
    for part in ("train", "test"):
        noise = rng.integers(0, 256, (60, 8, 8, channels)) // 8 * np.arange(1, channels + 1)
        arrays[f"{part}_images"] = (noise + 20).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(60) % 10
    np.savez(folder / "raw.npz", **arrays)
    return StudyData(load_dataset("raw.npz", folder), StudyConfig(dataset="raw.npz", validation=10), "cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_form_names_the_class_of_a_raw_image_as_the_study_does(channels: int, tmp_path: Path) -> None:
    data = raw_study(channels, tmp_path)
    layers = (
        Layer("conv", "conv", (slot(INPUT),), 4, {"kernel_size": 3}), Layer("relu", "relu", (slot(0),)),
        Layer("flat", "flatten", (slot(1),)), Layer("fc", "linear", (slot(2),), 10),
    )  # fmt: skip
    architecture = Architecture(layers, (channels, 8, 8), slot(3))
    generator = make_generator(0, "raw weights")
    weights = {name: torch.randn(shape, generator=generator) for name, shape in weight_shapes(architecture).items()}
    ((batch, _),) = data.test.evaluation_batches(60)
    with torch.no_grad():
        scores = build(architecture, weights).eval()(batch)
    expected = [NAMES[index] for index in scores.argmax(1).tolist()]
    assert len(set(expected)) > 1
    images = data.dataset.test_images
    save_all(tmp_path / "s", architecture, weights, **data.meaning)

    np.save(tmp_path / "s" / "python" / "images.npy", images)
    command = [sys.executable, "-W", "error", "-c", RAW_USER]
    done = subprocess.run(command, cwd=tmp_path / "s" / "python", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [expected, expected]

    session = onnxruntime.InferenceSession(str(tmp_path / "s" / "student.onnx"), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    mean, std, names = (json.loads(told[key]) for key in ("mean", "std", "classes"))
    assert told["input"] == f"float32 (batch, {channels}, 8, 8), (value / 255 - mean) / std"
    normalised = ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    [found] = session.run(["output"], {"input": normalised})
    assert [names[index] for index in found.argmax(1)] == expected

    to_onnx(tmp_path / "raw.onnx", architecture, weights, raw_images=True, **data.meaning)
    session = onnxruntime.InferenceSession(str(tmp_path / "raw.onnx"), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["input"] == f"uint8 (batch, 8, 8, {channels}), as the images are" and "mean" not in told
    for count in (1, 60):
        [found] = session.run(["output"], {"input": images[:count]})
        torch.testing.assert_close(torch.from_numpy(found), scores[:count], rtol=1e-4, atol=1e-4)
    assert [json.loads(told["classes"])[index] for index in found.argmax(1)] == expected

    bundle = read_bundle(tmp_path / "s")
    assert (bundle.classes, bundle.normalisation) == (NAMES, data.normalisation)


def test_an_exported_program_refuses_images_that_are_not_raw(tmp_path: Path) -> None:
    architecture, _ = student("resnet18")
    space: dict[str, Any] = {}
    exec(to_python(architecture, normalisation=((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))), space)
    assert "predict" not in space and "CLASSES" not in space
    raw = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]])
    torch.testing.assert_close(space["preprocess"](raw), ((raw / 255 - mean) / std).permute(0, 3, 1, 2))
    grey = space["preprocess"](raw[..., 0])
    assert torch.equal(grey, space["preprocess"](raw[..., :1].repeat(1, 1, 1, 3)))
    for wrong in (raw / 255, raw.int(), raw.permute(0, 3, 1, 2), raw[:, :8], raw[0]):
        with pytest.raises(ValueError, match=r"raw images are uint8 \(batch, 16, 16, 3\)"):
            space["preprocess"](wrong)
    plain = to_python(architecture)
    assert not [name for name in ("CLASSES", "MEAN", "preprocess", "predict") if name in plain]


def test_what_an_export_is_told_must_fit(tmp_path: Path) -> None:
    architecture, weights = student("cnn4")
    wrong: dict[str, dict[str, Any]] = {
        "must be a list of 10 names": {"classes": ["a", "b"]},
        "must be \\(mean, std\\), each with 1 numbers": {"normalisation": ((0.5, 0.5), (1, 1))},
    }
    for message, values in wrong.items():
        for save in (save_bundle, save_python, to_onnx):
            with pytest.raises(EsnacError, match=message):
                save(tmp_path / "x", architecture, weights, **values)
    with pytest.raises(EsnacError, match=r"raw_images = True: .* give normalisation, too"):
        to_onnx(tmp_path / "x", architecture, weights, raw_images=True)
    assert not list(tmp_path.iterdir())


# -- names of layers ---------------------------------------------------------------------------------------------------

ODD = ["class", "None", "for", "a'b", 'a"b', "new\nline", "back\\slash", "100 %s", "ü 🙂", "self", "input", "{x}",
       "#", "/", "~", "training", "weight", "0", "a\u2028b", "val_3", "conv2d", "layers.1.weight",
       "deep.lambda.0"]  # fmt: skip


def oddly_named() -> Architecture:
    attrs = {"kernel_size": 1}
    layers = [Layer(name, "conv", (slot(index - 1),), 2, attrs) for index, name in enumerate(ODD)]
    return Architecture(tuple(layers), (2, 3, 3), slot(len(layers) - 1))


def test_layers_of_any_name_go_out_and_keep_it_in_onnx(tmp_path: Path) -> None:
    architecture = oddly_named()
    weights = build(architecture).weights()
    x = torch.randn(2, 2, 3, 3, generator=make_generator(0, "odd"))
    with torch.no_grad():
        expected = build(architecture, weights).eval()(x)
    to_onnx(tmp_path / "student.onnx", architecture, weights)
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    [found] = session.run(["output"], {"input": x.numpy()})
    assert_close(torch.from_numpy(found), expected, 1e-5)
    model = onnx.load(tmp_path / "student.onnx")
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: it.tolist() for name, it in held.items()
    }
    assert str(Path(torch.__file__).parent) not in str(model)

    save_bundle(tmp_path / "bundle", architecture, weights)
    assert torch.equal(load_bundle(tmp_path / "bundle")(x), expected)
    space: dict[str, Any] = {}
    exec(to_python(architecture), space)
    module = space["Student"]()
    module.load_state_dict(python_weights(architecture, weights))
    assert_close(module.eval()(x), expected, 1e-5)
