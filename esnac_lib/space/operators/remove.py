"""Remove layers (ESNAC §3.2): whoever read a removed layer reads its input instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot, sum_slots
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.errors import ArchitectureError
from esnac_lib.space.operators.base import CandidateChanges, SubsetOperator, check_exist, places

if TYPE_CHECKING:
    from esnac_lib.space.search_space import SearchSpace


class Remove(SubsetOperator):
    """Takes layers out whose input shape equals their output shape. Its part: the layers that go."""

    name, column, label = "remove", "removed", "layers removed"
    order = 1
    core: ClassVar[bool] = True
    # the paper's are those of the authors' code
    rates: ClassVar = {"paper": (0.3, 0.4, 0.5, 0.6, 0.7), "mild": (0.0, 0.02, 0.05, 0.1, 0.2)}

    def choices(self, space: SearchSpace) -> Sequence[int]:
        """Return the layers that can go."""
        return space.removable

    def tuned(self, space: SearchSpace) -> Sequence[int]:
        """Return all layers: the paper counts also those that must stay, of which a hyperparameter changes nothing."""
        return range(len(space.teacher.layers))

    def apply(self, space: SearchSpace, architecture: Architecture, part: frozenset[int]) -> Architecture:
        """Take the layers out."""
        place = places(space.teacher, architecture)
        return remove(architecture, [place[i] for i in part])

    def read(self, space: SearchSpace, student: Architecture, here: Mapping[int, int]) -> frozenset[int]:
        """Return the layers that the student lacks."""
        return frozenset(range(len(space.teacher.layers))) - frozenset(here)

    def change_candidate(self, part: frozenset[int], changes: CandidateChanges) -> bool:
        """Say which layers go."""
        changes.removed = part
        return True

    def describe(self, space: SearchSpace) -> tuple[str, str, str]:
        """Return how many layers can go."""
        count = f"{len(space.removable)}"
        return f"{count} of {len(space.teacher.layers)} layers removable", "layers that can be removed", count

    def may_happen(self, space: SearchSpace) -> dict[int, str]:
        """Return the layers that can go, with what to say of them."""
        return dict.fromkeys(space.removable, "go")


def is_removable(architecture: Architecture, index: int) -> bool:
    """Return whether a layer can be removed: its input shape equals its output shape (ESNAC §6.5)."""
    layer = architecture.layers[index]
    passes = len(layer.inputs) == 1 and layer.kind != "zeros"  # whose input only tells it a size
    return passes and architecture.in_shapes[index][0] == architecture.shapes[index]


def remove(architecture: Architecture, indices: Collection[int]) -> Architecture:
    """Take layers out of the graph: whoever read one of them reads its input instead, as often as it did.

    So a removed layer with two summed inputs becomes one summed slot (also in a concat), and a residual block that
    loses all of its layers becomes x + x. Raises ArchitectureError for a layer whose shapes differ.
    """
    gone = set(indices)
    check_exist(architecture, gone)
    for index in gone:
        if not is_removable(architecture, index):
            turns = f"it turns {architecture.in_shapes[index]} into {architecture.shapes[index]}"
            raise ArchitectureError(f"layer {architecture.layers[index].name!r} cannot be removed: {turns}")
    stands_for: dict[int, Slot] = {INPUT: slot(INPUT)}
    kept: list[Layer] = []
    for index, layer in enumerate(architecture.layers):
        inputs = tuple(sum_slots((stands_for[i], n) for i, n in part) for part in layer.inputs)
        if index in gone:
            stands_for[index] = inputs[0]
        else:
            stands_for[index] = slot(len(kept))
            kept.append(replace(layer, inputs=inputs))
    output = sum_slots((stands_for[i], n) for i, n in architecture.output)
    return Architecture(tuple(kept), architecture.input_shape, output)
