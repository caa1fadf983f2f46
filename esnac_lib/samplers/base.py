"""What every sampler is: `ask` for proposals, `tell` what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


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
class Observation:
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

    def tell(self, trials: Sequence[Observation]) -> None:
        """Learn about finished trials."""
        ...


def accept(config: StudyConfig) -> None:
    """Every config is right for the sampler."""


@dataclass(frozen=True)
class SamplerEntry:
    """A row of the registry of samplers: all that the rest of the library knows of one.

    Attributes:
        name: What `StudyConfig.sampler` calls it.
        label: Its name in tables and figures.
        colour: Of its curves, as matplotlib understands it.
        make: Builds it for a search space; may load PyTorch.
        check: Raises ConfigError where its parameters do not fit together; must not load PyTorch.
    """

    name: str
    label: str
    colour: str
    make: Callable[[SearchSpace, StudyConfig], Sampler]
    check: Callable[[StudyConfig], None] = accept
