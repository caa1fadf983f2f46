"""Sums, products, concatenations, averages and borders: calls that read several maps, or maps and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from numbers import Real
from typing import Any

import torch

from esnac_lib.architecture.graph import sum_slots
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.architecture.tracing import traceable as known
from esnac_lib.architecture.tracing.calls import Call, Constant, Value
from esnac_lib.architecture.tracing.draft import Draft, Part
from esnac_lib.architecture.tracing.movement import CHANNELS, SPACE
from esnac_lib.architecture.tracing.readers import Options, Refused, Step, bind, constant, pad_sizes


def add(draft: Draft, call: Call, signs: tuple[int, int] = (1, 1)) -> None:
    """Trace input + alpha · other, with signs for a difference."""
    bound = bind(known.SUM_ARGUMENTS, call.args, call.kwargs)
    factors = [signs[0], signs[1]]
    factors[0 if signs[0] < 0 else 1] *= _number(draft, bound["alpha"])
    terms = list(zip((bound["input"], bound["other"]), factors, strict=True))
    values = [term for term in terms if isinstance(term[0], Value)]
    if len(values) == 2:
        (a, by_a), (b, by_b) = values
        first, second = _alike(draft, a, b)
        _combine(draft, call, "add", _scaled(draft, call, first, by_a), _scaled(draft, call, second, by_b))
        return
    (value, factor), (other, times) = values[0], next(term for term in terms if not isinstance(term[0], Value))
    part = draft.read(value)
    offset = _per_channel(draft, part, other, call)
    if isinstance(offset, Constant):
        part = _scaled(draft, call, part, factor)
        offset = offset.put(offset.tensor * times)
        steps = [Step("scale", {"weight": False, "bias": True}, {"bias": offset})]
    else:
        attrs = {"factor": factor, "offset": offset * times}
        steps = [] if attrs == {"factor": 1, "offset": 0} else [Step("affine", attrs)]
    draft.give(call.results[0], draft.chain(call, steps, part))


def subtract(draft: Draft, call: Call) -> None:
    """Trace input − alpha · other."""
    add(draft, call, (1, -1))


def subtract_from(draft: Draft, call: Call) -> None:
    """Trace other − alpha · input."""
    add(draft, call, (-1, 1))


def multiply(draft: Draft, call: Call) -> None:
    """Trace input · other. A map times a positive integer is not a layer but a sum."""
    bound = bind(known.PRODUCT_ARGUMENTS, call.args, call.kwargs)
    values = [value for value in bound.values() if isinstance(value, Value)]
    if len(values) == 2:
        _combine(draft, call, "multiply", *_alike(draft, *values))
        return
    part = draft.read(values[0])
    factor = _per_channel(draft, part, next(other for other in bound.values() if not isinstance(other, Value)), call)
    draft.give(call.results[0], _times(draft, call, part, factor))


def divide(draft: Draft, call: Call) -> None:
    """Trace input / other, where other is fixed."""
    bound = bind(known.QUOTIENT_ARGUMENTS, call.args, call.kwargs)
    if bound["rounding_mode"] is not None or isinstance(bound["other"], Value) or not isinstance(bound["input"], Value):
        raise Refused("divides by a tensor made of the input, or rounds")
    part = draft.read(bound["input"])
    divisor = _per_channel(draft, part, bound["other"], call)
    factor = divisor.put(1 / divisor.tensor) if isinstance(divisor, Constant) else 1 / divisor
    draft.give(call.results[0], _times(draft, call, part, factor))


def concatenate(draft: Draft, call: Call) -> None:
    """Trace the concatenation of maps, and of zeros, along the channels."""
    bound = bind(known.JOIN_ARGUMENTS, call.args, call.kwargs)
    tensors = bound["tensors"]
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    parts = {value: draft.read(value) for value in values}
    layouts = {part.layout for part in parts.values()}
    layout = layouts.pop()
    if layouts or layout is None:
        raise Refused("joins maps that do not lie alike")
    if bound["dim"] % len(call.results[0].shape) != CHANNELS[layout]:
        raise Refused(f"joins along dimension {bound['dim']}: only channels can be joined")
    slots = [
        parts[tensor].slot if isinstance(tensor, Value) else _zeros(draft, call, parts[values[0]], tensor)
        for tensor in tensors
    ]
    _join(draft, call, slots, layout)


def pad(draft: Draft, call: Call) -> None:
    """Trace a border around maps, and channels of zeros."""
    bound = bind(known.PAD_ARGUMENTS, call.args, call.kwargs)
    part = draft.read(bound["input"], tuple(CHANNELS))
    assert part.layout is not None
    (before, after), sizes, attrs = pad_sizes(Options(**bound), part.layout)
    if any(sizes):
        part = draft.chain(call, [Step("pad", attrs)], part)
    if not before and not after:
        draft.give(call.results[0], part)
        return
    extra = [draft.layer(call, Step("zeros", channels=n), (part.slot,), False) if n else None for n in (before, after)]
    slots = [item for item in (extra[0], part.slot, extra[1]) if item is not None]
    _join(draft, call, slots, part.layout or "")


def reduce(draft: Draft, call: Call) -> None:
    """Trace an average, sum or maximum over height, width or both: a pool, which may lose its dimensions."""
    bound = bind(known.REDUCTION_ARGUMENTS, call.args, call.kwargs)
    part, rank = draft.read(bound["input"], ("chw", "hwc", "nc", "cn")), len(bound["input"].shape)
    dims = bound["dim"] if isinstance(bound["dim"], tuple | list) else (bound["dim"],)
    assert part.layout is not None
    if None in dims or not {dim % rank for dim in dims} <= set(SPACE[part.layout]) or bound["dtype"] is not None:
        raise Refused(f"a {call.name} over {bound['dim']}: only over height and width is known")
    gone = sorted({dim % rank for dim in dims})
    size = tuple(1 if dim in gone else n for dim, n in zip(SPACE[part.layout], part.shape[1:], strict=False))
    size = (1, 1) if len(size) == 1 else size
    kind = known.REDUCTIONS[call.target]
    steps = [Step("adaptive_max_pool" if kind == "amax" else "adaptive_avg_pool", {"output_size": size})]
    if kind == "sum":
        steps.append(Step("affine", {"factor": prod(part.shape[1:]) / prod(size)}))
    found = draft.chain(call, steps, part)
    if bound["keepdim"]:
        draft.give(call.results[0], found)
        return
    index = found.numbers(draft.batch)
    draft.move(call.results[0], found, index.squeeze(gone), call)


def _alike(draft: Draft, a: Value, b: Value) -> tuple[Part, Part]:
    """Return two maps in the same layout, so that what is done to their tensors is done to them."""
    first, second = draft.read(a, expanded=True), draft.read(b, expanded=True)
    if first.layout != second.layout or len(a.shape) != len(b.shape):
        raise Refused("takes two maps that do not lie alike")
    if first.layout is None and (first.shape != second.shape or not torch.equal(first.index, second.index)):  # type: ignore[arg-type]
        raise Refused("takes two maps whose numbers were moved about differently")
    return first, second


def _combine(draft: Draft, call: Call, kind: str, a: Part, b: Part) -> None:
    """Add a sum or product of two parts in the same layout, also where one is smaller."""
    if kind == "add" and a.shape == b.shape:
        found = sum_slots([(a.slot, 1), (b.slot, 1)])
    else:
        found = draft.layer(call, Step(kind), (a.slot, b.slot))
    draft.give(call.results[0], Part(found, draft.shape(found), a.layout, a.index))


def _join(draft: Draft, call: Call, slots: list[Slot], layout: str) -> None:
    found = draft.layer(call, Step("concat"), tuple(slots))
    draft.give(call.results[0], Part(found, draft.shape(found), layout))


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


def _times(draft: Draft, call: Call, part: Part, factor: float | Constant) -> Part:
    if isinstance(factor, Constant):
        return draft.chain(call, [Step("scale", tensors={"weight": factor})], part)
    return _scaled(draft, call, part, factor)


def _number(draft: Draft, value: Any) -> Any:
    """Return a number, or a constant of one element, which is kept as the number that it is."""
    if isinstance(value, Constant) and value.tensor.numel() == 1:
        draft.used.update(dict.fromkeys(value.names))
        return float(draft.trust(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        return value if isinstance(value, int) else float(value)
    raise Refused(f"takes {value!r} where a number is needed")


def _per_channel(draft: Draft, part: Part, value: Any, call: Call) -> Any:
    """Return what multiplies, or is added to, a part: a number, or a constant with an element for each channel."""
    if not isinstance(value, Constant) or value.tensor.numel() == 1:
        return _number(draft, value)
    if part.layout is None:
        raise Refused("takes a constant where the order of the map's numbers is its own")
    values, rank = draft.trust(value), len(call.results[0].shape)
    values = values.reshape(*[1] * (rank - values.ndim), *values.shape).movedim(CHANNELS[part.layout], -1)
    values = values.flatten(0, -2)  # (places, channels)
    if not bool((values == values[:1]).all()) or values.shape[1] not in (1, part.shape[0]):
        raise Refused(f"takes a constant of shape {tuple(value.tensor.shape)} that is not one number a channel")
    if values.shape[1] == 1:
        return _number(draft, value.put(values[0]))
    return value.put(values[0])


HANDLERS: Mapping[Any, Callable[[Draft, Call], None]] = {
    **dict.fromkeys(known.SUMS, add),
    **dict.fromkeys(known.DIFFERENCES, subtract),
    **dict.fromkeys(known.REVERSED_DIFFERENCES, subtract_from),
    **dict.fromkeys(known.PRODUCTS, multiply),
    **dict.fromkeys(known.QUOTIENTS, divide),
    **dict.fromkeys(known.JOINS, concatenate),
    **dict.fromkeys(known.PADS, pad),
    **dict.fromkeys(known.REDUCTIONS, reduce),
}
