"""The training loop: it learns; neither a group, nor a kill, nor another's failure changes what a student becomes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from training.helpers import CROSS_ENTROPY, DISTILLATION, Faulty, Few, cnn, distil, group_of, same

from esnac_lib.data.batches import DeviceData
from esnac_lib.errors import TrainingError
from esnac_lib.seeding import make_generator
from esnac_lib.training.callbacks import Callbacks, EpochResult, TrainingStopped
from esnac_lib.training.checkpoints import CheckpointSchedule, clear_checkpoint, read_checkpoint, write_checkpoint
from esnac_lib.training.job import Outcome, Trainee, TrainingJob
from esnac_lib.training.recipes import CLIP_NORM, Recipe
from esnac_lib.training.trainer import evaluate, train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def every_epoch_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is that these tests run on."""
    monkeypatch.setattr(CheckpointSchedule, "FREE_SECONDS", math.inf)


@pytest.fixture(scope="module")
def digits() -> tuple[DeviceData, DeviceData]:
    """1,200 digits to learn from and 300 others to evaluate on."""
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    parts = order[:1200], order[1200:1500]
    first, second = (DeviceData(images[part], labels[part], (0.3,), (0.35,)) for part in parts)
    return first, second


@pytest.fixture(scope="module")
def few(digits: tuple[DeviceData, DeviceData]) -> tuple[Few, Few]:
    return Few(*next(digits[0].evaluation_batches(257))), Few(*next(digits[1].evaluation_batches(100)))


# Learning


def test_teacher_learns_digits(digits: tuple[DeviceData, DeviceData]) -> None:
    network = cnn(0, width=12)
    before = evaluate(network, digits[1])
    recipe = Recipe(epochs=6, lr=0.2, batch_size=64, schedule="one_cycle", augment=True)
    outcome = train([Trainee("teacher", network)], TrainingJob(*digits, recipe, seed=0, purpose="teacher"))["teacher"]
    assert outcome.state == "complete" and outcome.error is None and not outcome.retry
    assert before < 0.3 and outcome.last_accuracy is not None and outcome.last_accuracy > 0.93
    assert [row.epoch for row in outcome.curve] == [1, 2, 3, 4, 5, 6]
    assert outcome.curve[-1].loss < 0.3 < outcome.curve[0].loss
    assert outcome.seconds == pytest.approx(sum(row.seconds for row in outcome.curve)) and outcome.seconds > 0
    accuracies = [row.accuracy or 0.0 for row in outcome.curve]
    assert outcome.best_accuracy == max(accuracies) and outcome.best_epoch == accuracies.index(max(accuracies)) + 1
    assert evaluate(network, digits[1]) == outcome.last_accuracy
    other = cnn(5, width=12)
    other.load_state_dict(outcome.best_weights)
    assert evaluate(other, digits[1], batch_size=7) == outcome.best_accuracy
    for weights in (outcome.best_weights, outcome.last_weights):
        assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in weights.values())


def test_student_learns_the_teachers_logits(digits: tuple[DeviceData, DeviceData]) -> None:
    teacher = cnn(0, width=12)
    train([Trainee("teacher", teacher)], TrainingJob(digits[0], None, Recipe(4, 0.1, 64), seed=0, purpose="teacher"))
    recipe = Recipe(epochs=5, lr=5e-3, batch_size=64, optimizer="adam", loss="distillation")
    student = Trainee("s", cnn(1, width=8))
    outcome = train([student], TrainingJob(*digits, recipe, seed=0, purpose="search", teacher=teacher))["s"]
    assert outcome.curve[-1].loss < outcome.curve[0].loss / 3
    assert outcome.last_accuracy is not None and outcome.last_accuracy > 0.85
    assert not teacher.training


