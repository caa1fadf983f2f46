"""Shrink layers (ESNAC §3.2): keep only a share of the filters of each channel group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from esnac_lib.architecture.channel_routing import expand, follows_channels, is_depthwise, route_channels, selected
from esnac_lib.architecture.graph import INPUT, Architecture, Layer
from esnac_lib.architecture.layer_types import Slot
from esnac_lib.errors import ArchitectureError, SpaceError
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.operators.base import CandidateChanges, Interval, Operator, check_exist, places

if TYPE_CHECKING:
    from esnac_lib.space.channel_groups import ChannelGroup
    from esnac_lib.space.search_space import SearchSpace

MILD_SPREADS = (0.0, 0.05, 0.1, 0.2)  # standard deviation of a network's ratios around their common centre
MUTATION_SPREAD = 0.15  # standard deviation of the change to a ratio
BELOW_ONE = 1 - 1e-9

Ratios = tuple[float, ...]


class Shrink(Operator):
    """Drops filters. Its part: for each channel group the share of filters that go, in [0, 1)."""

    name, column, label = "shrink", "shrunk", "filters taken [share]"
    whole = False
    order = 0
    core: ClassVar[bool] = True

    def choices(self, space: SearchSpace) -> Sequence[ChannelGroup]:
        """Return the channel groups."""
        return space.groups

    def nothing(self, space: SearchSpace) -> Ratios:
        """Return ratios of 0."""
        return (0.0,) * len(space.groups)

    def check(self, space: SearchSpace, part: Ratios) -> None:
        """Raise SpaceError unless there is a ratio in [0, 1) for each group."""
        if len(part) != len(space.groups) or not all(0 <= ratio < 1 for ratio in part):
            raise SpaceError(f"ratios {part}: this space has {len(space.groups)} groups, each in [0, 1)")

    def normalise(self, space: SearchSpace, part: Ratios, before: Mapping[str, Any]) -> Ratios:
        """Where a removed layer stood between two groups, give the later one the ratio of the first."""
        return tuple([part[first] for first in space.grouping.firsts(before["remove"])])

    def apply(self, space: SearchSpace, architecture: Architecture, part: Ratios) -> Architecture:
        """Keep the first filters of each group."""
        place, pairs = places(space.teacher, architecture), zip(space.groups, part, strict=True)
        kept = [group.keep(ratio) for group, ratio in pairs if ratio]  # a layer is of one group
        return shrink(architecture, {place[i]: positions for found in kept for i, positions in found.items()})

    def read(self, space: SearchSpace, student: Architecture, here: Mapping[int, int]) -> Ratios | None:
        """Return ratios that leave each layer the filters that it has; groups without a layer left have 0."""
        firsts = space.grouping.firsts(i for i in space.removable if i not in here)
        known: dict[int, float | None] = {}  # groups that share a ratio have it from the first that has a layer left
        for first, group in zip(firsts, space.groups, strict=True):
            if first not in known and any(index in here for segment in group.segments for index in segment.positions):
                known[first] = _ratio_of(group, student, here)
        ratios = [known.get(first, 0.0) for first in firsts]
        found = tuple([ratio for ratio in ratios if ratio is not None])
        return found if len(found) == len(ratios) else None

    def change_candidate(self, part: Ratios, changes: CandidateChanges) -> bool:
        """Say the ratios."""
        changes.ratios = part
        return True

    def sample(self, space: SearchSpace, rate: float, rng: np.random.Generator) -> Ratios:
        """Draw each ratio uniformly, as the authors' code does; "mild": around one centre, uniform over all widths."""
        if space.sampling == "mild":
            centre, spread = rng.random(), rng.choice(MILD_SPREADS)
            shares = np.clip(centre + spread * rng.standard_normal(len(space.groups)), 0, BELOW_ONE)
        else:
            shares = rng.random(len(space.groups))
        return tuple([share * group.max_ratio for share, group in zip(shares.tolist(), space.groups, strict=True)])

    def mutate(self, space: SearchSpace, part: Ratios, rng: np.random.Generator) -> Ratios:
        """Move one ratio."""
        g = int(rng.integers(len(space.groups)))
        moved = float(np.clip(part[g] + rng.normal(0, MUTATION_SPREAD), 0, space.groups[g].max_ratio - 1e-9))
        return (*part[:g], moved, *part[g + 1 :])

    def cross(self, a: Ratios, b: Ratios, rng: np.random.Generator) -> Ratios:
        """Take each ratio from either."""
        return tuple([x if rng.random() < 0.5 else y for x, y in zip(a, b, strict=True)])

    def hyperparameters(self, space: SearchSpace) -> dict[str, Interval]:
        """Return the range of each ratio, whose upper end is included and so lies just below the largest."""
        ends = [float(np.nextafter(group.max_ratio, 0.0)) for group in space.groups]
        return {f"ratio {g}": Interval(0.0, end) for g, end in enumerate(ends)}

    def from_hyperparameters(self, space: SearchSpace, values: Mapping[str, Any]) -> Ratios:
        """Return the ratios."""
        return tuple([float(values.get(f"ratio {g}", 0.0)) for g in range(len(space.groups))])

    def to_hyperparameters(self, space: SearchSpace, decisions: Decisions) -> dict[str, Any]:
        """Return the ratios by name, within their ranges."""
        ranges = self.hyperparameters(space).items()
        return {name: min(ratio, span.high) for (name, span), ratio in zip(ranges, decisions.ratios, strict=True)}

    def amount(self, part: Ratios) -> float:
        """Return the mean of the ratios."""
        return sum(part) / len(part) if part else 0.0

    def describe(self, space: SearchSpace) -> tuple[str, str, str]:
        """Return how many layers can be shrunk, by how many ratios."""
        shrinkable, count = len(space.grouping.shrinkable), len(space.groups)
        return f"{count} channel groups", "layers that can be shrunk", f"{shrinkable}, by {count} ratios"

    def may_happen(self, space: SearchSpace) -> dict[int, str]:
        """Return the layers that lose parameters, with what they lose."""
        lighter, shrinkable = space.grouping.lighter, space.grouping.shrinkable
        return dict.fromkeys(lighter, "lose inputs") | dict.fromkeys(shrinkable, "lose filters")


