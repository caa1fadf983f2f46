"""Every student of every teacher: valid, buildable, runnable, counted right, never larger, and found again.

Two suites. A state machine breeds decisions by the space's own rules and checks what needs no tensors; tests with
tensors build a student, run it forward and backward and let PyTorch count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build, inherit, weight_shapes
from esnac_lib.architecture.tracing import trace
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import teacher


@dataclass(frozen=True)
class Case:
    """A teacher, its images, and how many examples its cost allows."""

    channels: int
    size: int
    runs: int  # students that are run with tensors
    walks: int  # walks of the state machine


CASES = {
    "vgg19": Case(3, 32, 20, 25),
    "resnet18": Case(3, 32, 30, 25),
    "resnet34": Case(3, 32, 30, 20),
    "shufflenet": Case(3, 32, 30, 20),
    "shufflenet_1.0x_g3": Case(3, 32, 30, 20),
    "conv7": Case(1, 28, 40, 40),
    "conv10": Case(3, 32, 30, 40),
    "cnn4": Case(1, 8, 100, 60),
}
BATCH = 2
STEPS = 8  # rules a walk


@cache
def traced(name: str) -> tuple[SearchSpace, dict[str, Tensor]]:
    """A teacher's space and its weights."""
    case = CASES[name]
    module = teacher(name, 10, case.channels, case.size, seed=0)
    architecture, weights = trace(module, images(name))
    return SearchSpace(architecture), weights


def images(name: str) -> Tensor:
    case = CASES[name]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, case.channels, case.size, case.size, generator=generator)


def wild(space: SearchSpace, remove: float, ratio: float, skip: float, rng: np.random.Generator) -> Decisions:
    """Decisions that sampling hardly makes: nothing or everything removed, one filter left, every pair joined."""
    removed = frozenset(i for i in space.removable if rng.random() < remove)
    skips = frozenset(pair for pair in space.connectable if rng.random() < skip)
    return space.normalise(Decisions(removed, (ratio,) * len(space.groups), skips))


extremes = st.tuples(
    st.sampled_from((0.0, 0.5, 0.9, 1.0)), st.sampled_from((0.0, 0.3, 0.999999)), st.sampled_from((0.0, 0.02, 0.2, 1.0))
)
seeds = st.integers(0, 2**32)


def drawn(space: SearchSpace, seed: int) -> Decisions:
    """A sample, a mutant of a mutant, a child, or a wild one."""
    rng = make_rng(seed, "drawn")
    kind = seed % 4
    if kind == 3:
        return wild(space, *rng.random(2), 0.03, rng)
    decisions = space.sample(rng)
    for _ in range(kind):
        decisions = space.mutate(decisions, rng)
    return space.cross(decisions, space.sample(rng), rng) if kind == 2 else decisions


def check(space: SearchSpace, decisions: Decisions) -> Architecture:
    """What must hold of any decisions, without tensors; the student."""
    student, full = space.apply(decisions), space.teacher
    assert space.normalise(decisions) == decisions
    assert Decisions.from_json(decisions.to_json()) == decisions
    assert student.num_params <= full.num_params
    assert student.input_shape == full.input_shape and student.output_shape == full.output_shape
    assert len(student.layers) == len(full.layers) - len(decisions.removed)
    by_name = {layer.name: layer for layer in full.layers}
    for layer in student.layers:
        source = by_name[layer.origin]
        assert layer.kind == source.kind and layer.channels <= source.channels
        assert layer.kept_out is None or len(layer.kept_out) == layer.channels or layer.kind == "batch_norm"
    back = Architecture.from_json(student.to_json())
    assert back == student and back.arch_id == student.arch_id
    found = space.decisions_of(back)
    assert found is not None and space.contains(back)
    assert (found.removed, found.skips) == (decisions.removed, decisions.skips) and space.apply(found) == student
    order = {i: place for place, i in enumerate(student.canonical_order)}
    assert all(order[i] < order[j] for i, j in student.edges())
    return student


# -- without tensors: walks through the space --------------------------------------------------------------------------


class Walk(RuleBasedStateMachine):
    """Decisions bred from decisions; each is checked as soon as it is made."""

    space: ClassVar[SearchSpace]
    decided = Bundle("decided")

    def _checked(self, decisions: Decisions) -> Decisions:
        check(self.space, decisions)
        return decisions

    @initialize(target=decided)
    def start(self) -> Decisions:
        assert self.space.apply(self.space.nothing) == self.space.teacher
        return self._checked(self.space.nothing)

    @rule(target=decided, seed=seeds)
    def sample(self, seed: int) -> Decisions:
        return self._checked(self.space.sample(make_rng(seed, "sample")))

    @rule(target=decided, parent=decided, seed=seeds, times=st.integers(1, 4))
    def mutate(self, parent: Decisions, seed: int, times: int) -> Decisions:
        for k in range(times):
            parent = self.space.mutate(parent, make_rng(seed, "mutate", k))
        return self._checked(parent)

    @rule(target=decided, a=decided, b=decided, seed=seeds)
    def cross(self, a: Decisions, b: Decisions, seed: int) -> Decisions:
        return self._checked(self.space.cross(a, b, make_rng(seed, "cross")))

    @rule(target=decided, how=extremes, seed=seeds)
    def wild(self, how: tuple[float, float, float], seed: int) -> Decisions:
        return self._checked(wild(self.space, *how, make_rng(seed, "wild")))

    @rule(parent=decided)
    def same_id_same_size(self, parent: Decisions) -> None:
        """Applied again, to a space made anew of the teacher's JSON."""
        again = SearchSpace(Architecture.from_json(self.space.teacher.to_json())).apply(parent)
        student = self.space.apply(parent)
        assert again.arch_id == student.arch_id and (again.num_params, again.macs) == (student.num_params, student.macs)


