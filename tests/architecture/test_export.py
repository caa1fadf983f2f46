"""Students of several teachers, shrunk, cut short and connected, go out in three forms and come back the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esnac_lib.architecture.export.bundle import load_bundle, read_bundle, save_bundle
from esnac_lib.architecture.export.everything import save_all
from esnac_lib.architecture.export.onnx_model import to_onnx
from esnac_lib.architecture.export.python_file import save_python
from esnac_lib.architecture.graph import Architecture, Layer, slot
from esnac_lib.architecture.network import Weights, build, inherit
from esnac_lib.architecture.tracing import trace
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
        save_python(folder / name, architecture, weights)
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


def test_all_forms_at_once_each_as_far_as_it_goes(tmp_path: Path) -> None:
    architecture, weights = student("cnn4")
    found = save_all(tmp_path / "taken", architecture, weights)
    assert found == {"bundle": "taken/", "python": "taken/python/student.py", "onnx": "taken/student.onnx"}
    assert all((tmp_path / path).exists() for path in found.values())
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
