"""Code that is not understood, as a layer: it runs as it is, and the channels that it touches stay as they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib.architecture.layer_types import Shape
from esnac_lib.architecture.tracing.calls import Call, Constant, Value, leaves, replaced
from esnac_lib.architecture.tracing.movement import present, restore
from esnac_lib.errors import one_line


class Hole(NamedTuple):
    """A place among the arguments of a call: of an input by its number, or of a tensor that the code holds by name."""

    number: int
    name: str = ""


Presentation = tuple[str, tuple[int, ...]]  # how a call presents its result: layout (`movement`), height and width


class OpaqueCode(nn.Module):
    """One call as a module: a function or module, its fixed arguments, and holes where its inputs stand.

    Constants among the arguments are held as "constant0" and so on: parameters where they are one of the user's,
    buffers where they were computed. layouts: how each input is presented to the call; pick: which of several results
    is meant.
    """

    def __init__(
        self, target: Any, args: Any, kwargs: Any, layouts: Sequence[str], output: Presentation, pick: int | None
    ) -> None:
        super().__init__()
        self.target, self.layouts, self.output, self.pick = target, tuple(layouts), output, pick
        for place, constant in enumerate(leaves((args, kwargs), Constant)):
            tensor = constant.tensor.detach().clone()
            if isinstance(constant.tensor, nn.Parameter):
                self.register_parameter(f"constant{place}", nn.Parameter(tensor, constant.tensor.requires_grad))
            else:
                self.register_buffer(f"constant{place}", tensor)
        inputs, held = itertools.count(), itertools.count()
        self.args, self.kwargs = replaced(
            (args, kwargs),
            (Value, Constant),
            lambda leaf: Hole(next(inputs)) if isinstance(leaf, Value) else Hole(-1, f"constant{next(held)}"),
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map (B, C, H, W) or features (B, F) to one of these."""
        shown = [present(x, layout) for x, layout in zip(inputs, self.layouts, strict=True)]
        args, kwargs = replaced(
            (self.args, self.kwargs), Hole, lambda hole: getattr(self, hole.name) if hole.name else shown[hole.number]
        )
        result = self.target(*args, **kwargs)
        if self.pick is not None:
            result = list(leaves(result, Tensor))[self.pick]
        return restore(result, *self.output)


def code_of(call: Call, layouts: Sequence[str], output: Presentation, pick: int | None) -> nn.Module:
    """Return the module that runs a call, with a copy of the user's module if that is called."""
    target, natural = call.target, {*layouts, output[0]} <= {"chw", "f"}
    if isinstance(target, nn.Module):
        target = deepcopy(target)
        if natural and not call.kwargs and all(isinstance(item, Value) for item in call.args):
            return target
    return OpaqueCode(target, call.args, call.kwargs, layouts, output, pick)


def trial(code: nn.Module, inputs: Sequence[Value], shapes: Sequence[Shape]) -> tuple[Shape, int]:
    """Run opaque code on noise; return its output shape for one image, and its multiply-accumulates.

    Raises ValueError if it fails, or if its output for an image depends on the others of the batch, or on chance.
    """
    random = torch.Generator().manual_seed(0)
    batch = [
        torch.randn(2, *shape, generator=random, dtype=torch.float32).to(value.device, value.dtype)
        for value, shape in zip(inputs, shapes, strict=True)
    ]
    try:
        both = code(*[x.clone() for x in batch])
        single = [code(*[x[i : i + 1].clone() for x in batch]) for i in range(2)]
    except Exception as error:
        raise ValueError(f"it fails by itself: {one_line(error, kind=False)}") from None
    scale = float(both.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) if both.numel() else 0.0
    alike = both.shape[1:] == single[0].shape[1:] and len(single[0]) == 1
    if not alike or not torch.allclose(both, torch.cat(single), 0.0, 1e-3 * scale, equal_nan=True):
        raise ValueError("what it gives for an image depends on the other images of the batch, or on chance")
    return tuple(both.shape[1:]), _macs(code, [x[:1] for x in batch])


def _macs(code: nn.Module, image: Sequence[Tensor]) -> int:
    """Return the multiply-accumulates of one image; 0 if PyTorch cannot count them."""
    try:
        with FlopCounterMode(display=False) as counter:
            code(*image)
    except Exception:
        return 0
    return int(counter.get_total_flops()) // 2