@pytest.mark.parametrize("name", CASES)
def test_walks(name: str) -> None:
    walk: Any = type("Walk", (Walk,), {"space": traced(name)[0]})
    walk.TestCase.settings = settings(max_examples=CASES[name].walks, stateful_step_count=STEPS, deadline=None)
    walk.TestCase("runTest").runTest()


# -- with tensors ------------------------------------------------------------------------------------------------------


def run(name: str, decisions: Decisions) -> None:
    """Builds the student with inherited weights, and compares what is predicted with what PyTorch does."""
    space, weights = traced(name)
    student = check(space, decisions)
    inherited = inherit(weights, student)
    assert {key: tuple(tensor.shape) for key, tensor in inherited.items()} == weight_shapes(student)
    network, x = build(student, inherited), images(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == student.num_params

    seen: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
        for module in network.layers.children()
    ]
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = network(x)
    assert output.shape == (BATCH, *student.output_shape) == (BATCH, 10)
    assert seen == [(BATCH, *shape) for shape in student.shapes]
    assert counter.get_total_flops() == 2 * BATCH * student.macs
    for hook in hooks:
        hook.remove()

    network.train()
    network(x).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, key


def for_each_teacher(test: Callable[[str, int], None]) -> Callable[[str], None]:
    """The test for every teacher, with as many seeds as its cost allows."""

    @pytest.mark.parametrize("name", CASES)
    def every(name: str) -> None:
        examples = settings(max_examples=CASES[name].runs, deadline=None)
        examples(given(seed=seeds)(lambda seed: test(name, seed)))()

    return every


@for_each_teacher
def test_students_run(name: str, seed: int) -> None:
    run(name, drawn(traced(name)[0], seed))


@pytest.mark.parametrize("name", CASES)
def test_the_smallest_student_runs(name: str) -> None:
    """Everything removed that can be, one filter left of each convolution (or as few as its groups allow)."""
    space, _ = traced(name)
    ratio = 1 - 1e-9
    run(name, wild(space, 1.0, ratio, 0.0, make_rng(0, "unused")))
    widths = {layer.channels for layer in space.apply(wild(space, 1.0, ratio, 0.0, make_rng(0, "unused"))).layers}
    if not name.startswith("shufflenet"):
        assert widths == {0, 1, 10}


@pytest.mark.parametrize("name", ["conv7", "cnn4"])
def test_all_skips_at_once_run(name: str) -> None:
    space, _ = traced(name)
    decisions = wild(space, 0.0, 0.0, 1.0, make_rng(0, "unused"))
    assert decisions.skips == frozenset(space.connectable) - set(space.teacher.edges())
    run(name, decisions)


@pytest.mark.parametrize("name", CASES)
def test_doing_nothing_gives_the_teacher_back(name: str) -> None:
    """Outputs included, bit for bit."""
    space, weights = traced(name)
    case = CASES[name]
    module = teacher(name, 10, case.channels, case.size, seed=0).eval()
    student = space.apply(space.nothing)
    assert student == space.teacher and student.num_params == sum(p.numel() for p in module.parameters())
    network = build(student, inherit(weights, student)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = module(images(name))
    assert counter.get_total_flops() == 2 * BATCH * student.macs
    with torch.no_grad():
        assert torch.equal(network(images(name)), expected)


@pytest.mark.parametrize("name", CASES)
def test_keeping_every_channel_by_its_number_gives_the_teachers_weights(name: str) -> None:
    """A layer of which every filter is named goes through the bookkeeping of kept channels, and its readers do not."""
    space, weights = traced(name)
    keep: dict[int, list[np.ndarray]] = {}
    for group in space.groups:
        for index, positions in group.keep(0.0).items():
            keep.setdefault(index, []).append(positions)
    student = shrink(space.teacher, {index: np.sort(np.concatenate(parts)) for index, parts in keep.items()})
    numbered = [layer for layer in student.layers if layer.kept_out is not None or layer.kept_in is not None]
    assert student == space.teacher and len(numbered) == len(keep)
    inherited = inherit(weights, student)
    assert all(torch.equal(inherited[key], tensor) for key, tensor in weights.items())
