"""A study goes by what its files hold, not by their names.

The table: {new study, resume, shared evaluation} × {model file, weights file, images, labels, normalisation ...}. Every
change is made under the old names. What a new study has must be what it has where nothing was ever stored.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from study.helpers import Listening

from esnac_lib.config.experiment import Changes, ExperimentConfig
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.files import load_weights
from esnac_lib.latent_descent.study import CompressionStudy
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.experiment import Experiment
from esnac_lib.study.study import Study
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import train_teacher

MODEL = """
import torch
from torch import nn
from blocks import WIDTH, Sorted


class Net(nn.Module):
    def __init__(self, more=0):
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH + more, 3, padding=1)
        self.again = nn.Conv2d(WIDTH + more, 8, 3, padding=1)
        self.sorted = Sorted()
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.again(torch.relu(self.conv(x))))
        return self.out(self.sorted(x).mean((2, 3)))
"""
BLOCKS = """
import torch
from torch import nn

WIDTH = 8


class Sorted(nn.Module):
    def forward(self, x):
        return torch.sort(x, 1, descending=False)[0]
"""
TINY: dict[str, Any] = {
    "study": "exp/first", "teacher": "model.py:Net", "dataset": "images.npz", "sampler": "random", "K": 2, "steps": 1,
    "operators": "shrink", "epochs": 1, "teacher_epochs": 1, "validation": 20, "batch_size": 40, "final": "none",
    "augment": False, "device": "cpu",
}  # fmt: skip


# -- the changes, each under the old names -----------------------------------------------------------------------------


def edit(name: str, old: str, new: str) -> None:
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new))
    sys.modules.pop("blocks", None)
    shutil.rmtree("__pycache__", ignore_errors=True)  # of blocks.py, edited within the second


def arrays(**changes: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load("images.npz") as file:
        found = {key: file[key] for key in file.files}
    np.savez("images.npz", **{key: changes.get(key, lambda array: array)(array) for key, array in found.items()})


def reordered(array: np.ndarray) -> np.ndarray:
    return array[::-1]


def weights() -> None:
    save_file({name: tensor + 0.125 for name, tensor in load_file("net.safetensors").items()}, "net.safetensors")


class Change:
    """A change, what its refusal names, and parameters of the study before and after it."""

    def __init__(self, says: str, do: Callable[[], None], trained: bool = True, **config: Any) -> None:
        self.says, self.do, self.trained = says, do, trained
        self.before = {} if trained else {"teacher_weights": "net.safetensors"}
        self.after = self.before | config


CHANGES = {
    "activation in the model file": Change(
        "another architecture", lambda: edit("model.py", "torch.relu(self.conv", "torch.tanh(self.conv")
    ),
    "width in the model file": Change(
        r"another architecture \(stored \d+ layers with 700 parameters", lambda: edit("model.py", "more=0", "more=4")
    ),
    "initialisation in the model file": Change(
        "other weights",
        lambda: edit("model.py", "Linear(8, 4)\n", "Linear(8, 4)\n        nn.init.zeros_(self.out.bias)\n"),
    ),
    "width in an imported module": Change("another architecture", lambda: edit("blocks.py", "WIDTH = 8", "WIDTH = 9")),
    "code that is kept as it is": Change("another architecture", lambda: edit("blocks.py", "=False", "=True")),
    "teacher_options": Change("teacher_options: stored", lambda: None, teacher_options='{"more": 2}'),
    "weights file": Change("other weights", weights, trained=False),
    "inverted images": Change("other training images", lambda: arrays(train_images=np.invert)),
    "resized images": Change(
        "another architecture.*, other training images",
        lambda: arrays(**dict.fromkeys(("train_images", "test_images"), lambda images: images[:, :6, :6])),
    ),
    "reordered images": Change(
        "other training images .*, other training labels",
        lambda: arrays(train_images=reordered, train_labels=reordered),
    ),
    "labels": Change("other training labels", lambda: arrays(train_labels=lambda labels: (labels + 1) % 4)),
    "test images": Change("other test images", lambda: arrays(test_images=np.invert)),
    "test labels": Change("other test labels", lambda: arrays(test_labels=lambda labels: (labels + 1) % 4)),
    "flip": Change("another flip", lambda: arrays(flip=np.invert)),
    "normalisation": Change("normalise: stored", lambda: None, normalise="0.5/0.3"),
    "images for given weights": Change("other training images", lambda: arrays(train_images=np.invert), trained=False),
}
EVERY = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


# -- a project with a finished study -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project's files and the outputs of two finished studies, one of a teacher with weights."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        Path("model.py").write_text(MODEL)
        Path("blocks.py").write_text(BLOCKS)
        rng = np.random.default_rng(0)
        images = {
            f"{part}_images": rng.integers(0, 256, (n, 8, 8), np.uint8) for part, n in (("train", 100), ("test", 40))
        }
        labels = {f"{part}_labels": np.arange(n) % 4 for part, n in (("train", 100), ("test", 40))}
        np.savez("images.npz", **images, **labels, flip=np.array(False))
        study().run()
        teacher = study().untrained.weights
        save_file({name: tensor * 2 for name, tensor in teacher.items()}, "net.safetensors")
        study(study="given/first", teacher_weights="net.safetensors").run()
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    shutil.copytree(finished, tmp_path / "project")
    enter(tmp_path / "project", monkeypatch)
    return tmp_path / "project"


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    patch.delitem(sys.modules, "blocks", raising=False)
    patch.setenv("ESNAC_OUTPUTS", str(folder / "outputs"))


def study(recipe: Recipe | None = None, **changes: Any) -> Study:
    return Study(StudyConfig(**TINY | changes), Listening(), recipe)


def first(change: Change) -> dict[str, Any]:
    """The name and parameters of the finished study that a change is made to."""
    return change.before | {"study": "exp/first" if change.trained else "given/first"}


def second(change: Change) -> Study:
    return study(**change.after | {"study": "exp/second" if change.trained else "given/second"})


# -- the table ---------------------------------------------------------------------------------------------------------


@EVERY
def test_a_new_study_has_the_teacher_that_its_files_make_and_looks_nothing_up(change: Change, project: Path) -> None:
    before = set((project / "outputs" / "teachers").iterdir())
    change.do()
    new = second(change)
    new.run()
    ledger = Ledger(new.ledger_path, read_only=True)
    recorded = ledger.results("teacher")["search"]
    assert recorded["params"] == new.space.teacher.num_params
    assert recorded["architecture"] == new.space.teacher.to_json()
    assert not ledger.results("shared")
    trained = set((project / "outputs" / "teachers").iterdir()) - before
    assert len(trained) == change.trained
    alone = train_teacher("search", new.config, new.data, project / "nothing is stored here")
    assert recorded["accuracy"] == alone.accuracy
    found = load_weights(trained.pop() / "weights.safetensors") if trained else new.untrained.weights
    assert found.keys() == alone.weights.keys()
    assert all(torch.equal(found[name], alone.weights[name]) for name in found)


@pytest.mark.parametrize("name", ["activation in the model file", "weights file"])
def test_an_evaluation_of_the_same_content_is_looked_up(name: str, project: Path) -> None:
    same = study(**first(CHANGES[name]) | {"study": first(CHANGES[name])["study"].replace("first", "second")})
    same.run()
    assert len(Ledger(same.ledger_path).results("shared")) == 2


@EVERY
@pytest.mark.parametrize("more", [{}, {"steps": 2}], ids=["as it was", "with more steps"])
def test_resuming_is_refused_in_one_line_that_names_what_changed(
    change: Change, more: dict[str, Any], project: Path
) -> None:
    ledger = study(**first(change)).ledger_path
    before = ledger.read_bytes()
    change.do()
    with pytest.raises(ConfigError, match=rf"\Astudy '\w+/first' was started with [^\n]*{change.says}[^\n]*\Z") as told:
        study(**first(change) | change.after | more)
    assert "back" in str(told.value)
    assert ledger.read_bytes() == before


@pytest.mark.parametrize("name", ["activation in the model file", "weights file", "labels"])
def test_with_the_old_files_brought_back_it_goes_on(name: str, project: Path, finished: Path) -> None:
    CHANGES[name].do()
    for file in ("model.py", "net.safetensors", "images.npz"):
        shutil.copy(finished / file, file)
    resumed = study(**first(CHANGES[name]), steps=2)
    resumed.run()
    assert len(Ledger(resumed.ledger_path).trials()) == 4


# -- more of the kind --------------------------------------------------------------------------------------------------


def test_the_same_names_in_another_project(project: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write to the same outputs; the other's model is wider, and one more has the same files."""
    for name, width in (("wide", "WIDTH = 9"), ("same", "WIDTH = 8")):
        folder = project.with_name(name)
        shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("outputs"))
        enter(folder, monkeypatch)
        monkeypatch.setenv("ESNAC_OUTPUTS", str(project / "outputs"))
        edit("blocks.py", "WIDTH = 8", width)
        other = study(study=name)
        other.run()
        recorded = Ledger(other.ledger_path).results("teacher")["search"]
        assert recorded["params"] == other.space.teacher.num_params
    stored = list((project / "outputs" / "teachers").glob("*-search-*"))
    assert len(stored) == 2  # the first project's, which "same" shares, and the wide one


