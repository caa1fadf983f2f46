"""What every sampler is: `ask` for proposals, `tell` what became of them; and how one is entered in the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.comparison import Linestyle, Variant
from esnac_lib.config.registry import registry
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate next.

    Attributes:
        decisions: What was decided about the teacher.
        architecture: What the decisions make of it.
        kernel: Which of the K kernels proposed it; None for none.
        mean: The predicted f.
        variance: Its predictive variance, including observation noise.
        ei: Its expected improvement.
    """

    decisions: Decisions
    architecture: Architecture
    kernel: int | None = None
    mean: float | None = None
    variance: float | None = None
    ei: float | None = None


@dataclass(frozen=True)
class Observation:
    """A finished trial.

    Attributes:
        f: The objective; None where a fault of the machine left the trial without a value. It is not to be proposed
            again, but nothing is learned from it.
    """

    decisions: Decisions
    architecture: Architecture
    f: float | None


class Sampler(Protocol):
    """Proposes students. Its draws depend only on its seed and on its observations, in their order."""

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n new members of the space, all different; fewer when the space is exhausted."""
        ...

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""
        ...


# -- the registry's rows -----------------------------------------------------------------------------------------------


def accept(config: StudyConfig) -> None:
    """Accept every config."""


@dataclass(frozen=True)
class SamplerEntry:
    """A row of the registry of samplers: all that the rest of the library knows of one.

    Attributes:
        name: What `StudyConfig.sampler` calls it.
        label: Its name in tables and figures.
        colour: Of its curves, as matplotlib understands it.
        make: Builds it for a search space; may load PyTorch.
        check: Raises ConfigError where its parameters do not fit together; must not load PyTorch.
        uses: Those of `first`, `surrogate` and `source` that mean something to it; the others must be left alone.
        linestyle: Of its curves.
        marker: Of its best students.
        variants: How it takes part in comparisons; None for once, as it is.
        searches: Whether it is a search; false for a fixed series of students.
        budget_defines_result: Whether its proposals depend on how many evaluations are planned, so that a finished
            study cannot be continued with more steps.
    """

    name: str
    label: str
    colour: str
    make: Callable[[SearchSpace, StudyConfig], Sampler]
    check: Callable[[StudyConfig], None] = accept
    uses: frozenset[str] = frozenset()
    linestyle: Linestyle = "-"
    marker: str = "o"
    variants: tuple[Variant, ...] | None = None
    searches: bool = True
    budget_defines_result: bool = False

    @property
    def compared(self) -> tuple[Variant, ...]:
        """Its variants, with what they take from it filled in."""
        variants = (Variant(self.name, self.label),) if self.variants is None else self.variants
        own: dict[str, Any] = {"sampler": self.name, "marker": self.marker, "searches": self.searches}
        return tuple(
            replace(v, colour=v.colour or self.colour, linestyle=v.linestyle or self.linestyle, **own) for v in variants
        )

    def validate(self, config: StudyConfig) -> None:
        """Check the parameters that concern samplers.

        Raises:
            ConfigError: One is given that this sampler does not use, one that it needs is missing, or `check` says no.
        """
        given = f"with sampler = {self.name!r}"
        if config.first != "random" and not ("first" in self.uses and "shrink" in config.operator_names):
            allowed = f"it is for sampler = {_users('first')} with shrink, else 'random'"
            raise ConfigError(f"first = {config.first!r} {given} and operators = {config.operators!r}: {allowed}")
        if config.surrogate != "f" and "surrogate" not in self.uses:
            raise ConfigError(
                f"surrogate = {config.surrogate!r} {given}: it is for sampler = {_users('surrogate')}, else 'f'"
            )
        self.check(config)
        if bool(config.source) != ("source" in self.uses):
            allowed = f"the study whose kernels propose is allowed with sampler = {_users('source')}"
            raise ConfigError(f"source = {config.source!r} {given}: {allowed}, and nothing otherwise")


def _users(parameter: str) -> str:
    """Return the names of the samplers that use a parameter: "'a' or 'b'"."""
    return " or ".join(sorted(repr(entry.name) for entry in registry("sampler").values() if parameter in entry.uses))
