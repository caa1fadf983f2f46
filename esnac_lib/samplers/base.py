"""What every sampler is: `ask` for proposals, `tell` what became of them; and how one is entered in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.comparison import Linestyle, Variant
from esnac_lib.config.registry import registry
from esnac_lib.config.study import StudyConfig
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace


@dataclass(frozen=True)
class Proposal:
    """An architecture to evaluate next."""

    decisions: Decisions
    architecture: Architecture  # what the decisions make of the teacher
    kernel: int | None = None  # which of the K kernels proposed it
    mean: float | None = None  # the predicted f, its variance (including observation noise) and expected improvement
    variance: float | None = None
    ei: float | None = None


@dataclass(frozen=True)
class Observation:
    """A finished trial; one that a fault of the machine left without an f is not proposed again, nor learned from."""

    decisions: Decisions
    architecture: Architecture
    f: float | None


class Sampler(Protocol):
    """Proposes students. Its draws depend only on its seed and on its observations, in their order."""

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n new members of the space, all different; fewer when the space is exhausted."""

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""


@dataclass(eq=False)
class SeededSampler:
    """What the samplers of this package have in common; `ask` is their own."""

    space: SearchSpace
    seed: int
    observations: list[Observation] = field(default_factory=list, init=False, repr=False)

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""
        self.observations.extend(trials)


@dataclass(frozen=True)
class SamplerEntry:
    """A row of the registry of samplers: all that the rest of the library knows of one."""

    name: str  # what `StudyConfig.sampler` calls it
    label: str  # in tables and figures
    colour: str  # of its curves, as matplotlib understands it
    make: Callable[[SearchSpace, StudyConfig], Sampler]  # may load PyTorch
    check: Callable[[StudyConfig], Iterable[str]] = lambda config: ()  # what is wrong; must not load PyTorch
    uses: frozenset[str] = frozenset()  # of `first`, `surrogate` and `source`; the others must be left alone
    linestyle: Linestyle = "-"
    marker: str = "o"  # of its best students
    variants: tuple[Variant, ...] | None = None  # how it takes part in comparisons; None for once, as it is
    searches: bool = True  # false for a fixed series of students
    budget_defines_result: bool = False
    """Whether proposals depend on the number of evaluations planned: a finished study then takes no more steps."""

    @property
    def compared(self) -> tuple[Variant, ...]:
        """Its variants, with what they take from it filled in."""
        variants = (Variant(self.name, self.label),) if self.variants is None else self.variants
        own: dict[str, Any] = {"sampler": self.name, "marker": self.marker, "searches": self.searches}
        return tuple(
            replace(v, colour=v.colour or self.colour, linestyle=v.linestyle or self.linestyle, **own) for v in variants
        )

    def conflicts(self, config: StudyConfig) -> Iterator[str]:
        """Yield a line for each parameter that this sampler does not use, or lacks, and what `check` finds."""
        given = f"with sampler = {self.name!r}"
        if config.first != "random" and not ("first" in self.uses and "shrink" in config.operator_names):
            allowed = f"it is for sampler = {_users('first')} with shrink, else 'random'"
            yield f"first = {config.first!r} {given} and operators = {config.operators!r}: {allowed}"
        if config.surrogate != "f" and "surrogate" not in self.uses:
            allowed = f"it is for sampler = {_users('surrogate')}, else 'f'"
            yield f"surrogate = {config.surrogate!r} {given}: {allowed}"
        yield from self.check(config)
        if bool(config.source) != ("source" in self.uses):
            allowed = f"the study whose kernels propose is allowed with sampler = {_users('source')}"
            yield f"source = {config.source!r} {given}: {allowed}, and nothing otherwise"


def _users(parameter: str) -> str:
    """Return the names of the samplers that use a parameter: "'a' or 'b'"."""
    return " or ".join(sorted(repr(entry.name) for entry in registry("sampler").values() if parameter in entry.uses))
