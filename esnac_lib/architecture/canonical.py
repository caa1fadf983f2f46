"""A canonical order of a network's layers and a hash of it, whatever the order and names they are written down with.

Layers get colours by Weisfeiler–Lehman refinement: first what each layer is, then again and again what feeds it and
what it feeds, until no more layers can be distinguished. Of those with equal colours even then (two equal branches)
one is chosen and given a colour of its own, and the refinement goes on from there (individualisation–refinement, as in
McKay's nauty). If two choices lead to the same colours of the whole network, an automorphism exchanges them (no network
of this library's making is so regular that this fails), and it does not matter which is taken.

Forward colours alone could not distinguish one convolution that feeds two places from two equal ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esnac_lib.architecture.layer_types import Shape, Slot


@dataclass(frozen=True)
class Graph:
    """A network as a labelled graph."""

    labels: Sequence[Any]  # what each layer is, without name and place
    inputs: Sequence[tuple[Slot, ...]]  # the slots that each layer reads; source -1 is the network's input
    consumers: Sequence[Sequence[tuple[int, int, int]]]  # of each layer: (reader, slot, multiplicity); -1: the output


def canonical_order(graph: Graph) -> tuple[int, ...]:
    """Return the layers in a topological order that depends only on the network.

    Depth first: of the layers that can come next, the one that became ready last; among those, the one with the longest
    path to the output (a block's main path before its shortcut), then the smallest colour.
    """
    readers, height, missing = _topology(graph)
    ready = {i: 0 for i, count in enumerate(missing) if count == 0}  # layer -> when it became ready
    colours: list[bytes] = []  # most networks never need them
    order: list[int] = []
    while ready:
        equal = list(ready)
        if len(equal) > 1:
            best = max((ready[i], height[i]) for i in equal)
            equal = [i for i in equal if (ready[i], height[i]) == best]
        if len(equal) > 1 and not colours:
            colours = _initial_colours(graph, order)
        i = min(equal, key=lambda i: colours[i]) if colours else equal[0]
        if colours and colours.count(colours[i]) > 1:
            i, colours = _broken_tie(graph, colours, [j for j in ready if colours[j] == colours[i]], order)
        del ready[i]
        order.append(i)
        for j in readers[i]:
            missing[j] -= 1
            if missing[j] == 0:
                ready[j] = len(order)
    return tuple(order)


def _topology(graph: Graph) -> tuple[list[set[int]], list[int], list[int]]:
    """Return each layer's readers, the length of its longest path to the output, and how many layers it reads."""
    readers = [{reader for reader, _, _ in found if reader >= 0} for found in graph.consumers]
    height, missing = ([0] * len(graph.labels) for _ in range(2))
    for i in reversed(range(len(height))):
        for j in readers[i]:
            missing[j] += 1
        height[i] = 1 + max([height[j] for j in readers[i]], default=0)
    return readers, height, missing


def _initial_colours(graph: Graph, order: Sequence[int]) -> list[bytes]:
    """Return the refined colours of the labels, with every layer that stands in the order already distinguished."""
    colours = _refined(graph, [_digest(label) for label in graph.labels])
    for i in order:  # layers of equal colours are ready together: none of these had to be chosen
        if colours.count(colours[i]) > 1:
            colours = _individualised(graph, colours, i)
    return colours


def _broken_tie(graph: Graph, colours: list[bytes], same: list[int], order: Sequence[int]) -> tuple[int, list[bytes]]:
    """Return the one of some layers of equal colours that comes next, and the colours that distinguish it."""
    done = set(order)
    if all(_exchangeable(graph, same[0], j, done) for j in same[1:]):
        same = same[:1]  # the others give the same network
    choices = {j: _individualised(graph, colours, j) for j in same}
    i = min(choices, key=lambda j: sorted(choices[j]))
    return i, choices[i]


def canonical_id(graph: Graph, order: Sequence[int], input_shape: Shape, output: Slot) -> str:
    """Return 32 hexadecimal digits: a hash of the network with its layers in canonical order, named by their place."""
    place = {-1: -1} | {i: position for position, i in enumerate(order)}
    layers = [(graph.labels[i], [_placed(part, place) for part in graph.inputs[i]]) for i in order]
    return _digest(input_shape, layers, _placed(output, place)).hex()


def _placed(part: Slot, place: Mapping[int, int]) -> list[tuple[int, int]]:
    return sorted((place[i], int(n)) for i, n in part)


def _individualised(graph: Graph, colours: list[bytes], i: int) -> list[bytes]:
    """Return the refined colours once layer i is distinguished from those of its colour."""
    return _refined(graph, [*colours[:i], _digest("chosen", colours[i]), *colours[i + 1 :]])


def _exchangeable(graph: Graph, i: int, j: int, done: Collection[int]) -> bool:
    """Return whether an automorphism swaps i and j, and with them one by one what hangs on them (parallel branches).

    No layer in `done` may move. After False another automorphism may still exchange the two.
    """
    swap = {i: j, j: i}
    stack = [(i, j)]
    while stack:
        a, b = stack.pop()
        places: list[Any] = [*zip(graph.inputs[a], graph.inputs[b], strict=False)]
        places.append([[(k, (s, n)) for k, s, n in graph.consumers[x]] for x in (a, b)])
        for one, other in places:
            left, right = ([item for item in x if item not in y] for x, y in ((one, other), (other, one)))
            if len(left) > 1 or len(left) != len(right) or (left and left[0][1] != right[0][1]):
                return False
            if left:
                x, y = left[0][0], right[0][0]
                if min(x, y) < 0 or x in done or y in done or swap.get(x, y) != y or swap.get(y, x) != x:
                    return False
                if x not in swap:
                    swap |= {x: y, y: x}
                    stack.append((x, y))
    if any(graph.labels[x] != graph.labels[y] for x, y in swap.items()):
        return False
    touched = {reader for x in swap for reader, _, _ in graph.consumers[x] if reader >= 0} | set(swap)
    for x in touched:
        moved = tuple(tuple(sorted((swap.get(i, i), n) for i, n in part)) for part in graph.inputs[x])
        if moved != graph.inputs[swap.get(x, x)]:
            return False
    return True


def _refined(graph: Graph, colours: list[bytes]) -> list[bytes]:
    """Refine colours (Weisfeiler–Lehman) until they hold all that a layer depends on and all that depends on it."""
    before = -1
    while before < (now := len(set(colours))) and (before < 0 or now < len(colours)):
        before = now
        forward: list[bytes] = []
        for colour, parts in zip(colours, graph.inputs, strict=True):
            slots = [sorted((forward[i] if i >= 0 else b"input", n) for i, n in part) for part in parts]
            forward.append(_digest(colour, slots))
        backward: list[bytes] = [b""] * len(colours)
        for i in reversed(range(len(colours))):
            readers = sorted((backward[j] if j >= 0 else b"output", k, n) for j, k, n in graph.consumers[i])
            backward[i] = _digest(colours[i], readers)
        colours = [_digest(f, b) for f, b in zip(forward, backward, strict=True)]
    return colours


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
