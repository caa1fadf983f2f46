"""Code that is not understood, as a layer: it runs as it is, and the channels that it touches stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib.architecture.layer_types import Shape
from esnac_lib.architecture.tracing.calls import Call, Constant, Value, leaves, replaced
from esnac_lib.architecture.tracing.draft import Part
from esnac_lib.architecture.tracing.movement import SPACE, present, restore
from esnac_lib.architecture.tracing.readers import Refused, Step
from esnac_lib.architecture.tracing.traceable import functions
from esnac_lib.errors import one_line


class Presentation(NamedTuple):
    """How code presents its result: the layout (`movement`), and its height and width where that hides them."""

    layout: str
    size: tuple[int, ...]


class Hole(NamedTuple):
    """Where a tensor stands among arguments: an input or a result by its number, or a tensor or module by its name."""

    number: int
    name: str = ""


BATCH = Hole(-2)  # the number of images, in a size
_SIZES = frozenset(functions("view", "reshape", "expand", "broadcast_to", "repeat", "tile", "affine_grid"))


class Instruction(NamedTuple):
    """One call of a program; its results have the numbers from `first` on."""

    target: Any  # a function, or the hole of a module
    args: Any
    kwargs: Any
    first: int

    def __deepcopy__(self, memo: Any) -> Instruction:
        return self  # functions of scripts cannot be copied, and nothing here changes


class Program(nn.Module):
    """Some calls, in order, as a module from maps (B, C, H, W) or features (B, F) to one of these.

    Constants are held as "constant0" and so on: parameters where they are the user's, buffers where they were computed
    from none; what was computed from parameters is computed again each time. Modules are copies of the user's.

    inputs: the values that it is given, each in its layout; names: of the user's parameters; `learned` has them by
    their names here.
    """

    def __init__(
        self, calls: Iterable[Call], inputs: Sequence[Value], layouts: Sequence[str], names: Mapping[Tensor, str]
    ) -> None:
        super().__init__()
        self.layouts, self.names = tuple(layouts), names
        self.instructions: list[Instruction] = []
        self.learned: dict[str, str] = {}
        self.clones = False  # its inputs, because it changes them in place
        self.output, self.presentation = -1, Presentation("chw", ())
        self.batch, self.fixed = inputs[0].shape[0] if inputs else 0, False  # whether that is no number of images
        self._count = len(inputs)
        self._holes: dict[Any, Hole] = {value: Hole(place) for place, value in enumerate(inputs)}
        for call in calls:
            self._add(call)

    def ending(self, output: Value, presentation: Presentation) -> Program:
        """Return this program once it gives this value, presented so."""
        self.output, self.presentation = self._holes[output].number, presentation
        del self._holes, self.names
        return self

    def _add(self, call: Call) -> None:
        args, kwargs = self._filled_later(call.target, call.args, call.kwargs)
        target = call.target
        if isinstance(target, nn.Module):
            name = f"module{len(self.instructions)}"
            self.add_module(name, _copied(target))
            self.learned |= {f"{name}.{key}": self.names[tensor] for key, tensor in target.named_parameters()}
            target = Hole(-1, name)
        self.instructions.append(Instruction(target, args, kwargs, self._count))
        for value in call.results:
            self._holes[value] = Hole(self._count)
            self._count += 1

    def _filled_later(self, target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return arguments with holes for tensors, and for the number of images where a size begins with it."""
        args, kwargs = replaced((args, kwargs), (Value, Constant), self._hole)
        if target in _SIZES and len(args) > 1:
            first, *rest = args[1] if isinstance(args[1], tuple | list) else args[1:]
            if type(first) is int and first == self.batch:
                args = (args[0], BATCH, *rest) if args[1] is first else (args[0], (BATCH, *rest), *args[2:])
        return args, kwargs

    def _hole(self, leaf: Value | Constant) -> Hole:
        key = leaf if isinstance(leaf, Value) else id(leaf.tensor)
        if key not in self._holes:
            assert isinstance(leaf, Constant)
            self._holes[key] = self._computed(leaf) if leaf.learned and leaf.made else self._held(leaf)
        return self._holes[key]

    def _computed(self, constant: Constant) -> Hole:
        assert constant.made is not None
        target, args, kwargs, pick = constant.made
        args, kwargs = self._filled_later(target, args, kwargs)
        self.instructions.append(Instruction(target, args, kwargs, self._count))
        self._count += 1 + pick
        return Hole(self._count - 1)

    def _held(self, constant: Constant) -> Hole:
        name, tensor = f"constant{len(self._parameters) + len(self._buffers)}", constant.tensor.detach().clone()
        if isinstance(constant.tensor, nn.Parameter):
            self.register_parameter(name, nn.Parameter(tensor))
            self.learned |= dict.fromkeys((name,), *constant.learned)
        elif constant.learned:
            names = ", ".join(sorted(constant.learned))
            raise Refused(f"reads what was computed from {names} without gradients, or changed in place")
        elif len(tensor.shape) > 1 and len(tensor) == self.batch and bool((tensor == tensor[:1]).all()):
            self.register_buffer(name, tensor[:1].clone())  # the same for every image
            self.instructions.append(Instruction(_for_each, (Hole(-1, name), BATCH), {}, self._count))
            self._count += 1
            return Hole(self._count - 1)
        else:
            self.register_buffer(name, tensor)
        return Hole(-1, name)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map (B, C, H, W) or features (B, F) to one of these."""
        shown = [present(x, layout) for x, layout in zip(inputs, self.layouts, strict=True)]
        values = dict(enumerate([x.clone() for x in shown] if self.clones else shown))

        def filled(hole: Hole) -> Any:
            if hole is BATCH:
                return self.batch if self.fixed else len(shown[0])
            return getattr(self, hole.name) if hole.name else values[hole.number]

        for target, args, kwargs, first in self.instructions:
            args, kwargs = replaced((args, kwargs), Hole, filled)
            result = (filled(target) if isinstance(target, Hole) else target)(*args, **kwargs)
            values.update(enumerate(leaves(result, Tensor), first))
        return restore(values[self.output], *self.presentation)


def _for_each(x: Tensor, images: int) -> Tensor:
    return x.expand(images, *x.shape[1:])


def code_of(call: Call, layouts: Sequence[str], presentation: Presentation, names: Mapping[Tensor, str]) -> nn.Module:
    """Return a copy of the user's module that a call runs, inside a program where it is not called with maps alone."""
    natural = {*layouts, presentation.layout} <= {"chw", "f"} and len(call.args) == len(layouts)
    if natural and not call.kwargs and all(isinstance(item, Value) for item in call.args):
        return _copied(call.target)
    program = Program([call], list(dict.fromkeys(call.values)), layouts, names)
    return program.ending(call.results[0], presentation)


