"""A student's graph in terms of its teacher's layers: what was removed, narrowed and added, laid out in columns.

Pure data; `student_graph` draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import ceil

from esnac_lib.architecture.graph import INPUT, Architecture, Layer

BREAK_SLACK = 3  # rows by which a column may be longer or shorter, to break where few edges cross

NAMES = {
    "batch_norm": "batch norm", "relu": "ReLU", "max_pool": "max pool", "avg_pool": "average pool",
    "adaptive_avg_pool": "average pool to", "channel_shuffle": "shuffle",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A teacher's layer and what became of it."""

    index: int
    text: str  # kind and size
    filters: bool  # whether it has filters of its own
    channels: int  # of its output in the teacher
    left: int | None  # of its output in the student, None where the layer was removed


@dataclass(frozen=True)
class Edge:
    """A connection between two of the teacher's layers: -1 is the input, the number of layers the output."""

    source: int
    target: int
    count: int = 1  # how often the target sums the source
    added: bool = False  # by a skip operator


@dataclass(frozen=True)
class Comparison:
    """A teacher and one of its students, row by row in the teacher's order of execution."""

    rows: tuple[Row, ...]
    teacher_edges: tuple[Edge, ...]
    student_edges: tuple[Edge, ...]

    @property
    def removed(self) -> int:
        """Layers that the student lacks."""
        return sum(row.left is None for row in self.rows)

    @property
    def narrowed(self) -> int:
        """Layers with filters of which some are gone."""
        return sum(row.filters and row.left is not None and row.left < row.channels for row in self.rows)

    @property
    def added(self) -> int:
        """Skip connections."""
        return sum(edge.added for edge in self.student_edges)


def compare(teacher: Architecture, student: Architecture, skips: Collection[tuple[int, int]]) -> Comparison:
    """Return what became of the teacher's layers in a student of its search space.

    skips: pairs of the teacher's layers that the student's decisions join. All else is read off the architectures, by
    the origins of the student's layers.
    """
    number = {layer.name: index for index, layer in enumerate(teacher.layers)}
    here = [number[layer.origin or layer.name] for layer in student.layers]
    left = {index: student.shapes[place][0] for place, index in enumerate(here)}
    shapes = zip(teacher.in_shapes, teacher.shapes, strict=True)
    rows = tuple(
        Row(index, describe(layer, in_shape[0]), layer.has_filters, shape[0], left.get(index))
        for index, (layer, (in_shape, shape)) in enumerate(zip(teacher.layers, shapes, strict=True))
    )
    same = range(len(rows))
    return Comparison(rows, _edges(teacher, same, len(rows), ()), _edges(student, here, len(rows), skips))


def describe(layer: Layer, in_shape: Sequence[int]) -> str:
    """Return a layer in a few words: "conv 3×3 /2, 64" has a stride of 2 and 64 filters."""
    known = dict(layer.attrs)
    if layer.kind == "conv":
        depthwise = known["groups"] > 1 and known["groups"] == in_shape[0]
        groups = "" if depthwise or known["groups"] == 1 else f" g{known['groups']}"
        return f"{'dw ' * depthwise}conv {_window(known)}{groups}, {layer.channels}"
    if layer.kind == "linear":
        return f"linear, {layer.channels}"
    if layer.kind in ("activation", "opaque"):
        return str(known["function" if layer.kind == "activation" else "what"])
    name = NAMES.get(layer.kind, layer.kind.replace("_", " "))
    if "kernel_size" in known:
        return f"{name} {_window(known)}"
    if "output_size" in known:
        return f"{name} {'×'.join(map(str, known['output_size']))}"
    return f"{name} g{known['groups']}" if layer.kind == "channel_shuffle" else name


def _window(attrs: dict) -> str:
    size, stride = attrs["kernel_size"], attrs["stride"]
    step = str(stride[0]) if stride[0] == stride[1] else "×".join(map(str, stride))
    return "×".join(map(str, size)) + ("" if stride == (1, 1) else f" /{step}")


def _edges(
    architecture: Architecture, here: Sequence[int], output: int, skips: Collection[tuple[int, int]]
) -> tuple[Edge, ...]:
    """Every edge of an architecture, in the teacher's numbers."""
    number = {INPUT: INPUT, **dict(enumerate(here))}
    counts: Counter[tuple[int, int]] = Counter()
    for layer, target in zip(architecture.layers, here, strict=True):
        for source, count in chain.from_iterable(layer.inputs):
            counts[number[source], target] += count
    for source, count in architecture.output:
        counts[number[source], output] = count
    return tuple(Edge(*pair, count, pair in skips) for pair, count in sorted(counts.items()))


def columns(comparison: Comparison, most: int) -> list[range]:
    """Return the rows in columns of similar length, at most about `most`, cut where the fewest edges cross."""
    total = len(comparison.rows)
    count = ceil(total / most)
    cuts = [0]
    for column in range(1, count):
        nominal = round(total * column / count)
        slack = min(BREAK_SLACK, total // (3 * count))
        near = range(nominal - slack, nominal + slack + 1)
        cuts.append(min(near, key=lambda cut: (_crossing(comparison, cut), abs(cut - nominal))))
    return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], total], strict=True)]


def _crossing(comparison: Comparison, cut: int) -> int:
    edges = [*comparison.teacher_edges, *comparison.student_edges]
    return sum(edge.source < cut <= edge.target for edge in edges)


def spine(edges: Sequence[Edge], kept: Collection[int]) -> list[Edge]:
    """Return the edges that join neighbours among the kept rows: they are drawn straight, all others as arcs."""
    ordered = [INPUT, *sorted(kept), max((edge.target for edge in edges), default=0)]
    follower = dict(pairwise(ordered))
    return [edge for edge in edges if follower.get(edge.source) == edge.target and not edge.added]