def test_evaluate_counts() -> None:
    linear = nn.Linear(4, 3, bias=False)
    table = nn.Sequential(nn.Flatten(), linear)
    nn.init.eye_(linear.weight)
    images = torch.eye(4)[[0, 1, 2, 0, 1]].reshape(5, 1, 2, 2)
    table.train()
    assert evaluate(table, Few(images, torch.tensor([0, 1, 2, 1, 0])), batch_size=2) == 3 / 5
    assert table.training


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("loss", ["distillation", "cross_entropy"])
def test_steps_equal_a_manual_twin(few: tuple[Few, Few], optimizer: str, loss: str) -> None:
    """The twin writes loss and optimiser out over two epochs, in contiguous memory, hence the tolerance."""
    recipe = Recipe(2, 0.01, 64, optimizer, schedule="step", loss=loss, augment=True)  # type: ignore[arg-type]
    mine, twin, teacher = cnn(1), cnn(1), cnn(0).eval()
    given = teacher if loss == "distillation" else None
    outcome = train(
        [Trainee("s", mine)], TrainingJob(few[0], None, recipe, seed=5, purpose="p", index=1, teacher=given)
    )["s"]
    parameters = list(twin.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    step = 0
    for epoch in range(2):
        total, images = 0.0, 0
        for number, (x, y) in enumerate(few[0].batches(64, make_generator(5, "p", 1, epoch), True)):
            if len(x) == 1:
                continue
            logits = twin(x)
            if loss == "distillation":
                value = ((logits - teacher(x).detach()) ** 2).sum() / (len(x) * 10)
            else:
                value = -(logits.softmax(1)[torch.arange(len(x)), y].log()).sum() / len(x)
            grads = torch.autograd.grad(value, parameters)
            lr = 0.01 * 0.1 ** (((epoch * 5 + number + 0.5) / 10 >= 1 / 3) + ((epoch * 5 + number + 0.5) / 10 >= 2 / 3))
            step += 1
            with torch.no_grad():
                for p, grad, m, v in zip(parameters, grads, first, second, strict=True):
                    grad = grad + 5e-4 * p
                    if optimizer == "sgd":
                        m.copy_(0.9 * m + grad)
                        p.sub_(lr * m)
                    else:
                        m.copy_(0.9 * m + 0.1 * grad)
                        v.copy_(0.999 * v + 0.001 * grad**2)
                        p.sub_(lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
            total, images = total + value.item() * len(x), images + len(x)
        assert outcome.curve[epoch].loss == pytest.approx(total / images, rel=1e-4)
    for (name, p), q in zip(mine.named_parameters(), parameters, strict=True):
        if name not in ("0.bias", "4.bias"):  # batch norm takes the bias out: its gradient is rounding alone
            torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(("clip_norm", "share"), [(math.inf, 1.0), (20.0, 1.0), (math.sqrt(170) / 2, 0.5)])
def test_one_distillation_step_by_hand(clip_norm: float, share: float) -> None:
    """One image x = (1, 2), weights 0, teacher logits t = (3, 5): loss (9 + 25) / 2, gradient -t_i x_j.

    The gradient's norm is √(3² + 6² + 5² + 10²) = √170, of which clipping at half leaves half a step.
    """
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)) for _ in range(2))
    teacher.load_state_dict({"1.weight": torch.tensor([[1.0, 1.0], [1.0, 2.0]])})
    student.load_state_dict({"1.weight": torch.zeros(2, 2)})
    data = Few(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([0]))
    recipe = Recipe(epochs=1, lr=0.1, batch_size=1, loss="distillation", clip_norm=clip_norm)
    outcome = train([Trainee("s", student)], TrainingJob(data, None, recipe, seed=0, purpose="p", teacher=teacher))["s"]
    assert outcome.curve[0].loss == 17.0
    torch.testing.assert_close(outcome.last_weights["1.weight"], share * torch.tensor([[0.3, 0.6], [0.5, 1.0]]))


def test_search_training_starts_with_fresh_batch_norm_statistics(few: tuple[Few, Few]) -> None:
    def run(reset: bool, dirty: bool) -> Outcome:
        network = cnn(1)
        if dirty:
            network.get_buffer("1.running_mean").fill_(50.0)
        recipe = replace(DISTILLATION, epochs=1, reset_batch_norm=reset)
        return distil([Trainee("s", network)], few, recipe)["s"]

    assert same(run(True, True), run(True, False))
    assert not same(run(False, True), run(False, False))


# The group


def test_group_equals_alone(few: tuple[Few, Few]) -> None:
    made = few[0].made
    together = distil(group_of(), few)
    assert few[0].made - made == 3 * 5  # each batch is made once for all of them
    assert list(together) == ["a", "b", "c"]
    for trainee in reversed(group_of()):
        assert same(distil([trainee], few)[trainee.key], together[trainee.key])
    assert not same(replace(together["a"], key="c"), together["c"])


def test_teacher_works_once_a_batch(few: tuple[Few, Few]) -> None:
    teacher = Faulty("1.0", training=False)
    teacher.train()
    train(group_of(), TrainingJob(*few, DISTILLATION, seed=0, purpose="p", teacher=teacher))
    assert teacher.calls == 3 * 4  # the fifth batch of an epoch holds one image and is left out