def _copied(module: nn.Module) -> nn.Module:
    with torch.enable_grad():  # without, the parameters of a scripted module would not be learned any more
        return deepcopy(module)


def presentation_of(output: Value, inputs: Sequence[Value], parts: Sequence[Part]) -> Presentation:
    """Return how opaque code presents its result: as one of its inputs is, or as plain maps or features."""
    if inputs and output.dtype != inputs[0].dtype:
        raise Refused(f"puts out numbers of {output.dtype}, which no other layer takes")
    for value, part in zip(inputs, parts, strict=True):
        layout = str(part.layout)
        if layout in ("hwc", "nc", "cn") and len(value.shape) == len(output.shape):
            if all(value.shape[dim] == output.shape[dim] for dim in SPACE[layout]):
                return Presentation(layout, part.shape[1:])
            raise Refused("puts out what is no map")
    if len(output.shape) not in (2, 4) or not output.dtype.is_floating_point or not inputs:
        raise Refused("puts out what is no map and no features")
    return Presentation("f" if len(output.shape) == 2 else "chw", ())


def opaque_step(
    code: nn.Module, what: str, inputs: Sequence[Value], parts: Sequence[Part], learned: Mapping[str, str]
) -> Step:
    """Return the layer that runs code on parts, which is tried first. Raises ValueError as `trial`.

    learned: the user's parameters by the names that they have in the code.
    """
    shapes = tuple(part.shape for part in parts)
    output, macs = trial(code, inputs, shapes)
    state, trained = code.state_dict(keep_vars=True), dict(code.named_parameters())
    tensors = tuple((key, tuple(tensor.shape), key in trained) for key, tensor in state.items())
    attrs = {"what": what, "inputs": shapes, "output": output, "tensors": tensors, "macs": macs}
    names = {key: frozenset(name for name in (learned.get(key),) if name) for key in state}
    constants = {key: Constant(t, names[key], True, t._version, names[key]) for key, t in state.items()}
    return Step("opaque", attrs, constants)


def trial(code: nn.Module, inputs: Sequence[Value], shapes: Sequence[Shape]) -> tuple[Shape, int]:
    """Run opaque code on noise; return its output shape for one image, and its multiply-accumulates.

    Raises ValueError if it fails, or if its output for an image depends on the others of the batch, or on chance.
    """
    random = torch.Generator().manual_seed(0)
    batch = [
        torch.randn(2, *shape, generator=random, dtype=torch.float32).to(value.device, value.dtype)
        for value, shape in zip(inputs, shapes, strict=True)
    ]
    try:
        both = _alike_alone(code, batch)
    except ValueError:
        if not isinstance(code, Program):
            raise
        code.fixed = True
        both = _alike_alone(code, batch)
    return tuple(both.shape[1:]), _macs(code, [x[:1] for x in batch])


def _alike_alone(code: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Return the output of opaque code for a batch. Raises ValueError unless each image gets the same by itself."""
    given = [x.clone() for x in batch]
    try:
        both: Tensor = code(*given)
        single = [code(*[x[i : i + 1].clone() for x in batch]) for i in range(2)]
    except Exception as error:
        raise ValueError(f"it fails by itself: {one_line(error, kind=False)}") from None
    if isinstance(code, Program):
        code.clones = any(x._version for x in given)
    scale = float(both.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) if both.numel() else 0.0
    alike = both.shape[1:] == single[0].shape[1:] and len(single[0]) == 1
    if not alike or not torch.allclose(both, torch.cat(single), 0.0, 1e-3 * scale, equal_nan=True):
        raise ValueError("what it gives for an image depends on the other images of the batch, or on chance")
    return both


def _macs(code: nn.Module, image: Sequence[Tensor]) -> int:
    """Return the multiply-accumulates of one image; 0 if PyTorch cannot count them."""
    try:
        with FlopCounterMode(display=False) as counter:
            code(*image)
    except Exception:
        return 0
    return int(counter.get_total_flops()) // 2
