"""A study on a Ray cluster: the same trials, whoever dies on the way; and nothing is left running."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.study import Study
from esnac_lib.training import ray_evaluator
from esnac_lib.training.callbacks import Callbacks, EpochResult, TrainingStopped
from esnac_lib.training.evaluator import Task
from esnac_lib.training.progress import Progress
from esnac_lib.training.ray_evaluator import Cluster, RayEvaluator
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import RETRIES
from esnac_lib.training.teacher import TrainedTeacher, traced_teacher

SETTINGS: dict[str, Any] = {
    "K": 2, "steps": 2, "epochs": 3, "teacher_epochs": 2, "candidates": 6, "search_images": 600, "device": "cpu",
    "final": "none", "final_epochs": 1, "top": 2,
}  # fmt: skip
TIMES = ["seconds", "propose_seconds", "told_at"]


class Quiet(Progress):
    """Says nothing."""

    def note(self, text: str) -> None:
        pass


def study(name: str, **changes: Any) -> Study:
    return Study(StudyConfig(**SETTINGS | {"study": name} | changes), Quiet())


def ledger(name: str) -> Ledger:
    return Ledger(study_dir(StudyConfig(study=name)) / "ledger.sqlite", read_only=True)


def workers_in_training() -> list[int]:
    """Processes of this machine that run a task of ours, children of this process' Ray."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title, group = (path / "cmdline").read_bytes(), os.getsid(int(path.name))
        except OSError:  # gone meanwhile
            continue
        if title.startswith(b"ray::_train_student") and group == os.getsid(0):
            found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A real Ray on this machine with two workers."""
    ray = pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'esnac_lib[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(**settings)
    except Exception as error:
        ray.shutdown()
        if os.getloadavg()[0] < 2 * (os.cpu_count() or 1):
            raise
        pytest.skip(f"this machine is so busy that Ray does not start within the 15 s that it allows itself: {error}")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The trials of the study with the local evaluator. Its teacher serves the studies on Ray too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESNAC_OUTPUTS", str(tmp_path_factory.mktemp("ray")))
        study("local").run()
        return ledger("local").trials()


@pytest.fixture
def _teachers(alone: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(next(tmp_path_factory.getbasetemp().glob("ray*"))))


def at_first_epoch(monkeypatch: pytest.MonkeyPatch, act: Callable[[Ledger], None]) -> None:
    """Does something in the middle of the first student's training."""
    real, told = Ledger.epoch, []

    def epoch(self: Ledger, phase: str, *values: Any) -> None:
        real(self, phase, *values)
        if phase == "search" and not told:
            told.append(values)
            act(self)

    monkeypatch.setattr(Ledger, "epoch", epoch)