def test_a_study_on_another_recipe_for_its_teacher(project: Path) -> None:
    recipe = Recipe.teacher(study().config, "search")
    study(recipe).run()  # the same as by the config
    with pytest.raises(
        ConfigError, match=r"another recipe for its teacher \(stored epochs 1, lr 0\.1, [^\n]+ given epochs 1, lr 0\.05"
    ):
        study(replace(recipe, lr=0.05))


def test_a_model_that_is_edited_while_its_study_runs(project: Path) -> None:
    running = study(study="running")
    edit("model.py", "torch.relu(self.conv", "torch.tanh(self.conv")
    with pytest.raises(ConfigError, match=r"'running' was started with another architecture .* model file"):
        running.train_reference()


def test_a_study_that_another_process_began_meanwhile(project: Path) -> None:
    later = study(study="both")
    arrays(train_images=np.invert)
    study(study="both").run()
    with pytest.raises(ConfigError, match="'both' was started with other training images"):
        later.run()


def test_a_teacher_that_is_trained_again_and_differs_is_told(project: Path) -> None:
    [folder] = [path for path in (project / "outputs" / "teachers").iterdir() if "-search-" in path.name]
    shutil.rmtree(folder)
    again = study(steps=2)
    again.run()
    assert not any("trained again" in line for line in again.progress.said)  # to the same bits
    shutil.rmtree(folder)
    elsewhere = study(steps=3)
    elsewhere.untrained.weights["conv.weight"] += 0.25  # as another machine's rounding might, but more
    elsewhere.run()
    assert any(line.startswith("the search teacher was trained again") for line in elsewhere.progress.said)


