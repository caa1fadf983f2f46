"""What a study could do to a teacher, known before anything is trained.

>>> plan = make_plan(Study(config))
>>> plan.parts          # a table: every layer, what may happen to it, and what not and why
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from esnac_lib.seeding import make_rng
from esnac_lib.space.registry import core_and
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.pace import Pace, Stage, forward_seconds
from esnac_lib.study.study import Study
from esnac_lib.study.teacher_check import TeacherCheck
from esnac_lib.training.progress import duration

STUDENTS = 100  # drawn to show the range of sizes
PARTS: dict[str, tuple[Stage, ...]] = {
    "the teacher": ("search-teacher", "reference-teacher"),
    "the search": ("search",),
    "final training": ("final", "full"),
    "the narrowed teacher": ("baseline", "narrowed"),
}


@dataclass(frozen=True, eq=False)
class Plan:
    """What can be done, what cannot and why, how small it can get, and how long it takes."""

    space: SearchSpace
    params: np.ndarray  # of random students
    macs: np.ndarray
    seconds: dict[str, float]  # by part of the study, estimated from the teacher's speed on one batch
    check: TeacherCheck | None  # of a teacher that comes with weights
    normalisation: str  # of the images, in words

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
            "teacher's accuracy": str(self.check or "not known before it is trained here"),
            "normalisation of the images": self.normalisation,
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
        if self.check is None:
            return "The teacher is trained here, and sees no image that its students are evaluated on."
        flattered = (
            "**Warning.** The teacher comes with its weights. If it was trained on the images that validate the "
            "students, it flatters them: they learn its answers to those images. Give training images that it has not "
            "seen, or leave teacher_weights empty, and it is trained here on the training split alone."
        )
        return "\n\n".join([*self.check.warnings, flattered])


def make_plan(study: Study, seed: int = 0) -> Plan:
    """Draw random students of a study's space, time its teacher on one batch, and evaluate one that comes with weights.

    Nothing is trained or written.
    """
    space, config, data = study.space, study.config, study.data
    students = [space.apply(space.sample(make_rng(seed, "plan", index))) for index in range(STUDENTS)]
    params, macs = (np.array([getattr(s, name) for s in students]) for name in ("num_params", "macs"))
    check = None
    if config.teacher_weights:
        check = TeacherCheck.of(study.untrained.architecture, study.untrained.weights, data)
    forward = forward_seconds(space.teacher, config.batch_size, study.device)
    ready = PARTS["the teacher"] if config.teacher_weights else ()
    pace = Pace(config, data, forward, smaller=float(macs.mean()) / max(1, space.teacher.macs), ready=ready)
    seconds = {part: pace.of(*stages) for part, stages in PARTS.items() if pace.of(*stages)}
    return Plan(space, params, macs, seconds, check, _normalisation(study))


def _normalisation(study: Study) -> str:
    mean, std = (", ".join(f"{number:.3f}" for number in numbers) for numbers in study.data.normalisation)
    return f"mean {mean}; std {std} ({'as given' if study.config.normalise else 'of the training images'})"
