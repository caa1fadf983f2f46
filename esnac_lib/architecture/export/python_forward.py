"""The body of a generated `forward`: the graph as statements that a person could have written.

Layers that only pass a tensor on to the next one share a statement, `x = F.relu(self.bn1(self.conv1(x)))`, up to an
activation, the next convolution or the end of a block. Sums stand where they are read: `F.relu(x + 2 * y)`. A tensor is
called x, y or z or, if it is read only much later, after the layer that made it. A name is free again once nobody needs
its tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.architecture.export.naming import variable_names
from esnac_lib.architecture.export.python_expressions import expression, is_operator, needs_name
from esnac_lib.architecture.export.python_text import ATOM, INDENT, PRODUCT, SUM, WIDTH, Text
from esnac_lib.architecture.graph import INPUT, Architecture
from esnac_lib.architecture.layer_types import Slot

SHORT_NAMES = ("x", "y", "z")
FAR_INPUT = "image"
MOST_CALLS = 4  # in one statement
MOST_TERMS = 4  # of a sum within a call
MOST_SUM = 56  # characters of a sum within a call
MOST_OPERAND = 22  # characters of an operand of what is no call
DEEPEST = 3  # of what is nested deeper, as in "features.1.0.block.2.fc1", a part would be a line or two
FAR = 8  # statements between a tensor and its last reader that make it worth a name of its own

ACTIVATIONS = ("relu", "sigmoid", "activation", "prelu")  # a statement ends with one
JOINTS = ("concat", "multiply", "add")

Block = tuple[str, ...]  # the path of what a layer is part of: ("stages", "stage1", "0")


def forward_body(architecture: Architecture, attributes: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of forward's argument and the lines of its body, given each layer's attribute in the module."""
    return _Writer(architecture, attributes).write()


def layer_blocks(architecture: Architecture) -> list[Block]:
    """Return what each layer is part of, which the path in its name says.

    A function has no path: an activation, a concat or a product is then part of what stands before it, and so is any
    other layer without weights if that goes on after it.
    """
    paths = [tuple(layer.name.split(".")[:-1][:DEEPEST]) for layer in architecture.layers]
    known = [bool(path or params) for path, params in zip(paths, architecture.layer_params, strict=True)]
    blocks: list[Block] = []
    for index, layer in enumerate(architecture.layers):
        block = paths[index]
        if blocks and not known[index]:
            after = next((paths[i] for i in range(index, len(paths)) if known[i]), ())
            if layer.kind in (*ACTIVATIONS, *JOINTS) or after[:1] == blocks[-1][:1]:
                block = blocks[-1]
        blocks.append(block)
    return blocks


def is_new_part(before: Block, now: Block) -> bool:
    """Return whether an empty line separates two blocks: not if one is part of the other."""
    shared = min(len(before), len(now))
    return before != now and (shared == 0 or before[:shared] != now[:shared])


