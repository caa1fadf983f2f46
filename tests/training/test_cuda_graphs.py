"""Batch buffers, captured steps, streams; and that a training with captured steps is the same training.

CUDA graphs need CUDA. What they replay is imitated on the CPU by `capture_operations`: it keeps the operations that a
step asked for, with the tensors that they worked on, and repeats those alone. A step that reads anything else from
Python (a learning rate, a batch, a flag) goes wrong there as it would in a graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training.helpers import DISTILLATION, Few, cnn, group_of, same

from esnac_lib.architecture.network import build
from esnac_lib.architecture.tracing import trace
from esnac_lib.training import trainer, training_run
from esnac_lib.training.cuda_graphs import (
    WARM_UP,
    Batch,
    BatchBuffer,
    Capture,
    CapturedStep,
    Stream,
    capture_on,
    captured,
)
from esnac_lib.training.job import Outcome, Trainee, TrainingJob
from esnac_lib.training.recipes import CLIP_NORM, Recipe
from esnac_lib.training.trainer import train

CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """The operations of a step, in order, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def repeat(self) -> None:
        """Does them again, each result where the first one lies."""
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture_operations(step: Callable[[], None]) -> Callable[[], None]:
    """As a CUDA graph is captured, but that this does the step while it captures: so the first replay is left out."""
    with Operations() as operations:
        step()
    done = iter([True])
    return lambda: None if next(done, False) else operations.repeat()