def test_dropout_has_its_own_stream_and_leaves_the_global_one(few: tuple[Few, Few]) -> None:
    def run(key: str, seed: int = 3, noise: int = 0) -> Outcome:
        network = cnn(2, dropout=0.5)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        outcome = train([Trainee(key, network)], TrainingJob(*few, CROSS_ENTROPY, seed=seed, purpose="p"))[key]
        assert torch.equal(before, torch.get_rng_state())
        return replace(outcome, key="")

    assert same(run("a"), run("a", noise=99))
    assert not same(run("a"), run("b"))
    assert not same(run("a"), run("a", seed=4))


def test_the_epoch_decides_the_batches(few: tuple[Few, Few]) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.clone())
            return self.inner(x)

    train(
        [Trainee("s", Spy())],
        TrainingJob(*few, replace(CROSS_ENTROPY, batch_size=300), seed=7, purpose="final", index=4),
    )
    for epoch, x in enumerate(seen):
        assert torch.equal(x, few[0].images[torch.randperm(257, generator=make_generator(7, "final", 4, epoch))])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("fault", "error", "retry", "epochs"),
    [
        (Faulty("nan", at=6), "diverged: loss is nan in epoch 2", False, 1),
        (Faulty("inf", at=4), "diverged: loss is inf in epoch 1", False, 0),
        (Faulty("inf", at=3, training=False), "diverged: logits are not finite in epoch 3", False, 2),
        (Faulty("raise", at=6), "RuntimeError: mat1 and mat2 do not fit", False, 1),
        (Faulty("raise", at=2, training=False), "RuntimeError: mat1 and mat2 do not fit", False, 1),
        (Faulty("memory", at=5), "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB", True, 1),
        (Faulty("shape"), "TrainingError: logits (64, 3) do not have the teacher's form (64, 10)", False, 0),
        (nn.Flatten(), "ValueError: optimizer got an empty parameter list", False, 0),
        (Faulty("overwrite", at=1), None, False, 3),
    ],
    ids=lambda value: getattr(value, "fault", None) and f"{value.fault}-{value.when}",
)
def test_a_failing_student_harms_nobody(
    few: tuple[Few, Few], fault: nn.Module, error: str | None, retry: bool, epochs: int, tmp_path: Path
) -> None:
    told: list[str] = []
    result = distil(group_of(fault), few, checkpoint=tmp_path, callbacks=Callbacks(lambda key, row: told.append(key)))
    bad = result.pop("bad0")
    assert (bad.error, bad.retry, len(bad.curve), told.count("bad0")) == (error, retry, epochs, epochs)
    assert bad.state == ("failed" if error else "complete")
    if error:
        assert bad.last_weights == bad.best_weights == {}
        assert all(parameter.grad is None for parameter in fault.parameters())
    for key, outcome in distil(group_of(), few).items():
        assert outcome.state == "complete" and same(result[key], outcome)


def test_every_student_diverges_with_an_absurd_learning_rate(few: tuple[Few, Few]) -> None:
    result = distil(group_of(), few, replace(DISTILLATION, lr=1e20))
    assert {o.state for o in result.values()} == {"failed"}
    assert all(o.error is not None and o.error.startswith("diverged: loss is") for o in result.values())


def test_divergence_in_the_last_step_is_seen_without_evaluation(few: tuple[Few, Few]) -> None:
    recipe = Recipe(epochs=1, lr=1e30, batch_size=300, weight_decay=1e30)
    outcome = train([Trainee("s", cnn(1))], TrainingJob(few[0], None, recipe, seed=0, purpose="p"))["s"]
    assert outcome.error == "diverged: weights are not finite in epoch 1"


def test_a_machine_fault_in_what_is_shared_may_be_tried_again(few: tuple[Few, Few]) -> None:
    teacher = Faulty("memory", at=6, training=False)
    result = train(group_of(), TrainingJob(*few, DISTILLATION, seed=0, purpose="p", teacher=teacher))
    assert all(o.state == "failed" and o.retry and len(o.curve) == 1 for o in result.values())
    with pytest.raises(RuntimeError, match="mat1"):
        train(group_of(), TrainingJob(*few, DISTILLATION, seed=0, purpose="p", teacher=Faulty("raise", training=False)))


