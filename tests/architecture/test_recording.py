"""Recording: what is written down, where, and what cannot be trusted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import _len_torch_function_stack

from esnac_lib.architecture.tracing.calls import Constant, Recording, Value, Visit, leaves, replaced
from esnac_lib.architecture.tracing.recording import record
from esnac_lib.errors import TraceError

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A module whose forward is the given function of (module, input)."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def recorded(forward: Callable[..., Any], **children: nn.Module) -> Recording:
    with torch.no_grad():
        return record(Of(forward, **children).eval(), X)


def names(recording: Recording) -> list[str]:
    return [call.name for call in recording.calls]


def test_calls_on_what_comes_from_the_input_are_recorded_in_order() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        scale = (torch.ones(4) * 2).view(4, 1, 1)  # does not depend on the input
        y = F.relu(module.conv(x), inplace=True)
        y += x
        return (1 - y) * scale

    recording = recorded(forward, conv=nn.Conv2d(4, 4, 1))
    assert names(recording) == ["conv2d", "relu", "add", "rsub", "mul"]
    conv, relu, add, rsub, mul = recording.calls
    assert conv.args[0] is recording.images and recording.output is mul.results[0]
    assert relu.args[0] is conv.results[0] and add.args == (relu.results[0], recording.images)
    assert rsub.args == (add.results[0], 1)
    constant = mul.args[1]
    assert isinstance(constant, Constant) and constant.names == frozenset() and constant.known
    assert constant.tensor.flatten().tolist() == [2.0] * 4
    assert conv.args[1].names == {"conv.weight"} and conv.args[2].names == {"conv.bias"}
    assert [value.made for call in recording.calls for value in call.results] == [0, 1, 2, 3, 4]


def test_constants_know_the_parameters_that_they_were_computed_from() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        weight = module.a.weight * module.b.weight.mean()
        return F.conv2d(x, weight - module.b.running_mean.view(-1, 1, 1, 1))

    recording = recorded(forward, a=nn.Conv2d(4, 4, 1), b=nn.BatchNorm2d(4))
    (constant,) = leaves(recording.calls[0].args, Constant)
    assert constant.names == {"a.weight", "b.weight", "b.running_mean"} and constant.known


def test_tensors_of_unknown_origin_are_told_apart() -> None:
    outside = torch.ones(4, 1, 1)
    recording = recorded(lambda m, x: x + outside * 2 + torch.ones(1))
    assert [constant.known for call in recording.calls for constant in leaves(call.args, Constant)] == [False, True]
    module = Of(lambda m, x: x + m.held)
    module.held = outside  # a plain attribute
    (constant,) = leaves(record(module, X).calls[0].args, Constant)
    assert constant.known


def test_visits_hold_their_calls_and_say_where_they_stand() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    def forward(module: Any, x: Tensor) -> Tensor:
        x = module.inner(x)
        return torch.sigmoid(x)

    recording = recorded(forward, inner=inner)
    line = forward.__code__.co_firstlineno
    (visit, sigmoid) = recording.root.items
    assert isinstance(visit, Visit) and visit.path == "inner" and (visit.start, visit.stop) == (0, 2)
    assert [(item.path, len(item.items)) for item in visit.items if isinstance(item, Visit)] == [
        ("inner.0", 1),
        ("inner.1", 1),
    ]
    assert visit.args == (recording.images,) and visit.output is recording.calls[1].results[0]
    assert str(sigmoid.place) == f"Of, test_recording.py:{line + 2}"
    conv = recording.calls[0]
    assert str(conv.place) == f"inner.0 (Conv2d), test_recording.py:{line + 1}"
    assert (conv.place.plain, conv.place.holds) == (True, True)
    assert (recording.calls[1].place.plain, recording.calls[1].place.holds) == (True, False)
    assert not recording.calls[2].place.plain


def test_python_on_shapes_leaves_no_mark() -> None:
    def forward(module: Any, x: Tensor) -> Tensor:
        batch, channels, height, _ = x.shape
        assert x.dim() == 4 and x.size(1) == channels and len(x) == batch and x.is_floating_point()
        return x.view(batch, -1) if x.shape[2] > height // 2 else x

    recording = recorded(forward)
    assert names(recording) == ["view"] and not recording.calls[0].reason


READS: list[tuple[str, Callable[[Tensor], Any]]] = [
    ("bool", lambda x: bool(x.sum() > 0)),
    ("item", lambda x: x.sum().item()),
    ("float", lambda x: float(x.sum())),
    ("int", lambda x: int(x.sum())),
    ("index", lambda x: range(x.argmax())),
    ("tolist", lambda x: x.tolist()),
    ("numpy", lambda x: x.numpy()),
    ("array", lambda x: np.asarray(x)),
    ("equal", lambda x: torch.equal(x, x + 1)),
    ("contains", lambda x: 0.5 in x),
    ("nonzero", lambda x: x.nonzero()),
    ("where", lambda x: torch.where(x > 0)),
    ("getitem", lambda x: x[x > 0]),
    ("masked_select", lambda x: x.masked_select(x > 0)),
    ("unique", lambda x: x.unique()),
]


@pytest.mark.parametrize("name", [name for name, _ in READS])
def test_python_that_reads_values_is_marked(name: str) -> None:
    read = dict(READS)[name]

    def forward(module: Any, x: Tensor) -> Tensor:
        read(x)
        return x + 1

    marked = [call for call in recorded(forward).calls if call.reason]
    assert [call.name for call in marked] == [name]
    assert marked[0].place.line.startswith("test_recording.py:")


def test_a_loop_over_the_images_is_an_unbind() -> None:
    recording = recorded(lambda m, x: torch.stack(list(x)))
    assert names(recording) == ["unbind", "stack"] and len(recording.calls[0].results) == 2


def test_changes_in_place() -> None:
    def through_a_view(module: Any, x: Tensor) -> Tensor:
        y = x + 1
        y.view(-1).mul_(2)
        return y + 1

    recording = recorded(through_a_view)
    (stale,) = [call for call in recording.calls if call.reason]
    assert "changed in place by another name" in stale.reason
    assert recording.calls[-1].args[0] is stale.results[0]

    def into_zeros(module: Any, x: Tensor) -> Tensor:
        y = torch.zeros(2, 8, 6, 6)
        y[:, :4] = x
        return y

    recording = recorded(into_zeros)
    (call,) = recording.calls
    assert call.name == "setitem" and call.written and recording.output is call.results[0]


def test_an_argument_that_comes_back_unchanged_is_another_value() -> None:
    def forward(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.dropout(x, 0.5, False)
        return x, y

    recording = recorded(forward)
    assert recording.output == (recording.images, recording.calls[0].results[0])


def test_code_that_cannot_be_seen_is_noticed_where_it_stands() -> None:
    @torch.jit.script
    def unseen(x: Tensor) -> Tensor:
        return x * 2

    recording = recorded(lambda m, x: m.inner(unseen(x)) + 1, inner=torch.jit.script(nn.ReLU()))
    assert names(recording)[0] == "unseen" and not recording.calls.pop(0).reason  # a call like any other
    assert [call.reason for call in recording.calls] == ["its output comes out of code that cannot be followed", ""]
    assert recording.calls[0].place.path == "inner" and recording.calls[1].args[0] is recording.calls[0].results[0]


def test_whole_modules_are_one_call() -> None:
    whole = Of(lambda m, x: x)
    recording = record(Of(lambda m, x: m.relu(m.whole(x) + x), whole=whole, relu=nn.ReLU()), X, lambda m: m is whole)
    assert names(recording) == ["Of", "add", "relu"]
    assert recording.calls[0].target is whole and recording.calls[0].args == (recording.images,)
    assert recording.calls[1].args == (recording.calls[0].results[0], recording.images)


def test_an_error_that_the_module_catches_is_its_own_affair() -> None:
    def failing(module: Any, x: Tensor) -> Tensor:
        raise ValueError("no")

    def forward(module: Any, x: Tensor) -> Tensor:
        try:
            return module.inner(x)
        except ValueError:
            return module.relu(x)

    recording = recorded(forward, inner=Of(failing), relu=nn.ReLU())
    assert names(recording) == ["relu"] and recording.calls[0].place.path == "relu"


def test_everything_is_put_back_even_after_an_error() -> None:
    def failing(module: Any, x: Tensor) -> Tensor:
        raise ValueError("two\nlines")

    def counts() -> tuple[int, int, int]:
        return len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks), _len_torch_function_stack()

    before = counts()
    with pytest.raises(TraceError, match=r"Of fails on an input of shape \(2, 4, 6, 6\) at inner \(Of\): two lines$"):
        recorded(lambda m, x: m.inner(x), inner=Of(failing))
    assert counts() == before


def test_other_threads_are_not_recorded() -> None:
    other = nn.ReLU()

    def forward(module: Any, x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: other(torch.ones(1)))
        thread.start()
        thread.join()
        return x + 1

    recording = recorded(forward)
    assert names(recording) == ["add"] and len(recording.root.items) == 1


def test_the_input_is_not_changed_and_no_result_is_kept() -> None:
    before = X.clone()
    recording = recorded(lambda m, x: x.add_(1).relu_())
    assert torch.equal(X, before)
    assert not list(leaves([(call.args, call.kwargs) for call in recording.calls], Tensor))
    assert all(isinstance(value, Value) for call in recording.calls for value in call.results)


def test_nested_arguments() -> None:
    tree = ([1, {"a": 2, "b": slice(3, None, 4)}], 5.0, torch.Size([6]))
    assert sorted(leaves(tree, int)) == [1, 2, 3, 4, 6]
    assert replaced(tree, float, str) == ([1, {"a": 2, "b": slice(3, None, 4)}], "5.0", torch.Size([6]))
    assert replaced({"k": (1, slice(2, 3))}, int, lambda n: n * 10) == {"k": (10, slice(20, 30))}
