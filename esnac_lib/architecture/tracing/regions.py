"""What is not understood, put together: neighbouring calls become one opaque layer, or one norm.

A call that no layer does is *pending* until a layer reads its result. Then the calls that led to it are one program,
which holds each parameter once. Where a function is defined for some numbers only (a root, a logarithm, a quotient),
the element-wise calls before it belong to the program too: no operator of the search may come between them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from torch import Tensor

from esnac_lib.architecture.tracing import traceable as known
from esnac_lib.architecture.tracing.arithmetic import COMBINES
from esnac_lib.architecture.tracing.calls import Call, Constant, Recording, Value, leaves
from esnac_lib.architecture.tracing.draft import Draft, Part
from esnac_lib.architecture.tracing.movement import SPACE
from esnac_lib.architecture.tracing.norms import norm_like
from esnac_lib.architecture.tracing.opaque import Presentation, Program, opaque_step, presentation_of
from esnac_lib.architecture.tracing.readers import Refused, Unfinished

_BEFORE = known.FREE | COMBINES  # what may belong to the program of a function after it
ODD_ARGUMENTS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)  # of calls that no reader foresees


class Region(NamedTuple):
    """Calls in their order, and the values that they read from outside."""

    calls: list[Call]
    inputs: list[Value]

    @property
    def learned(self) -> frozenset[str]:
        """The user's parameters that it reads."""
        found = [constant.learned for call in self.calls for constant in leaves((call.args, call.kwargs), Constant)]
        return frozenset[str]().union(*found)

    @property
    def is_total(self) -> bool:
        """Whether every function in it is defined for all numbers."""
        return all(call.target in known.TOTAL for call in self.calls)


class Regions:
    """The pending calls of a draft. names: of the user's parameters and buffers."""

    def __init__(self, draft: Draft, recording: Recording, names: dict[Tensor, str]) -> None:
        self.draft, self.names = draft, names
        self.makers = {value: call for call in recording.calls for value in call.results}
        self.readers: dict[Value, set[int]] = defaultdict(set)
        for call in recording.calls:
            for value in call.values:
                self.readers[value].add(call.position)
        for value in leaves(recording.output, Value):
            self.readers[value].add(len(recording.calls))
        draft.materialise = self.materialise

    def postpone(self, call: Call, reason: str) -> None:
        """Make a call pending. Raises Refused where it cannot be part of a program."""
        if call.reason or call.written or call.place.plain:  # of PyTorch's own modules the module is the better layer
            raise Refused(reason)
        if not all(value in self.draft.parts or value in self.draft.pending for value in call.values):
            raise Refused(reason)
        for constant in leaves((call.args, call.kwargs), Constant):
            self.draft.trust(constant)
        self.draft.pending.update(dict.fromkeys(call.results, reason))

    def can_follow(self, call: Call) -> bool:
        """Return whether a call that moves numbers can belong to the program that makes them."""
        return call.values[0] in self.draft.pending and not (call.values[1:] or call.place.plain or call.written)

    def follow(self, call: Call) -> None:
        """Make a call pending that moves the numbers of a pending one."""
        self.draft.pending.update(dict.fromkeys(call.results, self.draft.pending[call.values[0]]))

    def materialise(self, value: Value) -> None:
        """Make a layer of what led to a pending value. Raises Refused, with the reason of the call, if it cannot be."""
        if (norm := self.norm(value)) is not None:
            self.draft.give(value, norm)
            return
        region = self._region(value)
        if not region.is_total:
            region = self._region(value, far=True)
        absorbed = self._absorbed(region)
        if any(self.draft.owners.get(name) not in (None, *absorbed) for name in region.learned):
            region = self._region(value, far=True)
            absorbed = self._absorbed(region)
        self._layer(value, region, absorbed)

    def norm(self, value: Value) -> Part | None:
        """Return the norm that the calls which led to a value are; None if they are none."""
        whole = self._region(value, far=True)
        if whole.is_total or not value.dtype.is_floating_point:
            return None
        inside = {call.position for call in whole.calls}
        starts = {start for call in whole.calls for start in call.values if len(self.readers[start] & inside) > 1}
        for start in sorted(starts, key=lambda start: start.made):
            region = self._region(value, far=True, start=start)
            if region.inputs != [start] or region.learned or start.shape != value.shape:
                continue
            try:
                part = self.draft.read(start, tuple(SPACE))
                program = Program(region.calls, [start], [str(part.layout)], self.names)
                step = norm_like(program.ending(value, Presentation(str(part.layout), part.shape[1:])), part.shape)
                if step is not None:
                    return self.draft.chain(self.makers[value], [step], part)
            except (Refused, *ODD_ARGUMENTS):
                continue
        return None

    def _region(self, value: Value, far: bool = False, start: Value | None = None) -> Region:
        """Return the pending calls that led to a value; far: also element-wise ones before them, back to `start`."""
        calls: dict[int, Call] = {}
        inputs: dict[Value, None] = {}
        waiting = [value]
        while waiting:
            at = waiting.pop()
            call = self.makers.get(at)
            if call is None or at is start or not (at is value or self._belongs(at, call, far)):
                inputs[at] = None
            elif call.position not in calls:
                calls[call.position] = call
                waiting.extend(call.values)
        return Region([calls[place] for place in sorted(calls)], sorted(inputs, key=lambda at: at.made))

    def _belongs(self, value: Value, call: Call, far: bool) -> bool:
        if value in self.draft.pending:
            return far or value not in self.draft.parts
        part = self.draft.parts.get(value)
        if part is not None and part.layout is None and part.reading is None:  # no layer could make it
            return True
        if not far or call.reason or call.written or call.target not in _BEFORE:
            return False
        return not any(constant.learned for constant in leaves((call.args, call.kwargs), Constant))

    def _absorbed(self, region: Region) -> set[str]:
        """Return the opaque layers of values inside a region that nobody reads outside: it takes their place."""
        inside = {call.position for call in region.calls}
        made = [value for call in region.calls for value in call.results if value in self.draft.pending]
        alone = [value for value in made if value in self.draft.parts and self.readers[value] <= inside]
        return {self.draft.layers[self.draft.parts[value].slot[0][0]].name for value in alone}

    def _layer(self, value: Value, region: Region, absorbed: set[str]) -> None:
        reason, last = self.draft.pending[value], self.makers[value]
        try:
            parts = [self.draft.read(at, tuple(SPACE)) for at in region.inputs]
            layouts = [str(part.layout) for part in parts]
            code = Program(region.calls, region.inputs, layouts, self.names)
            code.ending(value, presentation := presentation_of(value, region.inputs, parts))
            what = next((call.name for call in reversed(region.calls) if call.target not in known.MOVES), last.name)
            step = opaque_step(code, what, region.inputs, parts, code.learned)
            extra: dict[str, Any] = {"name": self.draft.unique(what), "code": code, "reason": reason}
            at = self.draft.layer(last, step, tuple(part.slot for part in parts), absorbed=absorbed, **extra)
            self.draft.give(value, Part(at, step.attrs["output"], presentation.layout))
        except (Refused, *ODD_ARGUMENTS) as error:
            shared = f": {error}" if "already used" in str(error) and "already used" not in reason else ""
            raise Unfinished(f"{reason}{shared}") from None