def test_without_evaluation_the_last_epoch_is_the_best(few: tuple[Few, Few]) -> None:
    outcome = train([Trainee("s", cnn(1))], TrainingJob(few[0], None, CROSS_ENTROPY, seed=0, purpose="p"))["s"]
    assert outcome.best_epoch == 2 and outcome.best_accuracy is None and outcome.last_accuracy is None
    assert all(torch.equal(outcome.best_weights[name], tensor) for name, tensor in outcome.last_weights.items())


# Checkpoints


class Killed(BaseException):
    """Stands for SIGKILL: nobody may catch it."""


def killed(few: tuple[Few, Few], where: Path, at: tuple[str, int], recipe: Recipe = DISTILLATION) -> None:
    def on_epoch(key: str, row: EpochResult) -> None:
        if (key, row.epoch) == at:
            raise Killed

    with pytest.raises(Killed):
        distil(group_of(), few, recipe, checkpoint=where, callbacks=Callbacks(on_epoch))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("at", [("a", 1), ("b", 2), ("a", 3), ("c", 3)])
def test_resume_equals_uninterrupted(few: tuple[Few, Few], tmp_path: Path, at: tuple[str, int], optimizer: str) -> None:
    """A kill at "b" comes between the writes of two students, which then stand at different epochs."""
    recipe = replace(DISTILLATION, optimizer=optimizer, schedule="one_cycle", reset_batch_norm=True)  # type: ignore[arg-type]
    whole = distil(group_of(), few, recipe)
    killed(few, tmp_path, at, recipe)
    told: list[tuple[str, int]] = []
    resumed = distil(
        group_of(),
        few,
        recipe,
        checkpoint=tmp_path,
        callbacks=Callbacks(lambda key, row: told.append((key, row.epoch))),
    )
    order = [(key, epoch) for epoch in (1, 2, 3) for key in "abc"]
    assert told == sorted(order[: order.index(at)]) + order[order.index(at) :]  # first again what was stored
    assert all(same(whole[key], resumed[key]) for key in "abc")
    made = few[0].made
    again = distil(group_of(), few, recipe, checkpoint=tmp_path)
    assert few[0].made == made and all(same(whole[key], again[key]) for key in "abc")


def test_resume_within_an_epoch(few: tuple[Few, Few], tmp_path: Path) -> None:
    whole = distil(group_of(), few)
    fault = Faulty("interrupt", at=7)
    with pytest.raises(KeyboardInterrupt):
        distil(group_of(fault), few, checkpoint=tmp_path)
    resumed = distil(group_of(), few, checkpoint=tmp_path)
    assert all(same(whole[key], resumed[key]) for key in "abc")


def test_best_epoch_before_the_kill_survives(few: tuple[Few, Few], tmp_path: Path) -> None:
    """The evaluation images are marked so that the accuracy falls: epoch 1 stays the best."""
    untrained = few[1].images, torch.zeros(100, dtype=torch.int64)
    data = few[0], Few(*untrained)
    network = cnn(1)
    with torch.no_grad():
        network.get_parameter("10.bias")[0] = 20.0
    recipe = Recipe(epochs=4, lr=0.5, batch_size=64)

    def run(where: Path | None, stop_at: int = 9) -> Outcome:
        def on_epoch(key: str, row: EpochResult) -> None:
            if row.epoch == stop_at:
                raise Killed

        trainee = Trainee("s", copy.deepcopy(network))
        return train(
            [trainee], TrainingJob(*data, recipe, seed=0, purpose="p", checkpoint=where, callbacks=Callbacks(on_epoch))
        )["s"]

    whole = run(None)
    assert whole.best_epoch < 3  # otherwise this tests nothing
    with pytest.raises(Killed):
        run(tmp_path, stop_at=4)
    assert same(run(tmp_path), whole)


