"""What every sampler is: `ask` for proposals, `tell` what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from esnac_lib.architecture.graph import Architecture
from esnac_lib.space.decisions import Decisions


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate next.

    kernel: which of the K kernels proposed it, None for none. mean, variance: the prediction of f made at the time.
    ei: its expected improvement.
    """

    decisions: Decisions
    architecture: Architecture
    kernel: int | None = None
    mean: float | None = None
    variance: float | None = None
    ei: float | None = None


@dataclass(frozen=True)
class Told:
    """A finished trial. f is None where a fault of the machine left it without a value: then it is only known to have
    been proposed."""

    decisions: Decisions
    architecture: Architecture
    f: float | None


class Sampler(Protocol):
    """Proposes students. Its draws depend only on its seed and on what it was told, in order."""

    def ask(self, n: int) -> list[Proposal]:
        """Up to n valid members of the space, none told before and no two alike; fewer when the space is exhausted."""
        ...

    def tell(self, trials: Sequence[Told]) -> None:
        """Learn about finished trials."""
        ...
