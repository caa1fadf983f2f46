"""Compression by gradient descent on the embedding: its loss, its steps, its path; and what is chosen from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esnac_lib.latent_descent.codec import Codec
from esnac_lib.latent_descent.descent import CompressionLoss, descend
from esnac_lib.latent_descent.examples import Example, Examples, ParamsScale
from esnac_lib.latent_descent.joint_training import JointSettings, new_autoencoder, train_autoencoder
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.rounds import select
from esnac_lib.latent_descent.sequence import (
    BATCH_NORM,
    CONV,
    DROPOUT,
    LINEAR,
    MAX_POOL,
    RELU,
    SIGMOID,
    Item,
    Items,
    SequenceSpace,
)
from esnac_lib.latent_descent.trials import TrainedArchitecture
from esnac_lib.report.tables.latent_descent import PATTERNS, parameter_free, patterns_of

SPACE = SequenceSpace((1, 8, 8), 10, width_step=4)


def net(width: int) -> Items:
    conv, relu = Item(CONV, 3, width, 1, 1), Item(RELU, 0, width, 0, 0)
    return conv, relu, Item(MAX_POOL, 2, width, 2, 0), conv, relu, Item(LINEAR, 0, 10, 0, 0)


@pytest.fixture(scope="module")
def codec() -> Codec:
    """A codec that knows one family: accuracy grows with the width, from 0.5 at 4 to 0.9 at 64."""
    shape = Representation("one_hot", 16, 4)
    found = [
        Example(net(4 * n), SPACE.to_architecture(net(4 * n)).num_params, 0.5 + 0.4 * (n - 1) / 15)
        for n in range(1, 17)
    ]
    scale = ParamsScale.of("scaled", [example.params for example in found])
    codec = new_autoencoder(shape.features, 16, 8, 0)
    train_autoencoder(
        codec, Examples.of(found, shape, scale), None, JointSettings(150, 16, "adam", 4e-3, 0, 1.0, 1.0), 0
    )
    return Codec(codec, shape, scale, SPACE)


def test_the_loss_is_equation_17() -> None:
    loss = CompressionLoss(accuracy=0.9, params=0.5, accuracy_weight=2.0, params_weight=3.0)
    found = loss(torch.tensor([0.7, 1.0]), torch.tensor([0.1, 2.5]))
    torch.testing.assert_close(found, torch.tensor([2 * 0.2 + 3 * 0.4**2 / 2, 2 * 0.1 + 3 * (2.0 - 0.5)]))
    assert loss.of(0.7, 0.1) == pytest.approx(0.64)


def test_a_step_goes_against_the_numerical_gradient(codec: Codec) -> None:
    loss, lr = CompressionLoss(1.0, 0.0, 1.0, 1.0), 0.5
    y = codec.embed([net(64)]).double()
    codec.autoencoder.double()
    try:
        gradient = torch.zeros_like(y)
        for place in range(y.shape[1]):
            change = torch.zeros_like(y)
            change[0, place] = 1e-6
            up, down = (loss(*codec.regress(y + sign * change)) for sign in (1, -1))
            gradient[0, place] = (up - down).item() / 2e-6
        expected = loss(*codec.regress(y - lr * gradient)).item()
    finally:
        codec.autoencoder.float()
    path = descend(codec, net(64), loss, 1, lr)
    assert path[1].loss == pytest.approx(expected, rel=1e-3)
    assert path[1].loss < path[0].loss


def test_a_descent_makes_networks_smaller_and_knows_what_it_decodes_to(codec: Codec) -> None:
    path = descend(codec, net(64), CompressionLoss(1.0, 0.0, 0.1, 1.0), 12, 3.0)
    assert [step.step for step in path] == list(range(13))
    assert path[-1].params < path[0].params / 2
    known = [step for step in path if step.items is not None]
    assert len(known) > 6
    for step in known:
        architecture = SPACE.to_architecture(step.items or ())
        assert (step.true_params, step.macs, step.arch_id) == (
            architecture.num_params, architecture.macs, architecture.arch_id
        )  # fmt: skip
        (again,) = codec.predict(codec.embed([step.items or ()]))
        assert (step.decoded_accuracy, step.decoded_params) == again
    assert min(step.true_params or 10**9 for step in known) < (path[0].true_params or 0)


def test_reembedding_returns_to_what_networks_are(codec: Codec) -> None:
    loss = CompressionLoss(1.0, 0.0, 0.0, 1.0)
    plain, again = (descend(codec, net(64), loss, 8, 1.0, reembed) for reembed in (0, 3))
    assert [step.params for step in plain[:4]] == [step.params for step in again[:4]]
    assert plain[4].params != again[4].params
    # step 4 starts from the embedding of what step 3 decoded to
    assert again[4].params == again[3].decoded_params
    assert again[4].accuracy == again[3].decoded_accuracy


def trained(trial: int, accuracy: float, params: int) -> TrainedArchitecture:
    return TrainedArchitecture(net(4), params, accuracy, trial, "descent", str(trial), 0, 0.0)


def test_the_most_accurate_within_the_size_comes_first(codec: Codec) -> None:
    found = [trained(0, 0.99, 5000), trained(1, 0.8, 900), trained(2, 0.9, 1000), trained(3, 0.97, 1500)]
    loss = CompressionLoss(1.0, codec.scale.target(1000), 1.0, 1.0)
    assert [one.trial for one in select(found, loss, codec, 1000)][:2] == [2, 1]
    rest = sorted((0, 3), key=lambda n: loss.of(found[n].accuracy, codec.scale.target(found[n].params)))
    assert [one.trial for one in select(found, loss, codec, 1000)][2:] == rest


def test_patterns_are_counted_as_section_5_3_names_them() -> None:
    norm, relu, sigmoid = Item(BATCH_NORM, 0, 1, 0, 0), Item(RELU, 0, 1, 0, 0), Item(SIGMOID, 0, 1, 0, 0)
    items = [
        relu, norm, relu, relu, Item(DROPOUT, 0, 1, 0, 0), Item(MAX_POOL, 1, 1, 1, 0), relu, Item(CONV, 3, 16, 2, 1),
        relu, sigmoid, relu, norm, norm, norm, Item(LINEAR, 0, 10, 0, 0),
    ]  # fmt: skip
    assert patterns_of(items) == dict(zip(PATTERNS, (1, 3, 2, 1, 1, 1), strict=True))
    assert parameter_free(items) == 9 / 15
    plain: dict[str, Any] = patterns_of(net(4))
    assert not any(plain.values())
