"""A teacher of the user's own: found, built and loaded, or refused in one line before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.errors import ConfigError
from esnac_lib.study.study import Study
from esnac_lib.teachers.user import own_teacher
from esnac_lib.training.teacher import train_teacher

DIGITS = load_dataset("digits")
SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.out(self.again(x).relu().mean((2, 3)))

def fails():
    raise ValueError("not today")

class Other(nn.Conv2d):
    def __init__(self, make):
        super().__init__(1, 10, 3, padding=1)
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x))

def masks():
    return Other(lambda scores: scores)

def boxes():
    return Other(lambda scores: {"out": scores})

def heads():
    return Other(lambda scores: (scores.mean((2, 3)), scores))

def nowhere():
    return Net().to("meta")

class Two(Net):
    def forward(self, x, y):
        return super().forward(x)

number = 3
text = str
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path / "nets.py"


def config(path: Path, what: str = "Net", **values: Any) -> StudyConfig:
    return StudyConfig.from_dict({"teacher": f"{path}:{what}", **values})


def test_a_file_and_an_import_give_the_module(own: Path) -> None:
    module = own_teacher(config(own, teacher_options='{"width": 6}'), DIGITS, seed=1)
    again = own_teacher(config(own, teacher_options='{"width": 6}'), DIGITS, seed=1)
    other = own_teacher(config(own, teacher_options='{"width": 6}'), DIGITS, seed=2)
    assert module.training and module.conv.out_channels == 6
    assert torch.equal(module.conv.weight, again.conv.weight) and not torch.equal(module.conv.weight, other.conv.weight)
    options = '{"num_classes": 10, "width_mult": 0.25, "inverted_residual_setting": [[1, 16, 1, 1]]}'
    imported = StudyConfig(teacher="torchvision.models:MobileNetV2", teacher_options=options, image_channels=3)
    assert type(own_teacher(imported, DIGITS.with_channels(3), seed=0)).__name__ == "MobileNetV2"


def test_a_teacher_with_weights_is_measured_and_not_trained(own: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path / "outputs"))
    given = own_teacher(config(own), DIGITS, seed=5)
    save_file(given.state_dict(), tmp_path / "net.safetensors")
    study = Study(config(own, teacher_weights=str(tmp_path / "net.safetensors")))
    roles = [train_teacher(role, study.config, study.data, tmp_path) for role in ("search", "reference")]
    assert all(torch.equal(role.weights["conv.weight"], given.conv.weight) and not role.curve for role in roles)
    assert not list(tmp_path.glob("*-search-*"))
    images, labels = next(study.data.validation.evaluation_batches(10_000))
    right = (given.eval()(images).argmax(1) == labels).float().mean()
    assert roles[0].accuracy == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("what", "values", "message"),
    [
        ("Nets", {}, "has no 'Nets'; did you mean 'Net'?"),
        ("masks", {}, r"outputs of shape \(2, 10, 8, 8\).*only classifiers are compressed: wrap it in a module"),
        ("boxes", {}, "returns dict for two images: .*only classifiers are compressed"),
        ("heads", {}, "returns tuple for two images: .*only classifiers are compressed"),
        ("number", {}, "is int: it must be a class or a function"),
        ("text", {}, "returns str, not a torch.nn.Module"),
        ("fails", {}, "fails: ValueError: not today"),
        ("Net", {"teacher_options": '{"wide": 3}'}, "unexpected keyword argument 'wide'"),
        ("Net", {"teacher_options": '{"classes": 7}'}, r"outputs of shape \(2, 7\).*it must be \(2, 10\)"),
        ("Net", {"image_channels": 3}, "fails on images of shape"),
        ("Net", {"teacher_weights": ".safetensors"}, "there is no such file"),
        ("Two", {}, r"missing 1 required positional argument: 'y'\Z"),
        ("nowhere", {}, "is on the device 'meta', without numbers: build it on the CPU"),
        ("Net", {"teacher_weights": "nowhere.safetensors"}, "there is no such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(own: Path, what: str, values: dict[str, Any], message: str) -> None:
    wrong = config(own, what, **values)
    with pytest.raises(ConfigError, match=message) as told:
        own_teacher(wrong, DIGITS.with_channels(wrong.image_channels), seed=0)
    assert "\n" not in str(told.value)


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    for teacher in ("no_such_package.nets:Net", f"{tmp_path}/none.py:Net"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            own_teacher(StudyConfig(teacher=teacher), DIGITS, seed=0)


def test_a_model_of_timm_by_its_own_name() -> None:
    options = '{"model_name": "mobilenetv3_small_050", "num_classes": 10}'
    with pytest.raises(ConfigError, match=f"give timm:create_model with teacher_options = '{options}'"):
        own_teacher(StudyConfig(teacher="timm:mobilenetv3_small_050"), DIGITS, seed=0)
    created = StudyConfig(teacher="timm:create_model", teacher_options=options, image_channels=3)
    assert isinstance(own_teacher(created, DIGITS.with_channels(3), seed=0), nn.Module)
    with pytest.raises(ConfigError, match=r"timm has no 'resnet1t'; did you mean 'resnet10t'\?\Z"):
        own_teacher(StudyConfig(teacher="timm:resnet1t"), DIGITS, seed=0)


def test_a_model_of_torchvision_by_its_own_name() -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no 'resnet18'; give torchvision\.models:resnet18"):
        own_teacher(StudyConfig(teacher="torchvision:resnet18"), DIGITS, seed=0)


def test_weights_of_another_network(own: Path, tmp_path: Path) -> None:
    state = own_teacher(config(own), DIGITS, seed=0).state_dict()
    path = tmp_path / "net.safetensors"
    spoiled = {
        "lacks 'out.bias'": {name: tensor for name, tensor in state.items() if name != "out.bias"},
        "has, unlike the teacher, 'more'": state | {"more": torch.zeros(1)},
        "has in another shape 'out.bias'": state | {"out.bias": torch.zeros(3)},
        "has NaN in 'out.bias'": state | {"out.bias": torch.full((10,), torch.nan)},
        "lacks 'conv.weight' and 7 more; has, unlike the teacher, 'more'; has in another shape 'out.bias'": {
            "more": torch.zeros(1),
            "out.bias": torch.zeros(3),
            "out.weight": state["out.weight"],
        },
    }
    for message, tensors in spoiled.items():
        save_file(tensors, path)
        with pytest.raises(ConfigError, match=message):
            own_teacher(config(own, teacher_weights=str(path)), DIGITS, seed=0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        own_teacher(config(own, teacher_weights=str(path)), DIGITS, seed=0)


def test_a_study_within_limits(own: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path / "outputs"))
    small = {"K": 2, "steps": 2, "epochs": 1, "final_epochs": 1, "teacher_epochs": 1, "search_images": 100, "top": 1}
    study = Study(config(own, max_params=150, grouping="dependency", baseline=False, min_accuracy=0.999, **small))
    summary = study.run()
    assert summary is not None and summary["limits"]["max_params"] == 150
    assert summary["solution"]["params"] <= 150 < summary["teacher"]["params"]
    architecture, weights = study.solution()
    assert all(layer.origin is layer.kept_out is layer.kept_in is None for layer in architecture.layers)
    assert architecture.num_params == summary["solution"]["params"] and weights