def largest_ratio(group: ChannelGroup) -> float:
    """Return the largest ratio of a group that decisions may hold."""
    return min(group.max_ratio, BELOW_ONE)


def _ratio_of(group: ChannelGroup, architecture: Architecture, here: Mapping[int, int]) -> float | None:
    """Return a ratio that leaves each layer of the group the filters it kept, else as many as it has, or None."""
    whole: dict[int, np.ndarray] = group.keep(0.0)
    parts = Counter(index for segment in group.segments for index in segment.positions)
    named, seen = {}, {}
    for index in whole.keys() & here.keys():
        layer = architecture.layers[here[index]]
        seen[index] = layer.channels
        if layer.kept_out is not None and len(layer.kept_out) == layer.channels:
            named[index] = np.intersect1d(layer.kept_out, whole[index])
            seen[index] = len(named[index])
    slack = {index: group.multiple * (parts[index] + 1) for index in seen}  # each segment may have rounded its count
    low = max(1 - (count + slack[index]) / len(whole[index]) for index, count in seen.items())
    high = min(1 - (count - slack[index]) / len(whole[index]) for index, count in seen.items())
    as_many = None
    for ratio in [0.0, *group.ratios_between(max(low, 0.0), min(high, 1.0))]:
        kept = group.keep(ratio)
        if all(len(kept[index]) == count for index, count in seen.items()):
            if all(np.array_equal(kept[index], filters) for index, filters in named.items()):
                return ratio
            as_many = ratio if as_many is None else as_many
    return as_many


def shrink(architecture: Architecture, keep: Mapping[int, np.ndarray]) -> Architecture:
    """Keep only some filters of some layers, and of every later layer what reads them.

    Weights are not touched. Names, origins and kept channels come along, so that a student can always inherit. Raises
    ArchitectureError where a sum would add maps of which different channels were kept, or a layer has no such filters.

    Args:
        architecture: Of a teacher.
        keep: For the index of a convolution or linear layer, the positions (in order) of the output channels that stay.
            Depthwise convolutions and batch norms follow their input and cannot be given.
    """
    check_exist(architecture, keep)
    flows: list[np.ndarray | None] = []  # which of its former channels each layer still puts out; None: all
    layers: list[Layer] = []
    for index, layer in enumerate(architecture.layers):
        inputs = [_common(part, flows, layer.name) for part in layer.inputs]
        shapes = architecture.in_shapes[index]
        if layer.has_filters:
            outputs = _checked(layer, keep[index]) if index in keep else None
            read = None if layer.kind == "zeros" else inputs[0]  # which only tells zeros a size
            changed, flow = _shrink_filters(layer, shapes[0][0], read, outputs)
        elif index in keep:
            raise ArchitectureError(f"layer {layer.name!r} ({layer.kind}) has no filters of its own to shrink")
        else:
            changed, flow = _follow(layer, shapes, inputs)
        layers.append(changed)
        flows.append(None if flow is not None and len(flow) == architecture.shapes[index][0] else flow)
    if _common(architecture.output, flows, "the output") is not None:
        raise ArchitectureError("the network's output would lose channels")
    return Architecture(tuple(layers), architecture.input_shape, architecture.output)


