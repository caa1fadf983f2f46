"""What a search decides about a teacher, and what a user allows it to decide."""

from __future__ import annotations

import json
from dataclasses import dataclass

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import SpaceError


@dataclass(frozen=True)
class Decisions:
    """What was decided about a teacher.

    removed: indices of the teacher's layers that are taken out. ratios: for each channel group the share of filters
    that go, in [0, 1). skips: pairs (i, j) of the teacher's layers (i = -1: the input) joined by an added edge.
    """

    removed: frozenset[int]
    ratios: tuple[float, ...]
    skips: frozenset[tuple[int, int]]

    def to_json(self) -> str:
        """One line of JSON, the same for equal decisions."""
        return json.dumps(
            {"removed": sorted(self.removed), "ratios": list(self.ratios), "skips": sorted(map(list, self.skips))}
        )

    @classmethod
    def from_json(cls, text: str) -> Decisions:
        """The inverse of `to_json`. Raises SpaceError if the text is something else."""
        try:
            data = json.loads(text)
            skips = frozenset((int(i), int(j)) for i, j in data["skips"])
            return cls(frozenset(map(int, data["removed"])), tuple(map(float, data["ratios"])), skips)
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"not decisions in JSON: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Limits:
    """How large a student may be: parameters, and multiply-accumulates an image. None: as large as its teacher."""

    max_params: int | None = None
    max_macs: int | None = None

    def allow(self, architecture: Architecture) -> bool:
        """Whether an architecture is small enough."""
        fits = self.max_params is None or architecture.num_params <= self.max_params
        return fits and (self.max_macs is None or architecture.macs <= self.max_macs)
