"""Norms that were written by hand, known by what they compute.

A program from maps to maps of the same shape is tried on numbers of several sizes, in float64: far below ε the output
shows ε, and with it all outputs must be those of the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esnac_lib.architecture.layer_types import Shape
from esnac_lib.architecture.tracing.readers import Step

TINY = 1e-20  # of the size of inputs that are far below every ε
SIZES = (1.0, 1e-3, 30.0)


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)


def _layer(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)


# Each kind with what it computes, what it divides by the root of a variance + ε, and its attributes besides ε.
_NORMS: Mapping[str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "layer_norm": (_layer, lambda x: x - x.mean(1, keepdim=True), {"weight": False, "bias": False}),
    "rms_norm": (_rms, lambda x: x, {"weight": False}),
    "group_norm": (
        lambda x, eps: F.group_norm(x, 1, eps=eps),
        lambda x: x - x.mean((1, 2, 3), keepdim=True),
        {"groups": 1, "affine": False},
    ),
    "instance_norm": (
        lambda x, eps: F.instance_norm(x, eps=eps),
        lambda x: x - x.mean((2, 3), keepdim=True),
        {"affine": False},
    ),
}


def norm_like(program: nn.Module, shape: Shape) -> Step | None:
    """Return the norm without learned numbers that a program on inputs (B, *shape) computes; None if it is none."""
    program = deepcopy(program).double()
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found, tiny = [program(x * size) for size in SIZES], program(x * TINY)
    if tiny.shape != x.shape or not tiny.isfinite().all() or not tiny.any():
        return None
    for kind in ("layer_norm", "rms_norm") if len(shape) == 1 or shape[1:] == (1, 1) else _NORMS:
        norm, numerator, attrs = _NORMS[kind]
        eps = float(f"{float((numerator(x * TINY) / tiny).square().median()):.6g}")
        if 0 < eps < 1 and all(torch.allclose(y, norm(x * s, eps), 1e-6) for y, s in zip(found, SIZES, strict=True)):
            return Step(kind, {"eps": eps, **attrs})
    return None
