"""From a recording to an architecture: each call becomes layers, or what is around it becomes one opaque layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import Architecture, Layer
from esnac_lib.architecture.network import Weights
from esnac_lib.architecture.tracing import traceable as known
from esnac_lib.architecture.tracing.arithmetic import COMBINES, HANDLERS
from esnac_lib.architecture.tracing.calls import Call, Constant, Recording, Value, Visit, leaves, replaced
from esnac_lib.architecture.tracing.draft import Draft, Part
from esnac_lib.architecture.tracing.movement import SPACE
from esnac_lib.architecture.tracing.opaque import Program, code_of, opaque_step, presentation_of
from esnac_lib.architecture.tracing.readers import Options, Refused, Seen, Step, Unfinished, bind
from esnac_lib.architecture.tracing.regions import ODD_ARGUMENTS, Regions
from esnac_lib.errors import ArchitectureError, TraceError, one_line


class Translation:
    """Walks the visits and calls of a recording and drafts the architecture."""

    def __init__(self, module: nn.Module, recording: Recording, layers: dict[nn.Module, tuple[str, Layer]]) -> None:
        self.module, self.recording, self.layers = module, recording, layers
        self.draft = Draft(recording.images, {path for path, _ in module.named_modules() if path})
        self.needed, self.last_read = _lifetimes(recording)
        self.names = {tensor: name for name, tensor in [*module.named_buffers(), *module.named_parameters()]}
        self.regions = Regions(self.draft, recording, self.names)
        self._visit(recording.root)

    def finish(self) -> tuple[Architecture, Weights]:
        """Return the architecture and its weights, not copied. Raises TraceError if nothing in it can be compressed."""
        name, output = type(self.module).__name__, self.recording.output
        if not isinstance(output, Value):
            kind = type(output).__name__.lower()
            advice = "wrap it in a module that gives one" if kind != "constant" else "is the input used?"
            raise TraceError(f"{name} puts out a {kind}, where one tensor made of the input is needed: {advice}")
        try:
            architecture, weights = self.draft.finish(self.draft.read(output, ("chw", "f")).slot)
        except (Refused, ArchitectureError) as error:
            raise TraceError(f"cannot trace {name}: at its output, {error}") from None
        opaque = [layer for layer in architecture.layers if layer.kind == "opaque"]
        if opaque and not any(layer.kind in ("conv", "linear") for layer in architecture.layers):
            what = f"no convolution or linear layer is outside of what is not understood, {opaque[0].reason}"
            raise TraceError(f"cannot compress {name}: {what}")
        return architecture, weights

    def _visit(self, visit: Visit) -> None:
        """Translate what a module does, or the module as one opaque layer where that is not understood."""
        mark = self.draft.mark()
        try:
            for item in visit.items:
                self._visit(item) if isinstance(item, Visit) else self._call(item)
            self._finish_pending(visit)
            self._check_output(visit)
        except Refused as error:
            if visit is self.recording.root:
                raise TraceError(f"cannot trace {type(self.module).__name__}: {error}") from None
            self.draft.undo(mark)
            try:
                self._opaque_visit(visit, str(error))
            except Refused as other:
                self.draft.undo(mark)
                shared = f": {other}" if "already used" in str(other) and "already used" not in str(error) else ""
                raise Refused(f"{error}{shared}") from None

    def _finish_pending(self, visit: Visit) -> None:
        """Make layers of the pending calls of a visit that are read after it."""
        for value in list(self.draft.pending) if visit is not self.recording.root else ():
            if value.made >= visit.start and (value is visit.output or self.last_read.get(value, -1) >= visit.stop):
                self.draft.read(value)

    def _check_output(self, visit: Visit) -> None:
        """Refuse an output whose elements stand in an order that nothing can read: an opaque layer is better."""
        value = visit.output
        part = self.draft.parts.get(value) if isinstance(value, Value) and value.made >= visit.start else None
        if part is None or part.layout or part.reading or len(value.shape) not in (2, 4):
            return
        if part.moved_by and visit is not self.recording.root:
            raise Refused(f"{part.moved_by.name} in {part.moved_by.place}: the order of its numbers is not known")

    def _call(self, call: Call) -> None:
        """Translate a call. Raises Refused, with the place, if it neither is understood nor can be opaque by itself."""
        if not call.reason and not any(value in self.needed for value in call.results):
            return
        mark = self.draft.mark()
        try:
            if not self._is_norm(call):
                self._understand(call)
            if self._is_lost(call):
                self.draft.undo(mark)
                self.regions.follow(call)
        except (Refused, *ODD_ARGUMENTS) as error:
            self.draft.undo(mark)
            detail = f": {one_line(error, kind=False)}" if str(error) else ""
            reason = str(error) if isinstance(error, Unfinished) else f"{call.name} in {call.place}{detail}"
            try:
                self._opaque_call(call, reason)
            except Refused:
                self.draft.undo(mark)
                raise Refused(reason) from None

    def _is_lost(self, call: Call) -> bool:
        """Return whether a call moved the numbers of what no layer does to where no layer finds them."""
        if call.target not in known.MOVES or not self.regions.can_follow(call):
            return False
        parts = [self.draft.parts[value] for value in call.results if value in self.needed]
        return any(part.layout is None and part.reading is None for part in parts)

    def _is_norm(self, call: Call) -> bool:
        """Return whether a call ends a norm that was written by hand; then its result stands for that norm's."""
        if call.target not in COMBINES or not any(value in self.draft.pending for value in call.values):
            return False
        norm = self.regions.norm(call.results[0])
        if norm is not None:
            self.draft.give(call.results[0], norm)
        return norm is not None

    def _understand(self, call: Call) -> None:
        if call.reason:
            raise Refused(call.reason)
        if call.written:
            raise Refused("changes a tensor in place")
        kinds = {value.dtype for value in (*call.values, *call.results) if value.dtype.is_floating_point}
        if odd := kinds - {self.recording.images.dtype}:
            raise Refused(f"takes or gives numbers of {odd.pop()}")
        if isinstance(call.target, nn.Module):
            self.draft.give(call.results[0], self._module(call))
        elif call.target in HANDLERS:
            handler, arguments = HANDLERS[call.target]
            given = Options(**bind(arguments, call.args, call.kwargs))
            self.draft.give(call.results[0], handler(self.draft, call, given))
        elif call.target in known.FUNCTIONS:
            self.draft.give(call.results[0], self._function(call))
        elif call.target in known.MOVES:
            self._move(call)
        elif call.target in known.COPIES:
            self._copy(call, call.args[0])
        elif call.target in known.LEFT_OUT:
            if bind(known.LEFT_OUT_ARGUMENTS, call.args, call.kwargs)["training"]:
                raise Refused("a dropout that is on in eval mode")
            self.draft.notes.append(f"{call.name} in {call.place}")
            self._copy(call, call.args[0])
        else:
            raise Refused("")

    def _function(self, call: Call) -> Part:
        """Translate a function that is a chain of layers."""
        function = known.FUNCTIONS[call.target]
        bound = bind(function.arguments, call.args, call.kwargs)
        part = self.draft.read(bound.pop("input"), function.layouts)
        if any(leaves(list(bound.values()), Value)):
            raise Refused("one of its options depends on the input")
        twin = call.twin or call
        in_training = Options(**bind(function.arguments, twin.args, twin.kwargs))
        seen = Seen(part.shape, part.layout, call.results[0].shape[1:], in_training)
        return self.draft.chain(call, function.read(Options(**bound), seen), part)

    def _move(self, call: Call) -> None:
        """Translate a function that only rearranges elements, by applying it to their index."""
        value, *others = call.values
        if value is not call.args[0] or (others and not call.name.endswith("_as")):  # of the others only the shape
            raise Refused("moves numbers by those of another tensor")
        part = self.draft.part(value)
        if part is None:
            raise Refused("moves what is no map and no features")
        stands = {other: torch.empty(other.shape) for other in others}
        stands[value] = part.numbers(self.draft.batch).contiguous()
        args, kwargs = replaced((call.args, call.kwargs), Value, stands.__getitem__)
        args, kwargs = replaced((args, kwargs), Constant, lambda constant: self.draft.trust(constant).cpu())
        for result, index in zip(call.results, leaves(call.target(*args, **kwargs), Tensor), strict=True):
            if result in self.needed:
                self.draft.move(result, part, index, call)

    def _copy(self, call: Call, value: Any) -> None:
        """Translate a function that returns its argument."""
        (result,) = call.results
        if call.target in known.STOPS_GRADIENTS and value.grad:
            raise Refused("stops the gradients here")
        part = self.draft.read_parts.get(value) or self.draft.part(value)
        if part is None or result.dtype != value.dtype or result.shape != value.shape:
            raise Refused("changes the type of a tensor, or copies what is no map")
        self.draft.parts[result] = part

    def _module(self, call: Call) -> Part:
        """Translate a module that is one layer by itself: one of a `Network`, or a stochastic depth."""
        if call.target not in self.layers:
            if not known.is_stochastic_depth(call.target):
                raise Refused("does something else in training")
            part = self.draft.read(call.args[0])
            if (attrs := known.stochastic_depth(call.target)) is None:
                return part
            name = self.draft.unique(call.place.path, True)
            at = self.draft.layer(call, Step("stochastic_depth", attrs), (part.slot,), name=name)
            return Part(at, part.shape, part.layout, part.index)
        name, layer = self.layers[call.target]
        parts = [self.draft.read(value, ("chw", "f")) for value in call.args]
        tensors = {key: self._held(tensor) for key, tensor in call.target.state_dict(keep_vars=True).items()}
        step = Step(layer.kind, dict(layer.attrs), tensors, layer.channels)
        extra = {"code": layer.code, "reason": layer.reason, "name": self.draft.unique(name)}
        at = self.draft.layer(call, step, tuple(part.slot for part in parts), **extra)
        shape = self.draft.shape(at)
        return Part(at, shape, "chw" if len(shape) == 3 else "f")

    def _held(self, tensor: Tensor) -> Constant:
        """Return the constant of a tensor that a module of the user's holds."""
        names = frozenset((self.names[tensor],)) if tensor in self.names else frozenset[str]()
        learned = names if isinstance(tensor, nn.Parameter) else frozenset[str]()
        return Constant(tensor, names, True, tensor._version, learned)

    def _opaque_call(self, call: Call, reason: str) -> None:
        """Keep a function for an opaque layer, or a module as one."""
        if not isinstance(call.target, nn.Module):
            self.regions.postpone(call, reason)
        elif call.reason or len(call.results) != 1:
            raise Refused(reason)
        else:
            self._opaque_module(call, reason)

    def _opaque_visit(self, visit: Visit, reason: str) -> None:
        """Translate a module as an opaque layer, if all that it shares with the rest are its inputs and one output."""
        inputs = set(leaves((visit.args, visit.kwargs), Value))
        if not isinstance(visit.output, Value) or not visit.start <= visit.output.made < visit.stop or not visit.bare:
            raise Refused(reason)
        for call in self.recording.calls[visit.start : visit.stop]:
            strange = [value for value in call.values if value.made < visit.start and value not in inputs]
            others = [value for value in call.results if value is not visit.output]
            if strange or any(self.last_read.get(value, -1) >= visit.stop for value in others):
                raise Refused(reason)
        call = Call(visit.module, visit.args, visit.kwargs, (visit.output,), visit.place, visit.start)
        self._opaque_module(call, reason)

    def _opaque_module(self, call: Call, reason: str) -> None:
        """Add the call of a module as an opaque layer."""
        output, values, place = call.results[0], list(dict.fromkeys(call.values)), call.place
        parts = [self.draft.read(value, tuple(SPACE)) for value in values]
        presentation, layouts = presentation_of(output, values, parts), [str(part.layout) for part in parts]
        try:
            code = code_of(call, layouts, presentation, self.names)
            own = {key: self.names[tensor] for key, tensor in call.target.named_parameters()}
            learned = code.learned if isinstance(code, Program) else own
            step = opaque_step(code, call.name, values, parts, learned)
        except ODD_ARGUMENTS:  # also of a module that cannot be copied
            raise Refused(reason) from None
        name = self.draft.unique(place.path, True)
        at = self.draft.layer(call, step, tuple(part.slot for part in parts), name=name, code=code, reason=reason)
        self.draft.give(output, Part(at, step.attrs["output"], presentation.layout))


def _lifetimes(recording: Recording) -> tuple[set[Value], dict[Value, int]]:
    """Return the values that the output depends on, and the position of the last call that reads each value."""
    needed = set(leaves(recording.output, Value))
    last = dict.fromkeys(needed, len(recording.calls))
    for call in reversed(recording.calls):
        for value in call.values:
            last.setdefault(value, call.position)
        if any(value in needed for value in call.results):
            needed.update(call.values)
    return needed, last