class Two(ExperimentConfig):
    """Two studies of random search."""

    def variants(self) -> dict[str, Changes]:
        return {"first": {}, "second": {"K": 3}}


@pytest.mark.parametrize("runs", [1, 2])
def test_an_experiment_is_about_one_teacher(runs: int, project: Path) -> None:
    """Its finished studies are not run again, and yet compared with those that are left."""
    values = TINY | {"study": "pair", "search_images": 0, "runs": runs}
    config = Two(**values)
    study(**config.studies()[0].to_dict()).run()
    (project / "outputs" / "pair" / "first_seed0" / "summary.json").write_text('{"evaluations": 2}')
    assert len(Experiment(config, Listening()).left) == 2 * runs - 1
    if runs == 1:  # nor is one of which nothing is left to do
        (project / "outputs" / "pair" / "second_seed0").mkdir()
        (project / "outputs" / "pair" / "second_seed0" / "summary.json").write_text('{"evaluations": 3}')
        assert not Experiment(config, Listening()).left
    edit("model.py", "torch.relu(self.conv", "torch.tanh(self.conv")
    with pytest.raises(ConfigError, match="'pair/first_seed0' was started with another architecture"):
        Experiment(config, Listening())


def test_the_second_paper_s_study(project: Path) -> None:
    values = {"study": "ac", "architectures": 8, "stop_after": "architectures", "dataset": "images.npz",
              "validation": 20, "max_length": 32, "max_macs": 0, "search_images": 0, "device": "cpu"}  # fmt: skip
    assert not CompressionStudy(CompressionConfig(**values, max_minutes=1e-6), Listening()).run()  # only begun
    CompressionStudy(CompressionConfig(**values, final_epochs=9), Listening())  # what is trained later may change
    arrays(test_labels=lambda labels: (labels + 1) % 4)
    with pytest.raises(ConfigError, match=r"\Astudy 'ac' was started with other test labels [^\n]+\Z"):
        CompressionStudy(CompressionConfig(**values | {"architectures": 9}), Listening())


def older(name: str) -> Study:
    """A study that an earlier version began: its ledger has no fingerprint."""
    with Ledger.start(study().ledger_path, {}) as ledger:
        teacher = ledger.results("teacher")["search"]
    found = study(study=name)
    with Ledger.start(found.ledger_path, found.config.to_dict()) as ledger:
        ledger.result("teacher", "search", teacher)
    return found


def test_an_older_study_goes_on_with_the_same_graph_and_says_what_was_not_compared(project: Path) -> None:
    old = older("exp/old")
    old.run()
    assert any("begun by an earlier version" in line for line in old.progress.said)
    assert not Ledger(old.ledger_path).results("shared")
    shutil.rmtree(project / "outputs" / "exp" / "first")
    other = study(study="exp/other")
    other.run()
    assert not Ledger(other.ledger_path).results("shared")  # it gives nothing to others either
    again = study(study="exp/old", steps=2)
    again.run()
    assert not any("earlier version" in line for line in again.progress.said)
    arrays(train_images=np.invert)
    with pytest.raises(ConfigError, match="other training images"):
        study(study="exp/old", steps=2)


def test_an_older_study_of_another_graph_is_refused(project: Path) -> None:
    older("old")
    edit("model.py", "torch.relu(self.conv", "torch.tanh(self.conv")
    with pytest.raises(ConfigError, match="'old' was started with another architecture"):
        study(study="old")
