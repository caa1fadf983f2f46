"""What a search decides about a teacher, and what a user allows it to decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import SpaceError

_FIELDS = {"remove": "removed", "shrink": "ratios", "skip": "skips"}  # the parts of the paper's operators


@dataclass(frozen=True)
class Decisions:
    """What was decided about a teacher, a part for each operator."""

    removed: frozenset[int]  # indices of the teacher's layers that are removed
    ratios: tuple[float, ...]  # for each channel group the share of filters that go, in [0, 1)
    skips: frozenset[tuple[int, int]]  # pairs (i, j) of layers (i = -1: the input) joined by an added edge
    extra: Any = ()
    """The parts of further operators by name, given as a mapping, kept as sorted pairs: numbers, texts and tuples of
    these (a set becomes a sorted tuple). Parts that decide nothing are left out."""

    def __post_init__(self) -> None:
        if self.extra:
            parts = ((name, _frozen(part)) for name, part in sorted(dict(self.extra).items()))
            object.__setattr__(self, "extra", tuple((name, part) for name, part in parts if part not in ((), None)))

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> Decisions:
        """Return the decisions with these parts, by the names of their operators; the paper's three are needed."""
        extra = {name: part for name, part in parts.items() if name not in _FIELDS} if len(parts) > 3 else ()
        return cls(parts["remove"], parts["shrink"], parts["skip"], extra)

    def part(self, operator: str) -> Any:
        """Return an operator's part; of a further operator that decides nothing, the empty tuple."""
        return getattr(self, _FIELDS[operator]) if operator in _FIELDS else dict(self.extra).get(operator, ())

    def to_json(self) -> str:
        """Return one line of JSON, the same for equal decisions."""
        data = {"removed": sorted(self.removed), "ratios": list(self.ratios), "skips": sorted(map(list, self.skips))}
        return json.dumps(data | ({"extra": dict(self.extra)} if self.extra else {}))

    @classmethod
    def from_json(cls, text: str) -> Decisions:
        """Return the inverse of `to_json`. Raises SpaceError if the text is something else."""
        try:
            data = json.loads(text)
            skips = frozenset((int(i), int(j)) for i, j in data["skips"])
            ratios = tuple(map(float, data["ratios"]))
            return cls(frozenset(map(int, data["removed"])), ratios, skips, data.get("extra", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"not decisions in JSON: {type(error).__name__}: {error}") from None


def _frozen(part: Any) -> Any:
    """Return a part in the one form that is stored."""
    if isinstance(part, set | frozenset):
        return tuple(sorted(map(_frozen, part)))
    return tuple(map(_frozen, part)) if isinstance(part, list | tuple) else part


@dataclass(frozen=True)
class Limits:
    """How large a student may be: parameters, and multiply-accumulates of one image. None: as large as its teacher."""

    max_params: int | None = None
    max_macs: int | None = None

    def allow(self, architecture: Architecture) -> bool:
        """Return whether an architecture is small enough."""
        fits = self.max_params is None or architecture.num_params <= self.max_params
        return fits and (self.max_macs is None or architecture.macs <= self.max_macs)
