"""What every operator is: all that the rest of the library asks of one.

An operator makes *choices* about a teacher. What was chosen is its *part* of `Decisions`: a set of choices, a tuple of
ratios, or anything else that is hashable and can be written as JSON. To add one, derive it from `SubsetOperator` (each
choice is taken or not) or from `Operator`, and register it:

    from esnac_lib.space.registry import OPERATORS

    OPERATORS.register(MyOperator())                    # from now on StudyConfig(operators="shrink,mine") is valid
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import ArchitectureError
from esnac_lib.space.decisions import Decisions

if TYPE_CHECKING:
    from esnac_lib.space.search_space import SearchSpace


@dataclass(frozen=True)
class Choice:
    """A hyperparameter with one of a few values."""

    options: tuple[Any, ...] = (False, True)


@dataclass(frozen=True)
class Interval:
    """A hyperparameter in [low, high]."""

    low: float
    high: float


@dataclass
class CandidateChanges:
    """What is changed of a teacher to make a candidate without building its architecture."""

    ratios: tuple[float, ...]  # of each channel group
    removed: frozenset[int] = frozenset()
    added: dict[int, list[int]] = field(default_factory=dict)  # layer -> those whose output is added to its input


class Operator(ABC):
    """A kind of change to a teacher. Layers are named by their index in the teacher."""

    name: str  # what `StudyConfig.operators` calls it
    column: str  # in tables of decisions
    label: str  # its axis in figures of decisions: what `amount` says
    whole: bool = True  # whether `amount` is a count
    order: int = 10  # when it is applied and crossed, the smallest first
    core: ClassVar[bool] = False
    """Whether it is one of the paper's. Their parts of `Decisions` are always there, and their draws are made in every
    space, so that spaces of fewer operators draw the same of what they share."""
    rates: ClassVar[Mapping[str, Sequence[float]]] = {}
    """By the space's `sampling`, shares of the choices to take, one of which is drawn a network; none for an operator
    whose choices are not taken or left. Operators with rates are sampled first."""

    @abstractmethod
    def choices(self, space: SearchSpace) -> Sequence[Any]:
        """Return what it can choose about in a space."""

    def part(self, decisions: Decisions) -> Any:
        """Return its part of some decisions."""
        return decisions.part(self.name)

    @abstractmethod
    def nothing(self, space: SearchSpace) -> Any:
        """Return the part that changes nothing."""

    def check(self, space: SearchSpace, part: Any) -> None:  # noqa: B027 - most parts are valid in any space
        """Raise SpaceError for a part that no space of this teacher has; called also where the operator is not used."""

    @abstractmethod
    def normalise(self, space: SearchSpace, part: Any, before: Mapping[str, Any]) -> Any:
        """Return the one form of all parts that give the same student, or raise SpaceError for one of another space.

        `before` has the parts, in that form, of the operators before it in the registry.
        """

    @abstractmethod
    def apply(self, space: SearchSpace, architecture: Architecture, part: Any) -> Architecture:
        """Change an architecture that the operators of a lower `order` have changed; `places` finds layers in it."""

    @abstractmethod
    def read(self, space: SearchSpace, student: Architecture, here: Mapping[int, int]) -> Any:
        """Return the part that gives a student, None if none does; `here`: its layer for each of the teacher's left."""

    def change_candidate(self, part: Any, changes: CandidateChanges) -> bool:
        """Add a part to the changes of a candidate; False where they cannot say it: then the architecture is built."""
        return False

    @abstractmethod
    def sample(self, space: SearchSpace, rate: float, rng: np.random.Generator) -> Any:
        """Draw a part as `space.sampling` says, at a rate drawn from `rates` (0 where there are none)."""

    @abstractmethod
    def mutate(self, space: SearchSpace, part: Any, rng: np.random.Generator) -> Any:
        """Change one choice; called only where there are choices."""

    @abstractmethod
    def cross(self, a: Any, b: Any, rng: np.random.Generator) -> Any:
        """Take each choice from one of two parts, with equal probability."""

    @abstractmethod
    def hyperparameters(self, space: SearchSpace) -> Mapping[str, Choice | Interval]:
        """Return the hyperparameters, by names that no other operator uses."""

    @abstractmethod
    def from_hyperparameters(self, space: SearchSpace, values: Mapping[str, Any]) -> Any:
        """Return the part that some values stand for; a hyperparameter without a value changes nothing."""

    @abstractmethod
    def to_hyperparameters(self, space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
        """Return values for its part of normalised decisions, such that `from_hyperparameters` gives it back."""

    @abstractmethod
    def amount(self, part: Any) -> float:
        """Return how much a part changes, for figures and tables."""

    def describe(self, space: SearchSpace) -> tuple[str, str, str]:
        """Return how much there is to choose, in a few words, and as name and value of a row of a plan's summary."""
        count = len(self.choices(space))
        return f"{count} choices of {self.name}", f"choices of {self.name}", f"{count}"

    def may_happen(self, space: SearchSpace) -> dict[int, str]:
        """Return by layer what it can do to the layer, to go on from "may"."""
        return {}


class SubsetOperator(Operator):
    """An operator that takes some of its choices (numbers, texts or tuples that sort); its part: the set of those."""

    def part(self, decisions: Decisions) -> frozenset[Any]:
        """Return the choices taken."""
        return frozenset(decisions.part(self.name))

    def nothing(self, space: SearchSpace) -> frozenset[Any]:
        """Return the empty set."""
        return frozenset()

    def normalise(self, space: SearchSpace, part: frozenset[Any], before: Mapping[str, Any]) -> frozenset[Any]:
        """Drop what is no choice of the space."""
        return part.intersection(self.choices(space))

    def sample(self, space: SearchSpace, rate: float, rng: np.random.Generator) -> frozenset[Any]:
        """Take each choice with probability `rate`."""
        choices = self.choices(space)
        return frozenset([choices[i] for i in np.flatnonzero(rng.random(len(choices)) < rate).tolist()])

    def mutate(self, space: SearchSpace, part: frozenset[Any], rng: np.random.Generator) -> frozenset[Any]:
        """Take a choice, or if it is taken give it back."""
        choices = self.choices(space)
        return part ^ {choices[int(rng.integers(len(choices)))]}

    def cross(self, a: frozenset[Any], b: frozenset[Any], rng: np.random.Generator) -> frozenset[Any]:
        """Take what both have, and what one of them has with probability 1/2."""
        return (a & b) | {item for item in sorted(a ^ b) if rng.random() < 0.5}

    def tuned(self, space: SearchSpace) -> Sequence[Any]:
        """Return the choices that have a hyperparameter."""
        return self.choices(space)

    def hyperparameters(self, space: SearchSpace) -> Mapping[str, Choice | Interval]:
        """Return yes or no for each choice."""
        return {self.parameter(choice): Choice() for choice in self.tuned(space)}

    def from_hyperparameters(self, space: SearchSpace, values: Mapping[str, Any]) -> frozenset[Any]:
        """Return the choices with a yes."""
        return frozenset([choice for choice in self.tuned(space) if values.get(self.parameter(choice))])

    def to_hyperparameters(self, space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
        """Return yes for the choices taken."""
        taken = self.part(decisions)
        return {self.parameter(choice): choice in taken for choice in self.tuned(space)}

    def parameter(self, choice: Any) -> str:
        """Return the name of a choice's hyperparameter."""
        return " ".join(map(str, [self.name, *(choice if isinstance(choice, tuple) else [choice])]))

    def amount(self, part: frozenset[Any]) -> float:
        """Return how many choices are taken."""
        return len(part)


def places(teacher: Architecture, architecture: Architecture) -> dict[int, int]:
    """Return where each layer of the teacher stands in an architecture that has some of them, found by name."""
    here = {layer.name: place for place, layer in enumerate(architecture.layers)}
    return {i: here[layer.name] for i, layer in enumerate(teacher.layers) if layer.name in here}


def check_exist(architecture: Architecture, indices: Iterable[int]) -> None:
    """Raise ArchitectureError for an index that is no layer's."""
    last = len(architecture.layers) - 1
    if wrong := [i for i in indices if not 0 <= i <= last]:
        raise ArchitectureError(f"there is no layer {min(wrong)}: layers are numbered from 0 to {last}")