class _Writer:
    """Writes the statements one by one, and tracks which name holds which tensor."""

    def __init__(self, architecture: Architecture, attributes: Sequence[str]) -> None:
        self.architecture = architecture
        self.attributes = attributes
        self.blocks = layer_blocks(architecture)
        self.statements = _statements(architecture, self.blocks)
        last = self.statements[-1][-1] if self.statements else INPUT
        self.returns_last = last != INPUT and architecture.output == ((last, 1),)
        self.last_read: dict[int, int] = {}  # statement that reads each tensor; one after all others returns the output
        for position, run in enumerate(self.statements):
            self.last_read.update(dict.fromkeys(architecture.layers[run[0]].sources, position))
        end = len(self.statements) - self.returns_last
        self.last_read |= {source: end for source, _ in architecture.output}
        slots = max((len(layer.inputs) for layer in architecture.layers), default=1)
        self.totals = ["total", *(f"total_{n}" for n in range(2, slots + 1))]
        self.long_names = variable_names(architecture.layers, (*SHORT_NAMES, FAR_INPUT, *self.totals))
        self.names: dict[int, str] = {}  # of the tensors that are still needed
        self.lines: list[str] = []

    def write(self) -> tuple[str, list[str]]:
        """Write all statements, and return what `forward_body` returns."""
        argument = self.names[INPUT] = FAR_INPUT if self.last_read[INPUT] > FAR else SHORT_NAMES[0]
        for position, run in enumerate(self.statements):
            if position and is_new_part(self.blocks[run[0] - 1], self.blocks[run[0]]):
                self.lines.append("")
            self._write_statement(position, run)
        if not self.returns_last:
            self.lines.append(f"{INDENT}return {self._sum(self.architecture.output, self.totals[0]).text}")
        return argument, self.lines

    def _write_statement(self, position: int, run: list[int]) -> None:
        first, last = run[0], run[-1]
        inputs = self._inputs(first)
        self.names = {source: name for source, name in self.names.items() if self.last_read[source] > position}
        returned = self.returns_last and position == len(self.statements) - 1
        target = self._free_name(last, near=returned or self.last_read[last] - position <= FAR)
        while run:
            for count in self._cuts(run):
                is_end = count == len(run)
                between = target if is_end else self._free_name(run[count - 1])
                lines = self._nested("return " if is_end and returned else f"{between} = ", run[:count], inputs)
                if len(lines) == 1 and len(lines[0]) <= WIDTH:
                    break
            self.lines += lines
            run, inputs = run[count:], [Text(between)]
        self.names[last] = target

    def _inputs(self, index: int) -> list[Text]:
        """Return the expressions of a layer's slots."""
        layer, shapes = self.architecture.layers[index], self.architecture.in_shapes[index]
        most = MOST_OPERAND if is_operator(layer, shapes) else 0 if needs_name(layer, shapes) else MOST_SUM
        return [self._sum(part, total, most) for part, total in zip(layer.inputs, self.totals, strict=False)]

    def _cuts(self, run: Sequence[int]) -> list[int]:
        """Return how many layers of a run a line may hold, best first: all, those before a convolution, then fewer."""
        before = [count for count in range(1, len(run)) if self.architecture.layers[run[count]].has_filters]
        fewer = range(min(len(run), MOST_CALLS + 1) - 1, 0, -1)
        return [*([len(run)] if len(run) <= MOST_CALLS else []), *before, *fewer]

    def _nested(self, start: str, run: Sequence[int], inputs: list[Text]) -> list[str]:
        """Return the lines of a statement in which each layer of a run is called on the one before."""
        for index in run:
            layer, shapes = self.architecture.layers[index], self.architecture.in_shapes[index]
            found = expression(layer, shapes, f"self.{self.attributes[index]}", inputs)
            inputs = [found if isinstance(found, Text) else found.flat]
        return found.lines(start)

    def _sum(self, part: Slot, total: str, most: int = MOST_SUM) -> Text:
        """Return the expression of a slot. A sum longer than `most` characters is computed before, as `total`."""
        terms = [self.names[source] if count == 1 else f"{count} * {self.names[source]}" for source, count in part]
        if len(part) == 1 and part[0][1] == 1:
            return Text(terms[0])
        while terms != [total] and (len(terms) > MOST_TERMS or len(" + ".join(terms)) > most):
            count = len(terms)
            while count > 2 and len(f"{INDENT}{total} = {' + '.join(terms[:count])}") > WIDTH:
                count -= 1
            self.lines.append(f"{INDENT}{total} = {' + '.join(terms[:count])}")
            terms = [total, *terms[count:]]
        if len(terms) == 1:
            return Text(terms[0], ATOM if terms == [total] else PRODUCT)
        return Text(" + ".join(terms), SUM)

    def _free_name(self, index: int, near: bool = True) -> str:
        """Return a name for the output of a layer: a short one that holds nothing, if the output is read soon."""
        free = [name for name in SHORT_NAMES if near and name not in self.names.values()]
        return free[0] if free else self.long_names[index]


def _statements(architecture: Architecture, blocks: Sequence[Block]) -> list[list[int]]:
    """Return the layers in their order, cut where a statement ends."""
    layers = architecture.layers
    runs: list[list[int]] = []
    for index, layer in enumerate(layers):
        before = index - 1
        if (
            index == 0
            or layer.inputs != (((before, 1),),)
            or len(architecture.consumers[before]) != 1
            or layers[before].kind in ACTIVATIONS
            or needs_name(layer, architecture.in_shapes[index])
            or (layer.has_filters and any(layers[i].has_filters for i in runs[-1]))
            or is_new_part(blocks[before], blocks[index])
        ):
            runs.append([])
        runs[-1].append(index)
    return runs