def test_failures_are_not_trained_again_but_machine_faults_are(few: tuple[Few, Few], tmp_path: Path) -> None:
    distil(group_of(Faulty("nan", at=6), Faulty("memory", at=6, seed=8)), few, checkpoint=tmp_path)
    nan, memory = Faulty("1.0"), Faulty("1.0", seed=8)
    result = distil(group_of(nan, memory), few, checkpoint=tmp_path)
    assert result["bad0"].error == "diverged: loss is nan in epoch 2" and nan.calls == 0
    assert len(result["bad0"].curve) == 1 and result["bad0"].seconds > result["bad0"].curve[0].seconds
    assert memory.calls == 2 * 4  # on from the first epoch, which was whole
    plain = distil(group_of(Faulty("1.0"), Faulty("1.0", seed=8)), few)
    assert same(result["bad1"], plain["bad1"]) and result["bad1"].state == "complete"


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "byte", "network", "recipe", "header"])
def test_damaged_checkpoint_restarts_that_student(few: tuple[Few, Few], tmp_path: Path, damage: str) -> None:
    whole = distil(group_of(), few)
    killed(few, tmp_path, ("c", 2))
    path = tmp_path / "b.safetensors"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-100])
    elif damage == "noise":
        path.write_bytes(b"\xff" * len(data))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "header":
        path.write_bytes(data.replace(b"best_epoch", b"best_epoxx"))
    elif damage == "network":
        path.write_bytes((tmp_path / "a.safetensors").read_bytes())
    elif damage == "recipe":
        saved = read_checkpoint(path)
        other = json.loads(json.dumps(saved.progress).replace('"lr": 0.001', '"lr": 0.002'))
        assert other != saved.progress
        write_checkpoint(path, replace(saved, progress=other))
    elif damage == "byte":
        path.write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    with pytest.warns(UserWarning, match=r"^checkpoint \S*b\.safetensors is ignored and b trained from the start: .*$"):
        resumed = distil(group_of(), few, checkpoint=tmp_path)
    assert all(same(whole[key], resumed[key]) for key in "abc")


def test_checkpoint_files(few: tuple[Few, Few], tmp_path: Path) -> None:
    where = tmp_path / "group" / "7"
    clear_checkpoint(where)  # nothing there
    outcome = distil(group_of(), few, checkpoint=where)["a"]
    assert sorted(path.name for path in where.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors"]
    saved = read_checkpoint(where / "a.safetensors")
    assert saved.progress["curve"] == [asdict(row) for row in outcome.curve]
    assert all(torch.equal(saved.network[name], tensor) for name, tensor in outcome.last_weights.items())
    assert {"0.exp_avg", "0.exp_avg_sq", "0.step"} <= saved.optimizer.keys()
    (where / "b.safetensors.part").write_bytes(b"half")
    (where / "note.txt").write_text("mine")
    clear_checkpoint(where)
    assert [path.name for path in where.iterdir()] == ["note.txt"]
    (where / "note.txt").unlink()
    clear_checkpoint(where)
    assert not where.exists()


def test_a_stop_keeps_the_checkpoints(few: tuple[Few, Few], tmp_path: Path) -> None:
    answers = iter([False, False, True])
    recipe = replace(
        DISTILLATION, batch_size=300
    )  # a batch an epoch: asked before each epoch, and once within the first
    with pytest.raises(TrainingStopped):
        distil(group_of(), few, recipe, checkpoint=tmp_path, callbacks=Callbacks(should_stop=lambda: next(answers)))
    assert len(read_checkpoint(tmp_path / "c.safetensors").progress["curve"]) in (1, 2)
    whole = distil(group_of(), few, recipe)
    resumed = distil(group_of(), few, recipe, checkpoint=tmp_path, callbacks=Callbacks(should_stop=lambda: False))
    assert all(same(whole[key], resumed[key]) for key in "abc")


def test_progress_bar_counts_batches(few: tuple[Few, Few]) -> None:
    told: list[tuple[int, int]] = []
    train(
        [Trainee("s", cnn(1))],
        TrainingJob(
            *few,
            CROSS_ENTROPY,
            seed=0,
            purpose="p",
            callbacks=Callbacks(on_batch=lambda *done: told.append(done)),
        ),
    )
    assert told == [(done, 10) for done in range(1, 11)]


# Recipes


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.0, 1.0),
        ("constant", 1.0, 1.0),
        ("step", 0.0, 1.0),
        ("step", 99.5 / 300, 1.0),
        ("step", 100 / 300, 0.1),
        ("step", 199.5 / 300, 0.1),
        ("step", 200 / 300, 0.01),
        ("step", 1.0, 0.01),
        ("one_cycle", 0.0, 0.0),
        ("one_cycle", 0.125, 0.5),
        ("one_cycle", 0.25, 1.0),
        ("one_cycle", 0.625, 0.5),
        ("one_cycle", 0.85, 0.2),
        ("one_cycle", 1.0, 0.0),
    ],
)
def test_learning_rate(schedule: str, progress: float, factor: float) -> None:
    assert Recipe(300, 0.4, schedule=schedule).lr_at(progress) == pytest.approx(0.4 * factor, abs=1e-12)  # type: ignore[arg-type]


