"""What a study could do to a teacher, known before anything is trained.

>>> plan = make_plan(Study(config))
>>> plan.parts          # a table: every layer, what may happen to it, and what not and why
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from esnac_lib.architecture.network import build
from esnac_lib.seeding import make_rng
from esnac_lib.space.registry import core_and
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.study import Study
from esnac_lib.training.progress import duration
from esnac_lib.training.recipes import Recipe

STUDENTS = 100  # drawn to show the range of sizes
TRAINING_COST = 3.0  # forward and backward of a network, in its forward passes


@dataclass(frozen=True, eq=False)
class Plan:
    """What can be done, what cannot and why, how small it can get, and how long it takes."""

    space: SearchSpace
    params: np.ndarray  # of random students
    macs: np.ndarray
    seconds: dict[str, float]  # by part of the study, estimated from the teacher's speed on one batch
    gives_weights: bool

    @property
    def parts(self) -> pd.DataFrame:
        """One row a layer: its parameters, what may happen to it, and why it is kept as it is."""
        teacher, grouping = self.space.teacher, self.space.grouping
        possible = [operator.may_happen(self.space) for operator in core_and(self.space.operators)]
        rows = []
        for i, layer in enumerate(teacher.layers):
            may = [words[i] for words in possible if i in words]
            stays = grouping.flow.why_fixed(i) if layer.has_filters and i not in grouping.shrinkable else None
            rows.append((layer.name, layer.kind, teacher.layer_params[i], ", ".join(may) or "–", stays or ""))
        return pd.DataFrame(rows, columns=["layer", "kind", "parameters", "may", "its channels stay because"])

    @property
    def summary(self) -> pd.DataFrame:
        """What can be decided, the range of sizes, and the time, in a few rows."""
        teacher, space, grouping = self.space.teacher, self.space, self.space.grouping
        size = f"{teacher.num_params:,} parameters, {teacher.macs:,} MACs an image"
        share = sum(teacher.layer_params[i] for i in grouping.lighter) / max(1, teacher.num_params)
        low, middle, high = np.quantile(self.params, [0.05, 0.5, 0.95]).astype(int)
        smallest = space.smallest.num_params if "shrink" in space.operators else None
        rows = {
            "teacher": f"{len(teacher.layers)} layers, {size}",
            **dict(operator.describe(space)[1:] for operator in core_and(space.operators)),
            "parameters that shrinking can take away": f"{share:.1%}",
            "not understood, and so kept as they are": self._opaque(),
            f"students drawn at random ({len(self.params)})": f"{low:,} to {high:,} parameters, half below {middle:,}",
            "smallest by shrinking alone": f"{smallest:,} parameters" if smallest else "no shrinking",
            "limits": self._limits(),
            **{f"time: {part}": f"about {duration(seconds)}" for part, seconds in self.seconds.items()},
            "time in all": f"about {duration(sum(self.seconds.values()))}, on this machine as busy as it is now",
        }
        return pd.DataFrame({"": rows.values()}, index=pd.Index(rows.keys()))

    def _opaque(self) -> str:
        layers = [layer for layer in self.space.teacher.layers if layer.kind == "opaque"]
        shown = "; ".join(f"{layer.name} ({layer.reason})" for layer in layers[:3])
        return shown + (f"; and {len(layers) - 3} more" if layers[3:] else "") or "nothing"

    def _limits(self) -> str:
        limits = {"parameters": self.space.limits.max_params, "MACs": self.space.limits.max_macs}
        return ", ".join(f"at most {limit:,} {what}" for what, limit in limits.items() if limit) or "none"

    @property
    def warning(self) -> str:
        """What a user must know before believing the numbers."""
        if not self.gives_weights:
            return "The teacher is trained here, and sees no image that its students are evaluated on."
        return (
            "**Warning.** The teacher comes with its weights. If it was trained on the images that validate the "
            "students, it flatters them: they learn its answers to those images. Give training images that it has not "
            "seen, or leave teacher_weights empty, and it is trained here on the training split alone."
        )


def make_plan(study: Study, seed: int = 0) -> Plan:
    """Draw random students of a study's space and time its teacher on one batch; nothing is trained or written."""
    space, config = study.space, study.config
    students = [space.apply(space.sample(make_rng(seed, "plan", index))) for index in range(STUDENTS)]
    params, macs = (np.array([getattr(s, name) for s in students]) for name in ("num_params", "macs"))
    return Plan(space, params, macs, _seconds(study, float(macs.mean())), bool(config.teacher_weights))


def _seconds(study: Study, macs: float) -> dict[str, float]:
    """Return an estimate for each part of a study, from the teacher's forward pass and the students' MACs."""
    config, data = study.config, study.data
    forward = _forward_seconds(study)
    smaller = macs / max(1, study.space.teacher.macs)
    search = len(data.splits.search) * Recipe.search(config).epochs
    evaluated = len(data.splits.validation) * config.epochs
    one_student = forward * (search * TRAINING_COST + evaluated) * smaller
    parts: dict[str, Any] = {}
    if not config.teacher_weights:
        images = len(data.splits.train) + len(data.dataset.train_labels) * (config.final != "none")
        parts["the teacher"] = forward * TRAINING_COST * images * config.teacher_epochs
    parts["the search"] = config.num_evaluations * one_student + config.steps * search * forward
    if config.final != "none":
        final = forward * TRAINING_COST * smaller * config.final_epochs
        parts["final training"] = final * (len(data.splits.train) * config.top + len(data.dataset.train_labels))
    return parts


def _forward_seconds(study: Study) -> float:
    """Seconds that the teacher takes to put one image through, in a batch of the study's size."""
    architecture, size = study.space.teacher, study.config.batch_size
    network = build(architecture).to(study.device).eval()
    batch = torch.zeros(size, *architecture.input_shape, device=study.device)
    times = []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            float(network(batch).sum())  # waits for the device
            times.append(time.perf_counter() - began)
    return min(times) / size
