"""The digest of opaque code: another where what runs is another, the same for the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from esnac_lib.architecture.code_digest import code_digest

SOURCE = '''
import types
from functools import cache, cached_property, partial

import torch
from torch import nn

SCALE = 2.0
ACT, AGAIN = torch.exp, partial(torch.minimum, other=8.0)
GAINS, PAIR, TABLE, NUMBERS = [4.0], (5.0, 6.0), {"gain": 7.0}, torch.tensor([1.25])
SPACE = types.SimpleNamespace(gain=1.5)


class Held:
    __slots__ = ("gain",)

    def __init__(self, gain):
        self.gain = gain * 10


HELD = Held(0.25)


@cache
def cached():
    return 2.25
NAMES = {"a", "b", "c"}


def helper(x, power=2):
    return x**power if "a" in {"a", "b", "c", "d"} else x


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * SCALE

    @staticmethod
    def backward(ctx, g):
        return g * 0.5


class Part(nn.Module):
    """A part."""

    CHOICES, CALL = ("x", "y"), staticmethod(torch.sin)

    @cached_property
    def gain(self):
        return 3.25

    def __init__(self, order=1):
        super().__init__()
        self.order, self.inner, self.act = order, nn.Conv2d(4, 4, 1, padding=0), partial(torch.clamp, min=0.0)
        self.register_buffer("hidden", torch.rand(3), persistent=False)
        self.loop = [self.order, {"own": helper}]
        self.loop.append(self.loop)

    def forward(self, x):
        def apply(y):
            import made_too

            y = AGAIN(ACT(y)) * GAINS[0] * PAIR[0] * TABLE["gain"] * NUMBERS * SPACE.gain * HELD.gain * cached()
            y = self.CALL(y) * self.gain * len(self.CHOICES) * made_too.GAINS[0] * Held(1).gain
            y = sum(getattr(y, name)() for name in ["cos"]) + sum(["one" + name for name in "z"] == [])
            return helper(y) + self.order

        return Scaled.apply(self.act(apply(self.inner(x))))  # forward
'''


TOO = "GAINS = [1.75]"


def made(source: str, too: str = TOO, **options: Any) -> nn.Module:
    for name, text in (("made_too", too), ("made", source)):
        sys.modules[name] = module = ModuleType(name)
        exec(compile(text, f"{name}.py", "exec"), vars(module))
    torch.manual_seed(0)
    return vars(module)["Part"](**options)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("x**power", "x * power"),
        ("power=2", "power=3"),
        ("g * 0.5", "g * 0.1"),
        ("min=0.0", "min=0.1"),
        ("torch.clamp", "torch.clip"),
        ("order=1", "order=2"),
        ("helper(y) + self.order", "helper(y) - self.order"),
        ("padding=0", "padding=1"),
        ("4, 1,", "4, 3,"),
        ("torch.rand(3)", "torch.rand(4)"),
        ("partial(torch.clamp, min=0.0)", "torch.relu"),
        ("ACT, AGAIN = torch.exp", "ACT, AGAIN = torch.tanh"),
        ("other=8.0", "other=9.0"),
        ("[4.0]", "[4.5]"),
        ("(5.0, 6.0)", "(5.5, 6.0)"),
        ('"gain": 7.0', '"gain": 7.5'),
        ("SimpleNamespace(gain=1.5)", "SimpleNamespace(gain=2.5)"),
        ("Held(0.25)", "Held(0.5)"),
        ("gain * 10", "gain * 20"),
        ("return 2.25", "return 2.5"),
        ("return 3.25", "return 3.5"),
        ('("x", "y")', '("x", "z")'),
        ("torch.sin", "torch.cos"),
        ('"one" + name', '"two" + name'),
    ],
)
def test_what_changes_what_runs_changes_the_digest(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1 or old == "torch.rand(3)"
    assert code_digest(made(SOURCE)) != code_digest(made(SOURCE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"), [("# forward", "# on"), ("\n\nclass", "\n\n\n\n# more\nclass"), ("A part", "Part")]
)
def test_comments_and_places_do_not_count(old: str, new: str) -> None:
    assert code_digest(made(SOURCE)) == code_digest(made(SOURCE.replace(old, new)))


def test_numbers_that_are_drawn_count_when_asked_for() -> None:
    one, other = made(SOURCE), made(SOURCE)
    other.hidden += 1
    assert code_digest(one) == code_digest(other)
    assert code_digest(one, numbers=True) != code_digest(other, numbers=True)
    with torch.no_grad():
        one.inner.weight += 1  # this is weights, which have a digest of their own
    assert code_digest(one, numbers=True) == code_digest(made(SOURCE), numbers=True)
    one.inner.weight.requires_grad_(False)
    assert code_digest(one) != code_digest(made(SOURCE))


def test_what_a_function_imports_when_it_runs_counts() -> None:
    assert code_digest(made(SOURCE)) != code_digest(made(SOURCE, "GAINS = [2.75]"))


def test_numbers_of_a_tensor_in_the_module_count_when_asked_for() -> None:
    other = SOURCE.replace("[1.25]", "[1.5]")
    assert code_digest(made(SOURCE)) == code_digest(made(other))
    assert code_digest(made(SOURCE), numbers=True) != code_digest(made(other), numbers=True)


def test_scripted_code_counts() -> None:
    def script(text: str) -> Any:
        return torch.jit.CompilationUnit(f"def f(x):\n    return {text}\n").f

    assert code_digest(script("x + 1")) == code_digest(script("x + 1")) != code_digest(script("x + 2"))


def test_functions_of_pytorch_count_by_name() -> None:
    functions = [torch.relu, torch.sigmoid, torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default, torch.sort]
    functions += [nn.functional.relu, torch.Tensor.relu, nn.ReLU(), nn.Sigmoid(), nn.ReLU6()]
    assert len({code_digest(function) for function in functions}) == len(functions)


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(SOURCE)
    (tmp_path / "made_too.py").write_text(TOO)
    program = "import torch, made, made_too; from esnac_lib.architecture.code_digest import code_digest; "
    program += "torch.manual_seed(0); "
    program += "print(code_digest(made.Part(), numbers=True))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    found = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert found.strip() == code_digest(made(SOURCE), numbers=True)