def _checked(layer: Layer, keep: np.ndarray) -> np.ndarray:
    positions = np.asarray(keep, dtype=np.int64)
    ordered = len(positions) > 0 and positions[0] >= 0 and positions[-1] < layer.channels
    if not ordered or not (np.diff(positions) > 0).all():
        needed = f"needed are one or more of 0 to {layer.channels - 1} in ascending order"
        raise ArchitectureError(f"layer {layer.name!r} cannot keep the filters {positions.tolist()}: {needed}")
    return positions


def _common(part: Slot, flows: list[np.ndarray | None], reader: str) -> np.ndarray | None:
    first, *rest = (None if i == INPUT else flows[i] for i, _ in part)
    for other in rest:
        if other is not first and (other is None or first is None or not np.array_equal(first, other)):
            raise ArchitectureError(f"{reader!r} would sum maps of which different channels were kept")
    return first


def _compose(kept: np.ndarray | None, positions: np.ndarray | None) -> np.ndarray | None:
    """Return what is kept of what was kept before; None: all."""
    return positions if kept is None else kept if positions is None else kept[positions]


def _shrink_filters(
    layer: Layer, in_channels: int, inputs: np.ndarray | None, outputs: np.ndarray | None
) -> tuple[Layer, np.ndarray | None]:
    """Return the shrunk convolution or linear layer, and which of its output channels are left."""
    attrs = dict(layer.attrs)
    if is_depthwise(layer, in_channels):
        if outputs is not None:
            raise ArchitectureError(f"{layer.name!r} is depthwise: its channels follow its input")
        if inputs is None:
            return layer, None
        outputs, attrs["groups"] = expand(inputs, layer.channels // in_channels), len(inputs)
    elif inputs is None and outputs is None:
        return layer, None
    channels = layer.channels if outputs is None else len(outputs)
    kept_in, kept_out = _compose(layer.kept_in, inputs), _compose(layer.kept_out, outputs)
    attributes = tuple(sorted(attrs.items()))
    return replace(layer, channels=channels, attrs=attributes, kept_in=kept_in, kept_out=kept_out), outputs


def _follow(
    layer: Layer, shapes: tuple[tuple[int, ...], ...], inputs: list[np.ndarray | None]
) -> tuple[Layer, np.ndarray | None]:
    """Return a layer without own filters after its inputs were shrunk, and which of its output channels are left."""
    if layer.kind in ("multiply", "add"):  # one channel alone serves all of the other side
        widest = max(shape[0] for shape in shapes)
        inputs = [kept for shape, kept in zip(shapes, inputs, strict=True) if shape[0] == widest]
        shapes = tuple(shape for shape in shapes if shape[0] == widest)
    if all(kept is None for kept in inputs):
        return layer, None
    if layer.kind == "opaque":
        raise ArchitectureError(f"layer {layer.name!r} is opaque: the channels that it reads cannot be shrunk")
    full = [np.arange(shape[0]) if kept is None else kept for shape, kept in zip(shapes, inputs, strict=True)]
    flow = route_channels(layer, shapes, full)
    if layer.kind == "select":
        place = {int(channel): position for position, channel in enumerate(full[0])}
        left = [place[int(channel)] for channel in selected(layer)[flow]]
        return replace(layer, attrs={"runs": [(position, position + 1) for position in left]}), flow
    if follows_channels(layer):
        kept = _compose(layer.kept_out, flow)
        layer = replace(layer, kept_out=kept, kept_in=kept)
    return layer, flow