def refuse(step: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted\nwhen stream is capturing")


@pytest.fixture(scope="module")
def few() -> tuple[Few, Few]:
    """135 images in four batches of 32 and one of 7; 40 others."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(175, 1, 8, 8, generator=generator), torch.randint(10, (175,), generator=generator)
    return Few(images[:135], labels[:135]), Few(images[135:], labels[135:])


def use(monkeypatch: pytest.MonkeyPatch, capture: Capture | None) -> None:
    for module in (training_run, trainer):
        monkeypatch.setattr(module, "capture_on", lambda device: capture)


def outcomes(few: tuple[Few, Few], recipe: Recipe) -> dict[str, Outcome]:
    teacher = cnn(0, width=8) if recipe.loss == "distillation" else None
    return train(group_of(), TrainingJob(*few, recipe, seed=3, purpose="search", index=2, teacher=teacher))


@pytest.mark.parametrize(
    "recipe",
    [
        replace(DISTILLATION, batch_size=32, schedule="one_cycle"),
        Recipe(3, 0.05, 32, schedule="one_cycle", clip_norm=CLIP_NORM / 10, label_smoothing=0.1),
    ],
    ids=["distillation", "cross_entropy"],
)
def test_captured_steps_train_the_same_students(
    few: tuple[Few, Few], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, dropout included; one of the four is compared with a training of plain calls too."""
    plain = outcomes(few, recipe)
    use(monkeypatch, refuse)
    with pytest.warns(UserWarning, match="cannot be captured and goes on more slowly: RuntimeError: operation not"):
        called = outcomes(few, recipe)
    use(monkeypatch, capture_operations)
    replayed = outcomes(few, recipe)
    for key in "abc":
        assert replayed[key].error is None and same(replayed[key], called[key])
        for name, tensor in plain[key].last_weights.items():  # the learning rate is of float32 where steps are captured
            torch.testing.assert_close(replayed[key].last_weights[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_imitation_sees_what_a_graph_would_not(few: tuple[Few, Few], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learning rate as a number of Python's, the captured one stays for ever."""
    recipe = Recipe(2, 0.05, 32, schedule="one_cycle")
    plain = outcomes(few, recipe)["a"]
    use(monkeypatch, capture_operations)
    make = Recipe.make_optimizer
    monkeypatch.setattr(Recipe, "make_optimizer", lambda self, parameters, captured: make(self, parameters))
    weights = outcomes(few, recipe)["a"].last_weights
    assert not torch.allclose(weights["0.weight"], plain.last_weights["0.weight"], rtol=1e-3)


def test_a_failure_within_a_captured_group_harms_nobody(few: tuple[Few, Few], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, capture_operations)
    alone = outcomes(few, DISTILLATION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken = Trainee("broken", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9)))
        result = train([broken, *group_of()], TrainingJob(*few, DISTILLATION, seed=3, purpose="search", index=2,
                       teacher=cnn(0, width=8)))  # fmt: skip
    assert result["broken"].error is not None and "teacher's form" in result["broken"].error
    assert all(same(result[key], alone[key]) for key in "abc")


# The parts


def test_a_fixed_buffer_fills_the_same_tensors() -> None:
    buffer = BatchBuffer(CPU, fixed=True)
    x = torch.arange(24.0).view(3, 2, 2, 2)
    first = buffer.load(x, torch.tensor([1, 2, 3]))
    place = first.x.data_ptr()
    assert first.fixed and place != x.data_ptr() and first.x.is_contiguous(memory_format=torch.channels_last)
    last = buffer.load(x[:1], torch.tensor([9]))
    assert not last.fixed and torch.equal(first.y, torch.tensor([1, 2, 3]))
    second = buffer.load(-x, torch.tensor([4, 5, 6]))
    assert second is first and second.x.data_ptr() == place
    assert torch.equal(second.x, -x) and torch.equal(second.y, torch.tensor([4, 5, 6]))
    assert not BatchBuffer(CPU).load(x, torch.tensor([1, 2, 3])).fixed


def test_a_step_is_captured_once_after_the_warm_up() -> None:
    told: list[str] = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        told.append("capture")
        return lambda: told.append("replay")

    step = CapturedStep(lambda batch: told.append("fixed" if batch.fixed else "other"), capture, "it")
    fixed, other = (Batch(torch.zeros(1), torch.zeros(1), fixed=fixed) for fixed in (True, False))
    for batch in [other, other, *[fixed] * WARM_UP, other, fixed, other, fixed]:
        step(batch)
    assert told == ["other"] * 2 + ["fixed"] * WARM_UP + ["other", "capture", "replay", "other", "replay"]


def test_what_cannot_be_captured_is_called() -> None:
    told: list[Batch] = []
    step = CapturedStep(told.append, refuse, "trial0001")
    batch = Batch(torch.zeros(1), torch.zeros(1), fixed=True)
    with pytest.warns(UserWarning, match=r"^trial0001 cannot be captured and .*capturing$") as found:
        for _ in range(6):
            step(batch)
    assert len(told) == 6 and len(found) == 1


def test_code_of_the_user_s_own_is_never_captured() -> None:
    """It counts its passes; captured, it would have run `WARM_UP` times and once while capturing."""

    class Counting(nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return x.sort(1).values

    def passes(opaque: bool) -> int:
        counting = Counting()
        module = nn.Sequential(nn.Conv2d(1, 4, 1), counting if opaque else nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        network = build(*trace(module, torch.rand(1, 1, 2, 2)))
        assert network.runs_own_code is opaque
        seen = []
        network.register_forward_hook(lambda *_: seen.append(1))
        step = captured(lambda batch: network(batch.x), network, lambda step: (step(), lambda: None)[1], "it")
        for _ in range(9):
            step(Batch(torch.rand(2, 1, 2, 2), torch.zeros(2), fixed=True))
        return len(seen)

    assert (passes(opaque=True), passes(opaque=False)) == (9, WARM_UP + 1)


def test_on_a_cpu_nothing_is_captured_and_streams_do_nothing() -> None:
    assert capture_on(CPU) is None
    stream = Stream(CPU)
    stream.begin()
    with stream:
        assert (torch.ones(2) + 1).tolist() == [2, 2]
    stream.finish()


# CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: graphs, streams, bfloat16")
def test_on_cuda_captured_steps_train_the_same_students(few: tuple[Few, Few], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> dict[str, Outcome]:
        recipe = replace(DISTILLATION, batch_size=32)
        return train(group_of(), TrainingJob(*few, recipe, seed=3, purpose="p", device="cuda", teacher=cnn(0, width=8)))

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be captured")
        replayed = run()
    use(monkeypatch, refuse)
    with pytest.warns(UserWarning, match="cannot be captured"):
        called = run()
    for key in "abc":
        assert replayed[key].error is None
        losses = [[row.loss for row in outcome.curve] for outcome in (replayed[key], called[key])]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
