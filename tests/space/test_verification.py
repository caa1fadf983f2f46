"""Proofs hold for students of all operators, and fail, one claim at a time, where a student is not what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.architecture.layer_types import LAYER_TYPES, LayerType
from esnac_lib.architecture.network import Network, build
from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import VerificationError
from esnac_lib.seeding import make_rng
from esnac_lib.space import verification as proof
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.space.verification import verify, verify_teacher
from esnac_lib.teachers import teacher


@cache
def cnn4() -> tuple[nn.Module, SearchSpace, dict[str, Tensor]]:
    module = teacher("cnn4", 10, 1, 8, seed=0)
    architecture, weights = trace(module, torch.zeros(1, 1, 8, 8))
    return module, SearchSpace(architecture), weights


def test_the_teacher_and_random_students_are_proved() -> None:
    module, space, weights = cnn4()
    everything = ("shapes", "parameters", "macs", "training", "json", "python")
    assert verify_teacher(module.train(), space, weights).checks == everything
    assert module.training, "the module is in the mode in which it was"
    for seed in range(5):
        student = space.apply(space.sample(make_rng(seed, "proof")))
        assert verify(student, weights, seed=seed).checks == everything


@pytest.mark.parametrize("grouping", ["dimension", "dependency"])
@pytest.mark.parametrize(
    "name", ["vgg19", "resnet18", "resnet34", "shufflenet", "shufflenet_0.5x_g3", "conv7", "conv10"]
)
def test_students_of_every_teacher_are_proved(name: str, grouping: str) -> None:
    channels, size = (1, 28) if name == "conv7" else (3, 32)
    module = teacher(name, 10, channels, size, seed=0)
    architecture, weights = trace(module, torch.zeros(1, channels, size, size))
    space = SearchSpace(architecture, grouping=grouping)
    verify_teacher(module, space, weights)
    for seed in range(3):
        verify(space.apply(space.mutate(space.sample(make_rng(seed, name)), make_rng(seed, "mutate"))), weights)


def test_an_opaque_layer_leaves_the_export_out() -> None:
    attrs = {"what": "Cube", "inputs": ((2, 3, 3),), "output": (2, 3, 3), "macs": 0}
    code = nn.Tanh()
    layers = (
        Layer("c", "conv", (slot(INPUT),), 2, {"kernel_size": 1}),
        Layer("o", "opaque", (slot(0),), attrs=attrs, code=code, reason="cube in model.py:3"),
    )
    architecture = Architecture(layers, (1, 3, 3), slot(1))
    shown = verify(architecture, build(architecture).weights())
    assert "python" not in shown.checks and "'o' is opaque" in shown.left_out["python"]


def broken(**rules: Callable) -> LayerType:
    return replace(LAYER_TYPES["conv"], **rules)


CONV = LAYER_TYPES["conv"]
WRONG: dict[str, tuple[LayerType, str]] = {
    "macs": (broken(macs=lambda *a: CONV.macs(*a) + 1), "MACs an image, predicted were"),
    "shape": (broken(shape=lambda c, a, i: (*CONV.shape(c, a, i)[:2], 8 + a["bias"])), "puts out"),
}


@pytest.mark.parametrize("claim", WRONG)
def test_a_wrong_prediction_is_found(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, message = WRONG[claim]
    layer = Layer("c", "conv", (slot(INPUT),), 2, {"kernel_size": 3, "padding": 1})
    weights = build(Architecture((layer,), (1, 8, 8), slot(0))).weights()
    monkeypatch.setitem(LAYER_TYPES, "conv", rules)
    with pytest.raises(VerificationError, match=message):
        verify(Architecture((layer,), (1, 8, 8), slot(0)), weights)


def test_a_wrong_count_of_parameters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _, space, weights = cnn4()
    monkeypatch.setattr(Architecture, "num_params", 7)
    with pytest.raises(VerificationError, match="parameters, predicted were 7"):
        verify(space.teacher, weights)


class Dead(nn.Module):
    """Gives its input and its weight no part in what it puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_a_parameter_of_opaque_code_may_be_without_a_gradient() -> None:
    attrs = {"what": "Dead", "inputs": ((2, 3, 3),), "output": (2, 3, 3), "tensors": (("weight", (2,), True),)}
    layers = (
        Layer("c", "conv", (slot(INPUT),), 2, {"kernel_size": 1}),
        Layer("dead", "opaque", (slot(0),), attrs=attrs, code=Dead()),
        Layer("d", "conv", (slot(1),), 2, {"kernel_size": 1}),
    )
    architecture = Architecture(layers, (1, 3, 3), slot(2))
    verify(architecture, build(architecture).weights())  # as in its teacher, whose gradients `trace` compares


def test_a_gradient_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _, space, weights = cnn4()

    def stopped(*given: Any) -> Network:
        network = build(*given)
        last = list(network.layer_modules().values())[-2]
        last.register_forward_hook(lambda module, inputs, output: output.detach())
        return network

    monkeypatch.setattr(proof, "build", stopped)
    with pytest.raises(VerificationError, match=r"weight gets no gradient"):
        verify(space.teacher, weights)


def test_outputs_that_are_not_finite_are_found() -> None:
    _, space, weights = cnn4()
    wrong = {name: torch.full_like(tensor, torch.inf) for name, tensor in weights.items()}
    with pytest.raises(VerificationError, match="not finite"):
        verify(space.teacher, wrong)


def test_another_teacher_is_found() -> None:
    _, space, weights = cnn4()
    other = teacher("cnn4", 10, 1, 8, seed=1)
    with pytest.raises(VerificationError, match="gives other outputs"):
        verify_teacher(other, space, weights)


def test_json_and_exports_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _, space, weights = cnn4()
    text = proof.to_python(space.teacher)
    monkeypatch.setattr(proof, "to_python", lambda architecture: text.replace("return ", "return 2 * "))
    with pytest.raises(VerificationError, match="exported program"):
        verify(space.teacher, weights)
    monkeypatch.undo()
    another = space.apply(space.sample(make_rng(1, "proof"))).to_json()
    monkeypatch.setattr(Architecture, "to_json", lambda self: another)
    with pytest.raises(VerificationError, match="from its JSON"):
        verify(space.teacher, weights)