def test_learning_rate_reaches_the_optimiser() -> None:
    """Plain SGD on a loss of gradient 1 for the bias: each step takes the learning rate of its batch off it."""

    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-self.bias.expand(len(x), 1), torch.full((len(x), 1), 1e4)], 1)

    data = Few(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64))  # cross entropy = 1e4 + bias
    recipe = Recipe(2, 1.0, 2, weight_decay=0.0, momentum=0.0, schedule="one_cycle")
    bias = Bias()
    passed = [0.0]
    train(
        [Trainee("s", bias)],
        TrainingJob(
            data,
            None,
            recipe,
            seed=0,
            purpose="p",
            callbacks=Callbacks(on_batch=lambda done, total: passed.append(-bias.bias.item())),
        ),
    )
    rates = [1 / 4, 3 / 4, 11 / 12, 9 / 12, 7 / 12, 5 / 12, 3 / 12, 1 / 12]
    assert np.diff(passed) == pytest.approx(rates, abs=1e-6)


def test_nesterov_belongs_to_one_cycle_alone() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    assert Recipe(1, 0.1, schedule="one_cycle").make_optimizer(parameter).defaults["nesterov"]
    assert not Recipe(1, 0.1, schedule="step").make_optimizer(parameter).defaults["nesterov"]


def test_recipes_of_a_study() -> None:
    config = SimpleNamespace(
        epochs=10,
        batch_size=32,
        augment=True,
        final_epochs=300,
        final_lr=0.01,
        teacher_epochs=40,
        teacher_lr=0.1,
        label_smoothing=0.0,
    )
    config.schedule = "step"
    search = Recipe(10, 1e-3, 32, "adam", 5e-4, 0.9, "constant", "distillation", True, True)
    assert Recipe.search(config) == search  # type: ignore[arg-type]
    assert Recipe.final(config) == Recipe(300, 0.01, 32, "sgd", 5e-4, 0.9, "step", "cross_entropy", True, False)  # type: ignore[arg-type]
    config.schedule = "one_cycle"
    one_cycle = Recipe(40, 0.1, 32, "sgd", 5e-4, 0.9, "one_cycle", "cross_entropy", True, False, CLIP_NORM)
    assert Recipe.teacher(config, "search") == one_cycle  # type: ignore[arg-type]
    assert Recipe.final(config).clip_norm == CLIP_NORM  # type: ignore[arg-type]
    config.label_smoothing = 0.1
    assert Recipe.teacher(config, "search") == one_cycle  # type: ignore[arg-type]
    assert Recipe.teacher(config, "reference") == replace(one_cycle, label_smoothing=0.1)  # type: ignore[arg-type]
    assert Recipe.final(config).label_smoothing == 0.1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0 must be"),
        ({"batch_size": True}, "batch_size = True must be"),
        ({"lr": float("nan")}, "lr = nan must be"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 must be"),
        ({"momentum": 1.0}, "momentum = 1.0 must be"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0 must be"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0 must be"),
        ({"clip_norm": float("nan")}, "clip_norm = nan must be"),
        ({"schedule": "cosine"}, "schedule = 'cosine' is unknown; choose one of constant, step, one_cycle"),
    ],
)
def test_recipe_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(CROSS_ENTROPY, **change)  # type: ignore[arg-type]


def test_train_refuses(few: tuple[Few, Few]) -> None:
    def run(*keys: str, data: Few = few[0], recipe: Recipe = CROSS_ENTROPY, teacher: nn.Module | None = None) -> None:
        train(
            [Trainee(key, cnn(0)) for key in keys],
            TrainingJob(data, None, recipe, seed=0, purpose="p", teacher=teacher),
        )

    for keys in (("a", "a"), ("../a",), ("",), (".a",)):
        with pytest.raises(TrainingError, match="must be unique"):
            run(*keys)
    with pytest.raises(TrainingError, match="needs a teacher"):
        run("a", recipe=DISTILLATION)
    with pytest.raises(TrainingError, match="takes no teacher"):
        run("a", teacher=cnn(0))
    empty = Few(few[0].images[:0], few[0].labels[:0])
    with pytest.raises(TrainingError, match="empty"):
        run("a", data=empty)
    with pytest.raises(TrainingError, match="empty"):
        evaluate(cnn(0), empty)
