"""FitNet and Molchanov's pruning: their losses, scores and stop rules against slow twins, on real digits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.initialisation import fresh_network
from esnac_lib.architecture.network import Network, build
from esnac_lib.architecture.tracing import trace
from esnac_lib.data.batches import DeviceData, normalisation
from esnac_lib.data.datasets import load_dataset
from esnac_lib.errors import SpaceError
from esnac_lib.latent_descent.fitnet import (
    HINT_REGRESSOR,
    TEMPERATURE,
    SoftenedStudent,
    SoftTargets,
    fitnet_sequence,
    guided_network,
    hint_network,
    middle_layer,
)
from esnac_lib.latent_descent.sequence import CONV, SequenceSpace
from esnac_lib.latent_descent.taylor_pruning import Pruned, prune, select_filters, taylor_importance
from esnac_lib.teachers import teacher
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.trainer import evaluate, train

DIGITS = load_dataset("digits")
MEAN, STD = normalisation(DIGITS.train_images)


def images(count: int, start: int = 0) -> DeviceData:
    part = slice(start, start + count)
    return DeviceData(
        DIGITS.train_images[part], DIGITS.train_labels[part], MEAN, STD, augment=False, channels_last=True
    )


@pytest.fixture(scope="module")
def cnn4() -> Network:
    """A teacher that knows digits a little."""
    architecture, weights = trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))
    network = build(architecture, weights)
    recipe = Recipe(2, 0.05, 32, schedule="one_cycle", clip_norm=2.0)
    train([Trainee("teacher", network)], TrainingJob(images(600), None, recipe, seed=0, purpose="teacher"))
    return network


# -- FitNet ------------------------------------------------------------------------------------------------------------


def test_a_fitnet_is_deeper_and_thinner_and_of_the_asked_size(cnn4: Network) -> None:
    space = SequenceSpace.around(cnn4.architecture)
    items = space.to_sequence(cnn4.architecture)
    wide = replace(space, max_length=128)
    for params in (2_000, 10_000, 40_000):
        found = fitnet_sequence(space, items, params)
        architecture = wide.to_architecture(found)
        assert architecture.num_params <= params
        assert sum(item.t == CONV for item in found) == 2 * sum(item.t == CONV for item in items)
        assert max(item.o for item in found if item.t == CONV) < 64
    wider = wide.to_architecture(fitnet_sequence(space, items, 11_000))
    assert wider.num_params > 9_000  # a filter more would be too many
    with pytest.raises(SpaceError, match="more than 100 parameters"):
        fitnet_sequence(space, items, 100)


def test_hints_compare_features_of_the_same_form(cnn4: Network) -> None:
    space = SequenceSpace.around(cnn4.architecture)
    items = fitnet_sequence(space, space.to_sequence(cnn4.architecture), 10_000)
    student = replace(space, max_length=128).to_architecture(items)
    wanted = hint_network(cnn4.architecture, cnn4.weights()).eval()
    part = guided_network(student, cnn4.architecture.shapes[middle_layer(cnn4.architecture, 1)][0])
    x = torch.randn(2, 1, 8, 8)
    assert wanted(x).shape == fresh_network(part, 0)(x).shape == (2, 32, 8, 8)
    assert wanted.architecture.layers[-1].name == "relu2"  # the second of four blocks
    assert sum(layer.kind == "conv" for layer in part.layers) == 5  # four of the student's eight, and the regressor
    whole = fresh_network(student, 0).weights()
    assert {n for n in build(part).weights() if not n.startswith(f"{HINT_REGRESSOR}.")} <= set(whole)
    features = cnn4.eval()
    torch.testing.assert_close(wanted(x), _until(features, "relu2", x))


def _until(network: Network, name: str, x: torch.Tensor) -> torch.Tensor:
    for layer in network.architecture.layers:
        x = network.layers.get_submodule(layer.name)(x)
        if layer.name == name:
            return x
    raise AssertionError(name)


def test_the_distillation_loss_is_fitnets_equation_2(cnn4: Network) -> None:
    data = images(40)
    targets = SoftTargets(data, cnn4, 10, seed=3, purpose="fitnet", epochs=4)
    student = SoftenedStudent(fresh_network(cnn4.architecture, 1))
    generator = torch.Generator().manual_seed(_seed(3, 1))
    x, target = next(iter(targets.batches(8, generator, False)))
    generator.manual_seed(_seed(3, 1))
    _, y = next(iter(data.batches(8, generator, False)))
    output = student.train()(x)
    logits, taught = student.network(x), cnn4.eval()(x)  # batch norms normalise the same batch again
    weight = 3.0  # the second of four epochs, between 4 and 1
    soft = F.softmax(taught / TEMPERATURE, 1)
    equation = F.cross_entropy(logits, y) - weight * (soft * F.log_softmax(logits / TEMPERATURE, 1)).sum(1).mean()
    constant = (1 + weight) * math.log(2)
    assert F.cross_entropy(output, target).item() == pytest.approx(equation.item() + constant, rel=1e-5)
    assert student.eval()(x).shape == (8, 10)


def _seed(seed: int, epoch: int) -> int:
    from esnac_lib.seeding import derive_seed

    return derive_seed(seed, "fitnet", 0, epoch)


def test_the_weight_falls_epoch_by_epoch_in_the_ordinary_trainer(
    cnn4: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[float] = []
    original = SoftTargets.batches

    def listening(self: SoftTargets, *arguments: object) -> object:
        for x, target in original(self, *arguments):  # type: ignore[arg-type]
            sums.append(round(target.sum(1).mean().item(), 4))
            yield x, target

    monkeypatch.setattr(SoftTargets, "batches", listening)
    targets = SoftTargets(images(64), cnn4, 10, seed=0, purpose="fitnet", epochs=3)
    student = SoftenedStudent(fresh_network(cnn4.architecture, 1))
    outcome = train(
        [Trainee("student", student)], TrainingJob(targets, images(100), Recipe(3, 0.01, 32), seed=0, purpose="fitnet")
    )["student"]
    assert sums == [5.0, 5.0, 3.5, 3.5, 2.0, 2.0]  # 1 + λ, two batches an epoch
    assert outcome.state == "complete" and outcome.last_accuracy is not None


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_scores_are_the_taylor_criterion(cnn4: Network) -> None:
    data = images(30)
    scores = taylor_importance(cnn4, data, 16)
    before = {name: tensor.clone() for name, tensor in cnn4.state_dict().items()}
    convs = [index for index, layer in enumerate(cnn4.architecture.layers) if layer.kind == "conv"]
    assert list(scores) == convs
    slow: dict[int, np.ndarray] = {}
    for index, name in zip(convs, ("relu1", "relu2", "relu3", "relu4"), strict=True):
        total = torch.zeros(cnn4.architecture.layers[index].channels)
        for n in range(30):  # one image after the other, from the activation on
            x, y = data._normalise(data._plain[n : n + 1]), data.labels[n : n + 1]
            z = _until(cnn4.eval(), name, x).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(_after(cnn4, name, z), y), z)
            total += (gradient * z).mean((2, 3)).abs()[0].detach()
        slow[index] = (total / total.norm()).double().numpy()
    for index in convs:
        np.testing.assert_allclose(scores[index], slow[index], rtol=2e-3, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in cnn4.state_dict().items())


def _after(network: Network, name: str, z: torch.Tensor) -> torch.Tensor:
    passed = False
    for layer in network.architecture.layers:
        if passed:
            z = network.layers.get_submodule(layer.name)(z)
        passed = passed or layer.name == name
    return z


def test_the_lowest_scores_go_and_no_layer_is_emptied(cnn4: Network) -> None:
    convs = [index for index, layer in enumerate(cnn4.architecture.layers) if layer.kind == "conv"]
    scores = {index: np.full(cnn4.architecture.layers[index].channels, 0.5 + index) for index in convs}
    scores[convs[1]][[3, 7]] = 0.1, 0.2
    keep = select_filters(cnn4.architecture, scores, 2)
    assert list(keep) == [convs[1]] and set(range(32)) - set(keep[convs[1]]) == {3, 7}
    most = select_filters(cnn4.architecture, scores, 10**6)
    assert {index: len(kept) for index, kept in most.items()} == dict.fromkeys(convs, 1)


def pruned(cnn4: Network, least_params: int, least_accuracy: float, run: int = 0) -> Pruned:
    return prune(
        cnn4.architecture, cnn4.weights(), lambda cut: images(64, 10 * cut), images(200, 900),
        least_params=least_params, least_accuracy=least_accuracy, filters=40,
        recipe=Recipe(1, 0.01, 32), seed=0, run=run, device="cpu",
    )  # fmt: skip


def test_pruning_stops_at_the_size_or_when_the_accuracy_falls(cnn4: Network) -> None:
    small = pruned(cnn4, 30_000, 0.0)
    assert small.stopped == "size" and small.architecture.num_params <= 30_000
    params = [step["params"] for step in small.steps]
    assert params == sorted(params, reverse=True) and all(p > 30_000 for p in params[:-1])
    network = build(small.architecture, small.weights)
    assert evaluate(network, images(200, 900)) == small.accuracy == small.steps[-1]["accuracy"]
    early = pruned(cnn4, 30_000, 1.5)
    assert early.stopped == "accuracy" and len(early.steps) == 1  # no accuracy reaches 150 %
    assert isinstance(early.architecture, Architecture)
    again = pruned(cnn4, 30_000, 1.5)
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in early.weights.items())
    other = pruned(cnn4, 30_000, 1.5, run=1)
    assert any(not torch.equal(tensor, other.weights[name]) for name, tensor in early.weights.items())
