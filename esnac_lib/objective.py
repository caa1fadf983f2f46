"""The objective f of the search (ESNAC §6.1, from Ashok et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from esnac_lib.config.registry import Registry


def objective(params: float, teacher_params: float, accuracy: float, teacher_accuracy: float) -> float:
    """f(x) = C (2 − C) · A(x) / A(teacher) with C = 1 − params(x) / params(teacher). The teacher itself has f = 0.

    >>> round(objective(100, 1000, 0.9, 0.9), 4)
    0.99
    """
    return gain(params, teacher_params) * accuracy / teacher_accuracy


def gain(params: float, teacher_params: float) -> float:
    """C (2 − C): f at the teacher's accuracy, known before any training. Negative above the teacher's size."""
    ratio = compression_ratio(params, teacher_params)
    return ratio * (2 - ratio)


def compression_ratio(params: float, teacher_params: float) -> float:
    """C: the share of the teacher's parameters that is gone."""
    return 1 - params / teacher_params


@dataclass(frozen=True)
class Objective:
    """A row of the registry of objectives."""

    name: str


OBJECTIVES: Registry[Objective] = Registry("objective")
OBJECTIVES.register(Objective("params"))
