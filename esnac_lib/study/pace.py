"""How long what is left of a study takes: the teacher, the search, and what is trained at the end.

Speeds are those of the epochs so far. A phase without one is as fast, per image, as the phase before it; before any
epoch, as fast as the teacher's forward pass says.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Literal, get_args

import torch

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import build
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.splits import StudyData

Stage = Literal["search-teacher", "search", "reference-teacher", "final", "full", "baseline", "narrowed"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The stages of a study in their order: phases of the ledger, and the narrowed teacher's final training."""
TRAINING_COST = 3.0  # forward and backward of a network, in its forward passes


class Pace:
    """The time that each stage still takes; told of every stage, step, batch and epoch.

    forward: seconds that the teacher takes to put an image through. measured: mean seconds of an epoch, by phase.
    smaller: MACs of a student, as a share of the teacher's. ready: stages that take no time, what they train is there.
    """

    def __init__(
        self,
        config: StudyConfig,
        data: StudyData,
        forward: float,
        measured: Mapping[str, float] | None = None,
        smaller: float = 1.0,
        ready: Collection[Stage] = (),
    ) -> None:
        self.config, self._forward, self._smaller = config, forward, smaller
        self._images = {"search": len(data.splits.search), "validation": len(data.splits.validation)}
        self._images |= {"training": len(data.splits.train), "all": len(data.dataset.train_labels)}
        self._epochs = {phase: (seconds, 1) for phase, seconds in (measured or {}).items()}
        self._stage, self._fraction, self._said = STAGES[0], 0.0, math.inf
        self._observed, self._pending, self._trial_seconds = 0, 0, math.nan
        self._ready = set(ready)

    def enter(self, stage: Stage) -> None:
        """Begin a stage: all before it is done."""
        self._stage, self._fraction = stage, 0.0

    def step(self, observed: int, pending: int, trial_seconds: float) -> None:
        """Begin a step of the search; `trial_seconds`: that a trial took so far, all included (NaN: none has)."""
        self._observed, self._pending, self._trial_seconds, self._fraction = observed, pending, trial_seconds, 0.0

    def batch(self, done: int, total: int) -> None:
        """Take note of the batches done in the training that runs."""
        self._fraction = max(self._fraction, done / total)

    def epoch(self, phase: str, seconds: float) -> None:
        """Take note of the time of an epoch of one network."""
        mean, count = self._epochs.get(phase, (0.0, 0))
        self._epochs[phase] = (mean + (seconds - mean) / (count + 1), count + 1)

    @property
    def is_measured(self) -> bool:
        """Whether any epoch was timed."""
        return bool(self._epochs)

    def parts(self) -> dict[Stage, float]:
        """Return the seconds that each stage still takes."""
        parts: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        for stage, seconds in self._whole().items():
            if stage not in self._ready and STAGES.index(stage) >= STAGES.index(self._stage):
                begun = self._fraction if stage == self._stage != "search" else 0.0
                parts[stage] = seconds * (1 - begun)
        return parts

    def ending(self) -> float:
        """Return the seconds of what follows the search."""
        return self.of(*STAGES[2:])

    def of(self, *stages: Stage) -> float:
        """Return the seconds that some stages still take."""
        parts = self.parts()
        return sum(parts[stage] for stage in stages)

    def left(self, limit: float = math.inf) -> float | None:
        """Return the seconds that are left in all, never more than it said before; None before any measured epoch.

        limit: seconds after which the study has to end.
        """
        if not self.is_measured:
            return None
        self._said = max(1.0, min(self._said, limit, sum(self.parts().values())))
        return self._said

    def _whole(self) -> dict[Stage, float]:
        """Return the seconds of each stage as a whole; of the search, what is left of it."""
        config, images = self.config, self._images
        teacher = self._seconds("search-teacher", self._forward * TRAINING_COST * images["training"])
        forward = teacher / TRAINING_COST / images["training"]
        student = images["search"] * (TRAINING_COST * self._smaller + 1 / config.K)
        student = self._seconds("search", forward * (student + images["validation"] * self._smaller))
        final = self._seconds("final", student * images["training"] / images["search"])
        full = self._seconds("full", final * images["all"] / images["training"])
        reference = self._seconds("reference-teacher", teacher * images["all"] / images["training"])
        seconds = self._trial_seconds if self._trial_seconds == self._trial_seconds else config.epochs * student
        begun = self._fraction * self._pending if self._stage == "search" else 0.0
        left = max(0.0, config.num_evaluations - self._observed - begun)
        parts: dict[Stage, float] = {"search-teacher": config.teacher_epochs * teacher, "search": seconds * left}
        if config.final != "none":
            chosen = config.top if config.final == "validated" and (config.top > 1 or config.min_accuracy) else 0
            last = config.final_epochs * full
            parts |= {"reference-teacher": config.teacher_epochs * reference}
            parts |= {"final": chosen * config.final_epochs * final}
            parts |= {"full": last * (config.top if config.final == "paper" else 1)}
            if config.baseline:
                parts |= {"baseline": config.epochs * student, "narrowed": last}
        return parts

    def _seconds(self, phase: str, otherwise: float) -> float:
        return self._epochs[phase][0] if phase in self._epochs else otherwise


def forward_seconds(teacher: Architecture, batch_size: int, device: str) -> float:
    """Return the seconds that a network takes to put one image through, in batches of this size."""
    network = build(teacher).to(device).eval()
    batch = torch.zeros(batch_size, *teacher.input_shape, device=device)
    times = []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            float(network(batch).sum())  # waits for the device
            times.append(time.perf_counter() - began)
    return min(times) / batch_size
