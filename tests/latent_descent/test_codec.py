"""The codec: representation, networks, losses, joint training and its quality, each against a slow or exact twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esnac_lib.latent_descent.codec_quality import free_numbers, linear_baseline, reconstruction, regression
from esnac_lib.latent_descent.examples import Example, Examples, ParamsScale
from esnac_lib.latent_descent.joint_training import (
    JointSettings,
    losses_of,
    new_autoencoder,
    refresh,
    train_autoencoder,
)
from esnac_lib.latent_descent.networks import Autoencoder
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import CONV, DROPOUT, LINEAR, MAX_POOL, RELU, Item, Items

CLASSES = Item(LINEAR, 0, 10, 0, 0)
SETTINGS = JointSettings(12, 4, "adam", 1e-3, 0, 1.0, 1.0)


def net(width: int, *more: Item) -> Items:
    return (Item(CONV, 3, width, 1, 1), Item(RELU, 0, width, 0, 0), *more, CLASSES)


FOUND = [
    Example(net(4), 500, 0.5),
    Example(net(8, Item(MAX_POOL, 2, 8, 2, 0)), 700, 0.9),
    Example(net(16, Item(CONV, 5, 32, 2, 2), Item(DROPOUT, 0, 32, 0, 5)), 4000, None),
    Example(net(12, Item(LINEAR, 0, 40, 0, 0)), 90_000, 0.7),
]
SHAPE = Representation("one_hot", 16, 4)
SCALE = ParamsScale.of("scaled", [example.params for example in FOUND])
TENSORS = Examples.of(FOUND, SHAPE, SCALE)


# -- representation ----------------------------------------------------------------------------------------------------

layers = st.one_of(
    st.builds(lambda k, o, s, p: Item(CONV, k, 4 * o, s, p), *[st.integers(1, n) for n in (10, 300, 10, 10)]),
    st.builds(lambda k, s, p: Item(MAX_POOL, k, 8, s, p), *[st.integers(1, 10)] * 3),
    st.builds(lambda p: Item(DROPOUT, 0, 8, 0, p), st.integers(0, 9)),
    st.builds(lambda o: Item(LINEAR, 0, 4 * o, 0, 0), st.integers(1, 300)),
    st.just(Item(RELU, 0, 8, 0, 0)),
)


@given(st.lists(layers, min_size=1, max_size=16), st.sampled_from(["one_hot", "numbers"]))
def test_a_sequence_and_its_length_come_back_from_either_representation(items: list[Item], kind: str) -> None:
    shape = Representation(kind, 16, 4)  # type: ignore[arg-type]
    array = shape.encode(items)
    assert array.shape == (shape.features, 16) and array.dtype == np.float32
    assert shape.decode(array) == items
    assert (
        shape.decode(array + 0.01 * np.sign(np.arange(16) - 7.5).astype(np.float32) * (kind == "one_hot")) is not None
    )


def test_a_decoded_sequence_ends_before_its_first_empty_layer() -> None:
    array = SHAPE.encode(net(8))
    array[:, 1] = 0  # no type is nearest: t = 0 is the first of equals
    assert SHAPE.decode(array) == [Item(CONV, 3, 8, 1, 1)]


def test_scales_of_the_parameters_are_what_they_say() -> None:
    params = [100, 400, 1600]
    for kind in ("scaled", "standardised", "log"):
        scale = ParamsScale.of(kind, params)  # type: ignore[arg-type]
        assert [scale.params(scale.target(p)) for p in params] == pytest.approx(params)
    assert ParamsScale.of("scaled", params).target(400) == pytest.approx(400 / np.std(params))
    paper = ParamsScale.of("standardised", params)
    assert paper.target(700) == 0 and paper.target(400) < 0  # below the mean: out of a ReLU's reach
    assert ParamsScale.of("log", params).target(100) == 0


# -- networks ----------------------------------------------------------------------------------------------------------


def test_the_networks_have_the_forms_of_the_paper() -> None:
    autoencoder = Autoencoder(13, 32, 24)
    y, decoded, accuracy, params = autoencoder(torch.randn(3, 13, 32))
    assert (y.shape, decoded.shape, accuracy.shape, params.shape) == ((3, 24), (3, 13, 32), (3,), (3,))
    for regressor, last in ((autoencoder.accuracy, nn.Sigmoid), (autoencoder.params, nn.ReLU)):
        kinds = [type(module) for module in regressor]
        assert kinds == [nn.Linear, nn.ReLU] * 3 + [nn.Linear, last, nn.Flatten]  # 3 fc-ReLU blocks, then the output
    assert any(isinstance(module, nn.ConvTranspose1d) for module in autoencoder.decoder.modules())


def test_an_architecture_is_embedded_the_same_alone_and_among_longer_ones() -> None:
    autoencoder = new_autoencoder(SHAPE.features, 16, 8, 0).eval()
    with torch.no_grad():
        together = autoencoder.encoder(TENSORS.x)
        alone = torch.cat([autoencoder.encoder(x[None]) for x in TENSORS.x])
    torch.testing.assert_close(together, alone)
    same = new_autoencoder(SHAPE.features, 16, 8, 0).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in autoencoder.state_dict().items())


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_losses_are_equations_12_to_15() -> None:
    autoencoder = new_autoencoder(SHAPE.features, 16, 8, 0).eval()
    losses = losses_of(autoencoder, TENSORS, 2.0, 3.0)
    with torch.no_grad():
        _, decoded, accuracy, params = autoencoder(TENSORS.x)
    l_d = l_a = l_p = 0.0
    for n, example in enumerate(FOUND):  # the slow twin, one number after the other
        length = len(example.items)
        for i in range(length + 1):  # Eq. 12 sums over i = 0 … T
            l_d += sum(float(decoded[n, c, i] - TENSORS.x[n, c, i]) ** 2 for c in range(SHAPE.features)) / length
        if example.accuracy is not None:
            l_a += abs(float(accuracy[n]) - example.accuracy)
        error = abs(float(params[n]) - SCALE.target(example.params))
        l_p += error**2 / 2 if error <= 1 else error - 0.5
    assert losses.decoder.item() == pytest.approx(l_d / 4, rel=1e-5)
    assert losses.accuracy.item() == pytest.approx(l_a / 3, rel=1e-5)  # one of the four is unlabelled
    assert losses.params.item() == pytest.approx(l_p / 4, rel=1e-5)
    assert losses.total.item() == pytest.approx(l_d / 4 + 2 * l_a / 3 + 3 * l_p / 4, rel=1e-5)


def test_without_any_label_the_accuracy_regressor_gets_no_gradient() -> None:
    autoencoder = new_autoencoder(SHAPE.features, 16, 8, 0)
    losses_of(autoencoder, TENSORS.take(np.array([2, 2])), 1.0, 1.0).total.backward()
    assert all(not p.grad.any() for p in autoencoder.accuracy.parameters() if p.grad is not None)
    assert any(p.grad.any() for p in autoencoder.params.parameters() if p.grad is not None)


# -- joint training ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_is_one_cycle_or_falls_to_a_fifth() -> None:
    cycle = replace(SETTINGS, iterations=100, lr=1.0)
    assert [cycle.lr_at(step) for step in (0, 24, 99)] == pytest.approx([0.02, 0.98, 0.005 / 0.75])
    paper = replace(cycle, decay=30)
    assert [paper.lr_at(step) for step in (0, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setattr("esnac_lib.latent_descent.joint_training.CHECKPOINT_EVERY", 5)
    settings = replace(SETTINGS, optimizer=optimizer)
    whole, killed, records = new_autoencoder(SHAPE.features, 16, 8, 0), new_autoencoder(SHAPE.features, 16, 8, 0), []
    train_autoencoder(
        whole, TENSORS, TENSORS, settings, 1, on_record=lambda step, losses: records.append((step, losses))
    )

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        train_autoencoder(killed, TENSORS, TENSORS, settings, 1, checkpoint=path, check_stop=kill)
    again = new_autoencoder(SHAPE.features, 16, 8, 0)
    train_autoencoder(again, TENSORS, TENSORS, settings, 1, checkpoint=path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert [step for step, _ in records] == list(range(1, 13)) and records[-1][1].keys() == {
        "total", "decoder", "accuracy", "params"
    }  # fmt: skip


def test_a_damaged_checkpoint_costs_the_time_only(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"cut short")
    autoencoder, fresh = new_autoencoder(SHAPE.features, 16, 8, 0), new_autoencoder(SHAPE.features, 16, 8, 0)
    with pytest.warns(UserWarning, match="trained from the start"):
        train_autoencoder(autoencoder, TENSORS, None, SETTINGS, 1, checkpoint=path)
    train_autoencoder(fresh, TENSORS, None, SETTINGS, 1)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in autoencoder.state_dict().items())


@pytest.fixture(scope="module")
def learned() -> Autoencoder:
    """An autoencoder that was trained on the four architectures alone.

    The batch is larger than their number on purpose: four rows drawn with replacement often miss one of them, and leave
    four values a channel to the deepest batch norms, whose running statistics then do not describe the training.
    """
    autoencoder = new_autoencoder(SHAPE.features, 16, 16, 0)
    train_autoencoder(autoencoder, TENSORS, None, replace(SETTINGS, iterations=300, batch_size=16, lr=4e-3), 0)
    return autoencoder


def test_the_codec_can_learn_a_few_architectures_by_heart(learned: Autoencoder) -> None:
    with torch.no_grad():
        _, decoded, accuracy, params = learned(TENSORS.x)
    for array, example in zip(decoded, FOUND, strict=True):
        got = SHAPE.decode(array.numpy())
        assert [free_numbers(item._replace(o=0)) for item in got] == [
            free_numbers(item._replace(o=0)) for item in example.items
        ]
        widths = [(a.o, b.o) for a, b in zip(got, example.items, strict=True) if a.t in (CONV, LINEAR)][:-1]
        assert all(abs(a - b) <= SHAPE.width_step for a, b in widths)
    errors = (decoded - TENSORS.x).abs() * TENSORS.inside[:, None]
    assert errors.max() < 0.2  # k, s and p are divided by 2, so that they are rounded rightly up to 0.25
    known = [n for n, example in enumerate(FOUND) if example.accuracy is not None]
    assert (accuracy - TENSORS.accuracy)[known].abs().max() < 0.05
    assert (params - TENSORS.params).abs().max() < 0.15  # of 2.4, with those near 0 cut off by the ReLU


def test_a_refresh_learns_new_labels_and_leaves_the_batch_norms_statistics(learned: Autoencoder) -> None:
    autoencoder = Autoencoder(SHAPE.features, 16, 16)
    autoencoder.load_state_dict(learned.state_dict())
    new = Examples(**{**vars(TENSORS), "accuracy": torch.tensor([0.2, 0.3, 0.4, 0.1])})
    with torch.no_grad():
        before = losses_of(autoencoder.eval(), new, 1.0, 1.0).accuracy
    refresh(autoencoder, new, SETTINGS, steps=40, lr=1e-3, seed=0)
    with torch.no_grad():
        after = losses_of(autoencoder, new, 1.0, 1.0).accuracy
    assert after < before / 3
    statistics = [name for name in learned.state_dict() if "running" in name or "tracked" in name]
    assert statistics
    assert all(torch.equal(learned.state_dict()[name], autoencoder.state_dict()[name]) for name in statistics)


# -- quality -----------------------------------------------------------------------------------------------------------


def test_reconstruction_counts_what_a_layer_can_choose() -> None:
    true = [net(16), net(8, Item(MAX_POOL, 2, 8, 2, 0))]
    decoded = [
        [Item(CONV, 3, 17, 1, 1), Item(RELU, 1, 99, 0, 0), Item(LINEAR, 0, 12, 0, 0)],  # only the width is wrong
        [
            Item(CONV, 3, 8, 1, 1),
            Item(RELU, 0, 8, 0, 0),
            Item(MAX_POOL, 2, 8, 1, 0),
        ],  # a stride, and the end is missing
    ]
    assert reconstruction(true, decoded) == {
        "sequences": 2, "layers": 7, "layers_exact": 4 / 7, "types": 6 / 7, "widths_near": 1.0, "lengths": 0.5,
        "sequences_exact": 0.0,
    }  # fmt: skip
    assert reconstruction(true, true)["sequences_exact"] == 1.0


def test_regression_stands_beside_its_baseline() -> None:
    found = regression([0.1, 0.5, 0.9], [0.2, 0.4, 0.9], [0.5, 0.5, 0.5])
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert found["mean_absolute_error"] == pytest.approx(0.2 / 3)
    assert found["baseline_error"] == pytest.approx(0.8 / 3)
    assert regression([0.1, 0.5, 0.9], [0.3] * 3, [0.5] * 3)["rank_correlation"] is None


def test_the_linear_baseline_is_a_least_squares_fit() -> None:
    known = [Example(net(4 * n), 30 + 7 * 4 * n, None) for n in range(1, 12)]
    asked = [Example(net(100), 0, None)]
    assert linear_baseline(known, known) == pytest.approx([one.params for one in known], rel=1e-6)
    assert linear_baseline(known, asked) == pytest.approx([730], rel=1e-6)