def test_a_killed_worker_costs_a_retry_and_changes_no_trial(
    cluster: None, _teachers: None, alone: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    real = RayEvaluator._start

    def start(self: RayEvaluator, *args: Any, **kwargs: Any) -> Any:
        started.append(kwargs.get("alone", False))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(RayEvaluator, "_start", start)
    at_first_epoch(monkeypatch, lambda ledger: os.kill(workers_in_training()[0], signal.SIGKILL))
    assert study("killed", evaluator="ray").run() is not None
    assert sorted(started) == [False] * 4 + [True]
    pd.testing.assert_frame_equal(ledger("killed").trials().drop(columns=TIMES), alone.drop(columns=TIMES))
    columns = ["name", "epoch", "loss", "accuracy"]
    pd.testing.assert_frame_equal(ledger("killed").epochs("search")[columns], ledger("local").epochs("search")[columns])
    assert len(list((study_dir(StudyConfig(study="killed")) / "students").glob("trial*.safetensors"))) == 2


def test_cancelled_it_leaves_no_process_and_goes_on_anywhere(
    cluster: None, _teachers: None, alone: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an interrupt, as Jupyter sends it; that a study is asked to stop ends the same loop, see below."""

    def interrupt(ledger: Ledger) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_first_epoch(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            study("cancelled", evaluator="ray").run()
    assert ledger("cancelled").trials()["told_at"].isna().all()
    deadline = time.monotonic() + 20
    while workers_in_training() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers_in_training()
    study("cancelled", evaluator="local").run()
    pd.testing.assert_frame_equal(ledger("cancelled").trials().drop(columns=TIMES), alone.drop(columns=TIMES))


# The loop alone, on a cluster that is played


class Lost(Exception):
    """A worker that died."""


class Fault(Exception):
    """A mistake in the program."""


class PlayedRay:
    """Answers as Ray does; `script` holds, for each start of a student, what its stream brings."""

    def __init__(self, script: dict[str, list[list[Any]]], gpus: int = 0) -> None:
        self.script, self.gpus = script, gpus
        self.calls: list[tuple[str, Any]] = []
        self.exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Fault)

    def is_initialized(self) -> bool:
        return False

    def init(self, **settings: Any) -> None:
        self.calls.append(("init", settings.get("address")))
        if settings.get("address") == "nowhere":
            raise ConnectionError("nobody\nthere")

    def shutdown(self) -> None:
        self.calls.append(("shutdown", None))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": float(self.gpus)}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **settings: Any) -> Callable[[Any], Any]:
        return lambda function: self

    def options(self, num_cpus: float, num_gpus: float) -> Any:
        def start(shared: Any, key: str, *arguments: Any) -> Iterator[Any]:
            self.calls.append((key, num_gpus))
            return iter(self.script[key].pop(0))

        return SimpleNamespace(remote=start)

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return streams[-1:], streams[:-1]

    def get(self, message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self, stream: Any, force: bool) -> None:
        self.calls.append(("cancel", force))


def epoch(number: int) -> dict[str, Any]:
    return {"epoch": {"epoch": number, "loss": 1.0, "accuracy": 0.5, "seconds": 0.1}}


def end(key: str, accuracy: float | None = 0.5, machine: bool = False) -> dict[str, Any]:
    error = None if accuracy is not None else "out of memory" if machine else "diverged"
    evaluation = {"key": key, "accuracy": accuracy, "best_epoch": 1, "error": error, "machine": machine, "seconds": 1.0}
    return {"evaluation": evaluation, "weights": {"w": np.ones(2, np.float32)} if accuracy is not None else {}}


def evaluator(
    played: PlayedRay, folder: Path, monkeypatch: pytest.MonkeyPatch, watch: Callbacks, cluster: Cluster
) -> RayEvaluator:
    monkeypatch.setitem(__import__("sys").modules, "ray", played)  # type: ignore[arg-type]
    monkeypatch.setattr(ray_evaluator, "check_ray", lambda: None)
    config = StudyConfig(**SETTINGS)
    dataset = load_dataset("digits")
    teacher = TrainedTeacher("search", *traced_teacher(config, dataset), 0.9, ())
    data = StudyData(dataset, config, "cpu")
    return RayEvaluator(teacher, data, Recipe.search(config), 0, folder, watch, cluster)


def test_faults_of_the_machine_are_tried_again_alone_on_a_gpu_and_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    progress: list[tuple[int, int]] = []
    watch = Callbacks(lambda key, row: told.append((key, row.epoch)), lambda *done: progress.append(done))
    script = {
        "a": [[epoch(1), epoch(2), epoch(3), end("a")]],
        "b": [[epoch(1), Lost("the node left")], [epoch(1), epoch(2), end("b", None)]],
        "c": [[Lost("gone\nfor good")]] + [[end("c", None, machine=True)]] * RETRIES,
    }
    played = PlayedRay(script, gpus=1)
    mine = evaluator(played, tmp_path, monkeypatch, watch, Cluster("somewhere", students_per_gpu=5))
    architecture = mine_architecture()
    results = list(mine.evaluate([Task(key, architecture) for key in "abc"], "search", 0))
    mine.close()
    assert {r.key: (r.accuracy, r.machine, r.error) for r in results} == {
        "a": (0.5, False, None), "b": (None, False, "diverged"), "c": (None, True, "out of memory"),
    }  # fmt: skip
    assert [row for row in told if row[0] == "b"] == [("b", 1), ("b", 1), ("b", 2)]
    assert progress[-1] == (9, 9) and all(0 <= done <= 9 for done, _ in progress)
    starts = [call for call in played.calls if call[0] in "abc"]
    assert sorted(starts) == [("a", 0.2), ("b", 0.2), ("b", 1), ("c", 0.2), ("c", 1), ("c", 1)]
    assert [call for call in played.calls if call[0] not in "abc"] == [("init", "somewhere"), ("shutdown", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def mine_architecture() -> Any:
    return traced_teacher(StudyConfig(), load_dataset("digits"))[0]


def test_what_is_left_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Task(key, mine_architecture()) for key in "ab"]
    for watch, wrong, error in (
        (Callbacks(should_stop=lambda: True), epoch(1), TrainingStopped),
        (Callbacks(), Fault("a mistake"), Fault),
    ):
        played = PlayedRay({"a": [[epoch(1)]], "b": [[wrong]]})
        mine = evaluator(played, tmp_path, monkeypatch, watch, Cluster())
        with pytest.raises(error):
            list(mine.evaluate(tasks, "search", 0))
        assert played.calls.count(("cancel", True)) == 2 and ("a", 0) in played.calls


def test_a_worker_trains_and_tells(tmp_path: Path) -> None:
    """What runs in a worker, here: the epochs first, then accuracy and weights, as plain data."""
    config = StudyConfig(**SETTINGS | {"epochs": 2, "search_images": 100})
    dataset = load_dataset("digits")
    architecture, weights = traced_teacher(config, dataset)
    data = StudyData(dataset, config, "cpu")
    shared = {
        "teacher": architecture.to_json(),
        "weights": {name: tensor.numpy() for name, tensor in weights.items()},
        "search": data.plain("search"),
        "validation": data.plain("validation"),
        "recipe": ray_evaluator.asdict(Recipe.search(config)),
        "seed": 0,
        "device": "cpu",
        "time_limit": math.inf,
    }
    messages = list(ray_evaluator._train_student(shared, "s", architecture.to_json(), "search", 0))
    assert [EpochResult(**message["epoch"]).epoch for message in messages[:-1]] == [1, 2]
    assert messages[-1]["evaluation"]["accuracy"] > 0 and messages[-1]["weights"].keys() == weights.keys()
    assert all(torch.isfinite(torch.tensor(array)).all() for array in messages[-1]["weights"].values())
    with pytest.raises(KeyError):
        list(ray_evaluator._train_student({}, "s", architecture.to_json(), "search", 0))


def test_a_worker_whose_training_hangs_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(ray_evaluator, "_evaluator", lambda *_: time.sleep(600))
    monkeypatch.setattr(os, "_exit", leave)
    messages = ray_evaluator._train_student({"time_limit": 0.1}, "s", mine_architecture().to_json(), "search", 0)
    evaluation = next(messages)["evaluation"]
    assert evaluation["machine"] and evaluation["accuracy"] is None
    assert evaluation["error"] == "TimeLimitError: the training of s took longer than it may"
    with pytest.raises(SystemExit):  # its thread would hang on in a worker that Ray uses again
        next(messages)


def test_one_line_where_there_is_no_ray_or_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^ray_address = 'nowhere': no Ray cluster answers \(.*nobody there\)"):
        evaluator(PlayedRay({}), tmp_path, monkeypatch, Callbacks(), Cluster("nowhere"))
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^evaluator = 'ray': Ray is not installed; pip install 'esnac_lib\[ray\]'"):
        study("none", evaluator="ray")


def test_layers_that_only_their_own_code_can_run_are_refused_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'esnac_lib[ray]'")
    layers = "nn.Conv2d(1, 4, 3), nn.Softmax(1), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
    source = f"from torch import nn\n\n\ndef net():\n    return nn.Sequential({layers}nn.Linear(4, 10))\n"
    (tmp_path / "net.py").write_text(source)
    own = {"teacher": f"{tmp_path / 'net.py'}:net"}
    study("opaque", evaluator="local", **own)
    with pytest.raises(ConfigError, match=r"^evaluator = 'ray': the teacher's layer '1' is run by your own code"):
        study("opaque", evaluator="ray", **own)
    assert not study_dir(StudyConfig(study="opaque")).exists()
