"""Which constants of a recording are a parameter, seen from another side, and which are only computed from some.

A layer takes a tensor as a weight of its own if its elements are those of one parameter, each once, in any order. What
is computed from parameters in another way stays with the code that computes it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esnac_lib.architecture.tracing.calls import Constant, leaves, name_of, replaced
from esnac_lib.architecture.tracing.movement import restore
from esnac_lib.architecture.tracing.readers import Refused
from esnac_lib.architecture.tracing.traceable import COPIES, MOVES, STOPS_GRADIENTS

_REARRANGES = (MOVES | COPIES | {restore}) - STOPS_GRADIENTS


def elements(constant: Constant) -> Tensor | None:
    """Return which element of its one parameter each element is, as an index; None if it is computed otherwise.

    It may hold only some of them.
    """
    if len(constant.names) != 1 or constant.names != constant.learned:
        return None
    if constant.made is None:
        tensor = constant.tensor
        return torch.arange(tensor.numel()).view(tensor.shape) if isinstance(tensor, nn.Parameter) else None
    target, args, kwargs, pick = constant.made
    sources = list(leaves((args, kwargs), Constant))
    if len(sources) != 1 or target not in _REARRANGES:
        return None
    if (index := elements(sources[0])) is None or target in COPIES:
        return index
    args, kwargs = replaced((args, kwargs), Constant, lambda _: index)
    return list(leaves(target(*args, **kwargs), Tensor))[pick]


def whole(constant: Constant, what: str) -> tuple[str, Tensor]:
    """Return the parameter that a constant is, and which of its elements each element is (empty: the same).

    Raises Refused, with what it is called, if it is no parameter's every element once.
    """
    names = ", ".join(sorted(constant.names))
    if not constant.learned:
        origin = f"comes from {names}" if names else "was made during the run"
        raise Refused(f"its {what} {origin} and is not trained")
    if constant.made is None and isinstance(constant.tensor, nn.Parameter):
        return next(iter(constant.names)), torch.empty(0)
    index = elements(constant)
    if index is None:
        function = f" by {name_of(constant.made.target)}" if constant.made else ""
        raise Refused(f"its {what} is computed from {names}{function}")
    (name,) = constant.names
    if index.numel() != _size(constant) or bool((index.flatten().bincount(minlength=index.numel()) != 1).any()):
        raise Refused(f"its {what} is a part of {name}")
    return name, index


def without_repetition(constant: Constant) -> Constant:
    """Return a constant without the dimensions along which it was expanded, each cut to length one."""
    index = elements(constant) if constant.learned else constant.tensor
    for dim in range(constant.tensor.ndim):
        if index is not None and index.shape[dim] > 1 and bool((index == index.narrow(dim, 0, 1)).all()):
            index, constant = index.narrow(dim, 0, 1), constant.by(Tensor.narrow, dim, 0, 1)
    return constant


def _size(constant: Constant) -> int:
    """Return the number of elements of the one parameter that a constant was computed from."""
    while constant.made is not None:
        (constant,) = leaves((constant.made.args, constant.made.kwargs), Constant)
    return constant.tensor.numel()
