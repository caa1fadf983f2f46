"""The two modes of a module: how it runs in training and in eval mode, call by call, and what it is left as.

>>> both = record_modes(module, images, atomic)
>>> both.recording.calls[3].twin        # the same call in training mode
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from esnac_lib.architecture.tracing.calls import Call, Constant, Recording, Value, Visit, name_of, replaced
from esnac_lib.architecture.tracing.recording import record

_DROPOUTS = frozenset({
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
})  # fmt: skip
_BY_MODE = _DROPOUTS | {"batch_norm", "instance_norm"}  # whose arguments may differ between the modes

_CHANGING = (torch.jit.ScriptModule, nn.modules.lazy.LazyModuleMixin)  # whose attributes are their own affair


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Put attributes, modes, buffers and what has gradients back, whatever is done to them."""
    parts = list(module.modules())
    attributes = [None if isinstance(part, _CHANGING) else dict(vars(part)) for part in parts]
    modes = [part.training for part in parts]
    buffers = [dict(part._buffers) for part in parts]
    values = [(b, b.detach().clone()) for held in buffers for b in held.values() if b is not None]
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        for part, mode, held, own in zip(parts, modes, buffers, attributes, strict=True):
            if own is not None:
                vars(part).clear()
                vars(part).update(own)
            part.training = mode
            for name, buffer in held.items():
                if part._buffers[name] is not buffer and not isinstance(part, torch.jit.ScriptModule):
                    part._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def checkpoints_seen_through() -> Iterator[None]:
    """Let `torch.utils.checkpoint` run its function plainly where the gradients are the same, also the reentrant one.

    That runs it without gradients, and lets nothing but `backward` compute them; for inputs without gradients it never
    does.
    """
    kind: Any = CheckpointFunction
    original = kind.apply

    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if not torch.is_grad_enabled() or any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            return function(*args)
        return original(function, preserve, *args)

    kind.apply = apply
    try:
        yield
    finally:
        del kind.apply


class BothModes(NamedTuple):
    """The recording in eval mode, whose calls know their twins, and what the module itself does in training alone."""

    recording: Recording
    in_training_alone: str


def record_modes(module: nn.Module, images: Tensor, atomic: Callable[[nn.Module], bool]) -> BothModes:
    """Record a module in eval mode, beside training mode.

    A part that does something else in training counts as one call, if it gives a tensor.
    """
    with left_as_it_was(module):
        trained = record(module.train(), images, atomic)
    odd: set[nn.Module] = set()
    recording = record(module.eval(), images, atomic)
    twins: dict[int, Call] = {}
    difference = _compare(recording.root, trained.root, twins, odd)
    if odd:
        with left_as_it_was(module):
            trained = record(module.train(), images, lambda part: part in odd or atomic(part))
        recording = record(module.eval(), images, lambda part: part in odd or atomic(part))
        twins = {}
        difference = _compare(recording.root, trained.root, twins, set())
    calls = recording.calls
    for position, twin in twins.items():
        object.__setattr__(calls[position], "twin", twin)
    return BothModes(recording, difference)


def _compare(visit: Visit, twin: Visit, twins: dict[int, Call], odd: set[nn.Module]) -> str:
    """Pair the calls of a visit with those in training; add inner modules that do something else to `odd`.

    Returns where the visit itself does something else; empty if it does not.
    """
    rest, difference = list(twin.items), ""
    for item in visit.items:
        place = next((place for place, other in enumerate(rest) if _alike(item, other)), None)
        if place != 0:  # something else, or something before it in training alone
            difference = difference or str(item.place)
        if place is None:
            continue
        other = rest[place]
        del rest[: place + 1]
        if isinstance(item, Call) and isinstance(other, Call):
            twins[item.position] = other
        elif isinstance(item, Visit) and isinstance(other, Visit) and (inner := _compare(item, other, twins, odd)):
            if isinstance(item.output, Value):
                odd.add(item.module)
            else:
                difference = difference or inner
    return difference or (str(visit.place) if rest else "")


def _alike(item: Call | Visit, other: Call | Visit) -> bool:
    """Return whether two visits are of one module, or two calls do the same, tensors apart."""
    if isinstance(item, Visit) or isinstance(other, Visit):
        return isinstance(item, Visit) and isinstance(other, Visit) and item.module is other.module
    if item.target is not other.target and name_of(item.target) != name_of(other.target):
        return False
    return name_of(item.target) in _BY_MODE or _numbers(item) == _numbers(other)


def _numbers(call: Call) -> str:
    return repr(replaced((call.args, call.kwargs), (Value, Constant), lambda leaf: type(leaf)))


class WithoutChance(TorchFunctionMode):
    """Dropouts pass everything on, and every draw of a Bernoulli variable is one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or what stands for it."""
        name = name_of(func)
        if name in _DROPOUTS:
            return args[0].clone()
        if name == "bernoulli":
            return args[0].fill_(1) if getattr(func, "__name__", "").endswith("_") else torch.ones_like(args[0])
        return func(*args, **(kwargs or {}))
