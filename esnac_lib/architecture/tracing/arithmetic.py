"""Sums, products, concatenations, averages and borders: calls that read several maps, or maps and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from esnac_lib.architecture.graph import sum_slots
from esnac_lib.architecture.layer_types import BROADCAST_SIZES, REQUIRED, Shape, Slot
from esnac_lib.architecture.tracing.calls import Call, Constant, Value
from esnac_lib.architecture.tracing.draft import Draft, Part
from esnac_lib.architecture.tracing.learned import without_repetition
from esnac_lib.architecture.tracing.movement import CHANNELS, SPACE, restore
from esnac_lib.architecture.tracing.readers import Refused, Step, constant, pad_sizes
from esnac_lib.architecture.tracing.traceable import functions


def add(draft: Draft, call: Call, given: Any, signs: tuple[int, int] = (1, 1)) -> Part:
    """Trace input + alpha · other, with signs for a difference (the operand that is subtracted is times alpha)."""
    factors = list(signs)
    factors[0 if signs[0] < 0 else 1] *= _number(draft, given.alpha)
    terms = list(zip((given.input, given.other), factors, strict=True))
    values = [term for term in terms if isinstance(term[0], Value)]
    if len(values) == 2:
        (a, by_a), (b, by_b) = values
        first, second = _alike(draft, a, b)
        return _combine(draft, call, "add", _scaled(draft, call, first, by_a), _scaled(draft, call, second, by_b))
    (value, factor), (other, times) = values[0], next(term for term in terms if not isinstance(term[0], Value))
    part = draft.read(value)
    offset = _operand(draft, part, other, call)
    if isinstance(offset, Constant):
        if times not in (1, -1):
            offset = _fixed(offset, torch.mul, times)
        part = _scaled(draft, call, part, factor)
        return draft.chain(call, [_broadcast("subtract" if times == -1 else "add", offset, part.shape)], part)
    attrs = {"factor": factor, "offset": offset * times}
    return draft.chain(call, [] if attrs == {"factor": 1, "offset": 0} else [Step("affine", attrs)], part)


def multiply(draft: Draft, call: Call, given: Any) -> Part:
    """Trace input · other. A map times a positive integer is not a layer but a sum."""
    values = [value for value in (given.input, given.other) if isinstance(value, Value)]
    if len(values) == 2:
        return _combine(draft, call, "multiply", *_alike(draft, *values))
    other = given.other if isinstance(given.input, Value) else given.input
    part = draft.read(values[0])
    factor = _operand(draft, part, other, call)
    if isinstance(factor, Constant):
        return draft.chain(call, [_broadcast("multiply", factor, part.shape)], part)
    return _scaled(draft, call, part, factor)


def divide(draft: Draft, call: Call, given: Any) -> Part:
    """Trace input / other, where other is fixed."""
    if given.rounding_mode is not None or isinstance(given.other, Value) or not isinstance(given.input, Value):
        raise Refused("divides by a tensor made of the input, or rounds")
    part = draft.read(given.input)
    divisor = _operand(draft, part, given.other, call)
    if isinstance(divisor, Constant):
        return draft.chain(call, [_broadcast("divide", divisor, part.shape)], part)
    return _scaled(draft, call, part, 1 / divisor)


def concatenate(draft: Draft, call: Call, given: Any) -> Part:
    """Trace the concatenation of maps, and of zeros, along the channels."""
    parts = {tensor: draft.read(tensor) for tensor in given.tensors if isinstance(tensor, Value)}
    layout, *others = {part.layout for part in parts.values()}
    if others or layout is None:
        raise Refused("joins maps that do not lie alike")
    if given.dim % len(call.results[0].shape) != CHANNELS[layout]:
        raise Refused(f"joins along dimension {given.dim}: only channels can be joined")
    first = next(iter(parts.values()))
    slots = [parts[x].slot if isinstance(x, Value) else _zeros(draft, call, first, x) for x in given.tensors]
    return _join(draft, call, slots, layout)


def pad(draft: Draft, call: Call, given: Any) -> Part:
    """Trace a border around maps, and channels of zeros."""
    part = draft.read(given.input, tuple(CHANNELS))
    assert part.layout is not None
    channels, sizes, attrs = pad_sizes(given, part.layout)
    if any(sizes):
        part = draft.chain(call, [Step("pad", attrs)], part)
    if not any(channels):
        return part
    before, after = ([draft.layer(call, Step("zeros", channels=n), (part.slot,), False)] if n else [] for n in channels)
    return _join(draft, call, [*before, part.slot, *after], part.layout)


def reduce(draft: Draft, call: Call, given: Any) -> Part:
    """Trace an average, sum or maximum over height, width or both: a pool, which may lose its dimensions."""
    part, rank = draft.read(given.input, ("chw", "hwc", "nc", "cn")), len(given.input.shape)
    dims = given.dim if isinstance(given.dim, tuple | list) else (given.dim,)
    assert part.layout is not None
    if None in dims or not {dim % rank for dim in dims} <= set(SPACE[part.layout]) or given.dtype is not None:
        raise Refused(f"a {call.name} over {given.dim}: only over height and width is known")
    gone = sorted({dim % rank for dim in dims})
    size = tuple(1 if dim in gone else n for dim, n in zip(SPACE[part.layout], part.shape[1:], strict=False))
    size = (1, 1) if len(size) == 1 else size
    steps = [Step("adaptive_max_pool" if call.name == "amax" else "adaptive_avg_pool", {"output_size": size})]
    if call.name == "sum":
        steps.append(Step("affine", {"factor": prod(part.shape[1:]) / prod(size)}))
    found = draft.chain(call, steps, part)
    if given.keepdim:
        return found
    return draft.move(call.results[0], found, found.numbers(draft.batch).squeeze(gone), call)


def _alike(draft: Draft, a: Value, b: Value) -> tuple[Part, Part]:
    """Return two maps in the same layout, so that what is done to their tensors is done to them."""
    first, second = draft.read(a, expanded=True), draft.read(b, expanded=True)
    if first.layout != second.layout or len(a.shape) != len(b.shape):
        raise Refused("takes two maps that do not lie alike")
    if first.layout is None and (first.shape != second.shape or not torch.equal(first.index, second.index)):  # type: ignore[arg-type]
        raise Refused("takes two maps whose numbers were moved about differently")
    return first, second


def _combine(draft: Draft, call: Call, kind: str, a: Part, b: Part) -> Part:
    """Add a sum or product of two parts in the same layout, also where one is smaller."""
    if kind == "add" and a.shape == b.shape:
        found = sum_slots([(a.slot, 1), (b.slot, 1)])
    else:
        found = draft.layer(call, Step(kind), (a.slot, b.slot))
    return Part(found, draft.shape(found), a.layout, a.index)


def _join(draft: Draft, call: Call, slots: list[Slot], layout: str | None) -> Part:
    found = draft.layer(call, Step("concat"), tuple(slots))
    return Part(found, draft.shape(found), layout)


def _zeros(draft: Draft, call: Call, part: Part, tensor: Any) -> Slot:
    """Return the slot of a constant among maps to be concatenated: only zeros are known."""
    values = draft.trust(constant(tensor, "tensor"))
    if bool(values.any()):
        raise Refused("joins a map and a constant that is not zero")
    assert part.layout is not None
    if part.layout == "f":
        raise Refused("joins features and zeros")
    return draft.layer(call, Step("zeros", channels=values.shape[CHANNELS[part.layout]]), (part.slot,), False)


def _scaled(draft: Draft, call: Call, part: Part, factor: float) -> Part:
    if isinstance(factor, int) and factor > 0:
        return replace(part, slot=sum_slots([(part.slot, factor)]))
    return part if factor == 1 else draft.chain(call, [Step("affine", {"factor": factor})], part)


def _fixed(constant: Constant, function: Callable[..., Tensor], *args: Any) -> Constant:
    """Return what a function makes of a constant that is not learned."""
    if constant.learned:
        raise Refused(f"takes {', '.join(sorted(constant.learned))} times a number")
    return constant.by(function, *args)


def _number(draft: Draft, value: Any) -> Any:
    """Return a number, or a constant of one element that is not learned, as the number that it is."""
    if isinstance(value, Constant) and value.tensor.numel() == 1 and not value.learned:
        return float(draft.trust(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        return value if isinstance(value, int) else float(value)
    raise Refused(f"takes {value!r} where a number is needed")


def _operand(draft: Draft, part: Part, value: Any, call: Call) -> Any:
    """Return what a part is combined with: a number, or a constant (channels, height, width) or (features,).

    What is not learned and the same everywhere is a number.
    """
    if not isinstance(value, Constant):
        return _number(draft, value)
    values = draft.trust(value)
    if not value.learned and values.numel() and bool((values == values.flatten()[0]).all()):
        return float(values.flatten()[0])
    if part.layout is None:
        raise Refused("takes a constant where the order of the map's numbers is its own")
    rank = len(call.results[0].shape)
    constant = value.by(Tensor.reshape, (*[1] * (rank - values.ndim), *values.shape))
    constant = without_repetition(constant)
    sizes = [constant.tensor.shape[dim] for dim in SPACE[part.layout]]
    if part.layout in ("nc", "cn"):
        constant = constant.by(restore, part.layout, (1, 1) if sizes == [1] else part.shape[1:])
    elif part.layout == "hwc":
        constant = constant.by(restore, part.layout, ())
    if len(constant.tensor) > 1 or any(
        n not in (1, m) for n, m in zip(constant.tensor.shape[1:], part.shape, strict=True)
    ):
        raise Refused(f"takes a constant of shape {tuple(values.shape)} on maps of {part.shape}")
    return constant.by(Tensor.__getitem__, 0)


def _broadcast(operation: str, constant: Constant, shape: Shape) -> Step:
    """Return the layer that combines maps or features of a shape with a constant."""
    spans = dict(zip(BROADCAST_SIZES, (n > 1 for n in constant.tensor.shape), strict=False))
    by_channel = constant.tensor.numel() == shape[0] and constant.tensor.shape[0] == shape[0]
    if constant.learned and by_channel and operation in ("add", "multiply"):
        name = "bias" if operation == "add" else "weight"
        return Step("scale", {"weight": name == "weight", "bias": name == "bias"}, {name: constant.by(Tensor.flatten)})
    attrs: dict[str, Any] = {"operation": operation, **spans, "trained": bool(constant.learned)}
    return Step("broadcast", attrs, {"weight": constant})


_PAIR = {"input": REQUIRED, "other": REQUIRED}
_TABLE: tuple[tuple[Callable[[Draft, Call, Any], Part], dict[str, Any], tuple[str, ...]], ...] = (
    (add, _PAIR | {"alpha": 1}, ("add", "add_", "__add__", "__radd__", "__iadd__")),
    (partial(add, signs=(1, -1)), _PAIR | {"alpha": 1},
     ("sub", "sub_", "subtract", "subtract_", "__sub__", "__isub__")),
    (partial(add, signs=(-1, 1)), _PAIR | {"alpha": 1}, ("rsub", "__rsub__")),
    (multiply, _PAIR, ("mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__")),
    (divide, _PAIR | {"rounding_mode": None},
     ("div", "div_", "divide", "divide_", "true_divide", "__truediv__", "__div__", "__itruediv__")),
    (concatenate, {"tensors": REQUIRED, "dim": 0}, ("cat", "concat", "concatenate")),
    (pad, {"input": REQUIRED, "pad": REQUIRED, "mode": "constant", "value": None}, ("pad",)),
    (reduce, {"input": REQUIRED, "dim": None, "keepdim": False, "dtype": None}, ("mean", "sum", "amax")),
)  # fmt: skip
HANDLERS = {function: (trace, arguments) for trace, arguments, names in _TABLE for function in functions(*names)}
"""How a function that combines maps is traced, and its arguments in order with their defaults."""
COMBINES = frozenset(function for function, (trace, _) in HANDLERS.items() if trace not in (concatenate, pad))
"""Those of them that are element-wise, or averages."""
