"""What a recording is made of: values and constants in place of tensors, calls, visits of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Place(NamedTuple):
    """Where a call stands: the path and class of the innermost module, and the line of the user's code."""

    path: str
    kind: str
    line: str
    plain: bool = False  # the module is one of PyTorch's own, which call one function each
    holds: bool = False  # it has tensors

    def __str__(self) -> str:
        module = f"{self.path} ({self.kind})" if self.path else self.kind
        return f"{module}, {self.line}" if self.line else module


@dataclass(frozen=True, eq=False, repr=False)
class Value:
    """A tensor made of the input, as it was after call number `made` (-1: the input itself)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    made: int
    grad: bool = False  # whether gradients flow back from it to a parameter

    def __repr__(self) -> str:
        return f"a tensor {self.shape}"


class Expression(NamedTuple):
    """How a constant was computed: a call, of which it is result number `pick`, with Constants for tensors."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pick: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Constant:
    """A tensor that is not made of the input: held by a module, or computed during the run."""

    tensor: Tensor
    names: frozenset[str]  # the parameters and buffers that it was computed from
    known: bool  # whether it is clear where it comes from (a module holds it, or the run made it)
    version: int
    learned: frozenset[str] = frozenset()  # those of the names that are parameters
    made: Expression | None = None  # None: it is held, or cannot be computed again

    def __repr__(self) -> str:
        return f"a constant {tuple(self.tensor.shape)}"

    def by(self, function: Callable[..., Tensor], *args: Any) -> Constant:
        """Return what a function makes of this constant and of fixed arguments."""
        tensor = function(self.tensor, *args)
        return replace(self, tensor=tensor, version=tensor._version, made=Expression(function, (self, *args), {}))


@dataclass(frozen=True, eq=False)
class Call:
    """A call. In `args` and `kwargs` the tensors are replaced by Values and Constants."""

    target: Any  # the function, or the module that counts as one call
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Value, ...]  # that it returned; with `written` also those that it changed without returning them
    place: Place
    position: int
    written: bool = False
    reason: str = ""  # why it cannot be followed
    twin: Call | None = None  # the same call in training mode

    @property
    def name(self) -> str:
        """The name of the function, or of the module's class."""
        return name_of(self.target)

    @property
    def values(self) -> list[Value]:
        """The Values that it reads, in order, once for every time that they are read."""
        return list(leaves((self.args, self.kwargs), Value))


@dataclass(eq=False)
class Visit:
    """One run of a module's forward: what it was given, what it gave, and the calls and visits in it."""

    module: nn.Module
    path: str
    start: int
    args: Any
    kwargs: Any = field(default_factory=dict)
    output: Any = None
    stop: int = -1
    items: list[Call | Visit] = field(default_factory=list)
    place: Place = field(default_factory=lambda: Place("", "", ""))
    bare: bool = True  # its copy would do the same: it does not run inside no_grad or autocast


@dataclass(frozen=True, eq=False)
class Recording:
    """The visit of the outermost module, all calls in order, and the output (with Values and Constants for tensors)."""

    root: Visit
    calls: list[Call]
    images: Value
    output: Any
    tensor: Any  # the output as it was


def name_of(target: Any) -> str:
    """Return the name of a function ("add" for `Tensor.add_` and `+=`), a property, or a module's class."""
    if isinstance(target, nn.Module):
        return type(target).__name__
    name = str(getattr(target, "__name__", target))
    if name == "__get__":
        name = str(getattr(getattr(target, "__self__", None), "__name__", name))
    return name.strip("_") or name


def leaves(tree: Any, kind: type) -> Iterator[Any]:
    """Return all objects of a kind in nested tuples, lists, dicts and slices."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, slice):
        yield from leaves((tree.start, tree.stop, tree.step), kind)
    elif isinstance(tree, tuple | list | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(item, kind)


def replaced(tree: Any, kind: type | tuple[type, ...], by: Callable[[Any], Any]) -> Any:
    """Return a copy of nested tuples, lists, dicts and slices with every object of a kind replaced."""
    if isinstance(tree, kind):
        return by(tree)
    if isinstance(tree, tuple | list):
        items = [replaced(item, kind, by) for item in tree]
        return tree if type(tree) is torch.Size else (tuple(items) if isinstance(tree, tuple) else items)
    if isinstance(tree, dict):
        return {key: replaced(item, kind, by) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*replaced((tree.start, tree.stop, tree.step), kind, by))
    return tree
