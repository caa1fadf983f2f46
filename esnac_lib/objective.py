"""Objectives: f, which a search maximises, from what was measured of a student and of its teacher.

    OBJECTIVES.register(Objective("memory", "weights and activations", lambda network: ...))

From then on `StudyConfig(objective="memory")` is a valid study. An objective with another formula is a subclass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from esnac_lib.config.registry import Registry


class Sized(Protocol):
    """What an objective can count before any training: an architecture, a candidate, or a `Measurement`."""

    @property
    def num_params(self) -> float:
        """Trainable parameters."""

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one image."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network."""

    accuracy: float  # a fraction, on whatever images it is compared on
    params: float  # trainable parameters
    macs: float = math.nan  # of one image; NaN where nobody counted them (printed results)
    latency: float | None = None  # seconds a batch takes, where it was measured
    images: int | None = None  # training images that it was shown, where they were counted

    @property
    def num_params(self) -> float:
        """Trainable parameters, under the name that architectures have for them."""
        return self.params


@dataclass(frozen=True)
class Objective:
    """f = C (2 - C) · A / A_teacher, where C is the share of the teacher's size that is gone (ESNAC §6.1).

    A subclass may define another `gain`. f is always the gain times the relative accuracy: the gain is exact before
    any training, so that a surrogate may learn the accuracy alone.
    """

    name: str  # what a config calls it
    label: str  # what `size` counts, as axes and sentences call it ("parameters")
    size: Callable[[Sized], float]  # of a network that is to become small

    def gain(self, student_size: float, teacher_size: float) -> float:
        """Return f at the teacher's accuracy, C (2 - C): 0 at the teacher's size, and negative above it."""
        ratio = compression_ratio(student_size, teacher_size)
        return ratio * (2 - ratio)

    def value(self, student: Measurement, teacher: Measurement) -> float:
        """Return f.

        >>> round(OBJECTIVES["params"].value(Measurement(0.9, 100), Measurement(0.9, 1000)), 4)
        0.99
        """
        return self.gain(self.size(student), self.size(teacher)) * student.accuracy / teacher.accuracy


def compression_ratio(size: float, teacher_size: float) -> float:
    """Return C, the share of the teacher's size that is gone."""
    return 1 - size / teacher_size


OBJECTIVES: Registry[Objective] = Registry("objective")
PAPERS = OBJECTIVES.register(Objective("params", "parameters", attrgetter("num_params")))
"""The objective of both papers, after Ashok et al. (2018)."""
OBJECTIVES.register(Objective("macs", "MACs", attrgetter("macs")))
