"""One run of a module, recorded: every call that touched a tensor computed from the input, in order.

    >>> recording = record(module, images)
    >>> [call.name for call in recording.calls]        # ["conv2d", "batch_norm", "relu", ...]

The run is real, so Python's control flow on shapes needs no support. What depends on the *values* of the input in
Python (`if x.mean() > 0`, `x.item()`) was decided by these images alone: such a call carries a `reason` why it cannot
be trusted. Tensors are not kept, apart from constants.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from esnac_lib.architecture.tracing.calls import (
    Call,
    Constant,
    Expression,
    Place,
    Recording,
    Value,
    Visit,
    leaves,
    name_of,
    replaced,
)
from esnac_lib.errors import TraceError, one_line


def record(module: nn.Module, images: Tensor, atomic: Callable[[nn.Module], bool] = lambda module: False) -> Recording:
    """Run a module once on images (B, C, H, W) and record what it calls.

    A module for which `atomic` is true counts as one call, whatever it does inside. The mode is the caller's;
    gradients are on, so that what stops them shows. Where the run fails, TraceError names the module's path.
    """
    recorder = _Recorder(module, images, atomic)
    before = register_module_forward_pre_hook(recorder.enter)
    after = register_module_forward_hook(recorder.leave, with_kwargs=True)
    try:
        with torch.enable_grad(), recorder, before, after, _scripted_functions_seen(recorder):
            output = module(recorder.images)
    except Exception as error:
        what = f"{type(module).__name__} fails on an input of shape {tuple(images.shape)} at {recorder.place()}"
        raise TraceError(f"{what}: {one_line(error, kind=False)}") from None
    return Recording(recorder.root, recorder.calls, recorder.input, recorder.noted(output), output)


@contextmanager
def _scripted_functions_seen(recorder: _Recorder) -> Iterator[None]:
    """Record the calls of functions of `torch.jit.script`, which PyTorch does not show to a mode."""
    kind: Any = torch.jit.ScriptFunction
    original = kind.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        run = partial(original, function)
        run.__name__ = function.name  # type: ignore[attr-defined]
        return recorder.__torch_function__(run, (), args, kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = original


# Functions of a tensor that show its form and not its values.
_FORM = frozenset({
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "storage_offset", "element_size",
    "is_floating_point", "is_complex", "is_signed", "is_inference", "is_conj", "is_neg", "is_same_size", "get_device",
    "has_names", "data_ptr", "__len__", "__hash__", "__get__", "requires_grad_", "_is_view", "retain_grad",
})  # fmt: skip
_HARMLESS = (type(None), type(NotImplemented), str, torch.dtype, torch.device, torch.Size, torch.layout,
             torch.memory_format)  # fmt: skip
# New tensors of a given tensor's form, without its values.
_OF_FORM = frozenset({
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like", "rand_like", "randn_like", "randint_like",
})  # fmt: skip
# What a constant does by the form of another tensor, and what is the same without that.
_BY_FORM: Mapping[str, tuple[Any, Callable[[Tensor], tuple[Any, ...]]]] = {
    **dict.fromkeys(("to", "type_as"), (Tensor.to, lambda other: (other.device, other.dtype))),
    **dict.fromkeys(("view_as", "reshape_as"), (Tensor.reshape, lambda other: (other.shape,))),
    "expand_as": (Tensor.expand, lambda other: (other.shape,)),
}
_SHAPED_BY_VALUES = frozenset({
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "histc", "nonzero_static",
})  # fmt: skip


def _reads_values(function: Any, result: Any) -> bool:
    """Return whether a result without tensors shows Python something about the values of a tensor."""
    name = getattr(function, "__name__", "")
    return name == "__set__" if isinstance(result, _HARMLESS) else name not in _FORM  # x.data = y gives None


def _shaped_by_values(function: Any, args: Any, indices: list[Value]) -> bool:
    name = name_of(function)
    by_mask = name == "getitem" and any(value.dtype in (torch.bool, torch.uint8) for value in indices)
    return name in _SHAPED_BY_VALUES or by_mask or (name == "where" and len(args) == 1)


_LIBRARIES = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (str(torch.__file__), __file__))


def _user_line() -> str:
    """Return the innermost line of code outside PyTorch and this library, within the run: "model.py:88"."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not record.__code__:
        if not os.path.abspath(frame.f_code.co_filename).startswith(_LIBRARIES):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class _Recorder(TorchFunctionMode):
    """Sees the functions of PyTorch that are called while it is entered, and through its hooks the modules.

    `values` has for each living tensor made of the input its Value and its version: PyTorch counts the changes in place
    of a tensor together with those of its views, so a change that came another way is noticed. `origins` has for other
    tensors what they were computed from, None: not clear; `made` how, if that was from parameters.
    """

    def __init__(self, module: nn.Module, images: Tensor, atomic: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.atomic = atomic
        self.thread = threading.get_ident()
        self.paths = {part: path for path, part in module.named_modules()}
        self.values = WeakTensorKeyDictionary()
        self.origins = WeakTensorKeyDictionary()
        self.made = WeakTensorKeyDictionary()
        self.parameters = frozenset(name for name, _ in module.named_parameters())
        self.own = {id(parameter) for parameter in module.parameters()}
        for part in module.modules():
            for tensor in leaves({**vars(part), "_modules": None}, Tensor):
                self.origins[tensor] = frozenset()
        for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
            self.origins[tensor] = frozenset((name,))
        self.calls: list[Call] = []
        self.stack: list[Visit] = []
        self.images = images.clone()
        self.input = self._new(self.images)

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before a module's forward."""
        if threading.get_ident() != self.thread:
            return
        with torch._C.DisableTorchFunction():
            if self.stack and self._is_atomic(self.stack[-1].module):
                self.stack.append(Visit(module, "", 0, ()))
                return
            path = self.paths.get(module)
            if path is None:  # made during the run
                path = f"{self.stack[-1].path}.{type(module).__name__}" if self.stack else ""
            noted = self.noted(args)  # which may add a call
            visit = Visit(module, path, len(self.calls), noted, bare=self._is_bare(module))
            if self.stack:
                self.stack[-1].items.append(visit)
            else:
                self.root = visit
            self.stack.append(visit)
            visit.place = self.place()

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """After a module's forward; what is returned takes the place of its output."""
        if threading.get_ident() != self.thread:
            return None
        with torch._C.DisableTorchFunction():
            while self.stack[-1].module is not module:  # an error was raised in these, and the user caught it
                self.stack.pop()
            visit = self.stack.pop()
            if self.stack and self._inside_atomic():
                return None
            visit.kwargs = self.noted(kwargs)
            if self._is_atomic(module):
                return self._leave_atomic(visit, args, output)
            self.stack.append(visit)  # which what is noted here belongs to
            found = [tensor for tensor in leaves(output, Tensor) if tensor not in self.values]
            if strange := [tensor for tensor in found if self.origins.get(tensor) is None]:
                reason = "its output comes out of code that cannot be followed"
                self._add(visit, visit.place, module, visit.args, visit.kwargs, strange, reason=reason)
            visit.output, visit.stop = self.noted(output), len(self.calls)
            self.stack.pop()
        return None

    def _leave_atomic(self, visit: Visit, args: Any, output: Tensor) -> Tensor:
        """Record an atomic module as one call in place of its visit."""
        parent = self.stack[-1]
        parent.items.remove(visit)
        if any(output is tensor for tensor in leaves(args, Tensor)):
            output = output.view_as(output)  # an object of its own, since what it stands for is another value
        self._add(parent, visit.place, visit.module, visit.args, visit.kwargs, [output])
        return output

    def _is_bare(self, module: nn.Module) -> bool:
        """Return whether a copy of a module would do the same: here it runs with its own parameters, and gradients."""
        own = all(id(parameter) in self.own for parameter in module.parameters())  # unlike under `functional_call`
        return own and torch.is_grad_enabled() and not self._autocasts()

    def _is_atomic(self, module: nn.Module) -> bool:
        return module is not self.root.module and self.atomic(module)

    def _inside_atomic(self) -> bool:
        return any(self._is_atomic(visit.module) for visit in self.stack)

    def place(self) -> Place:
        """Return the place of the current call."""
        if not self.stack:
            return Place("", type(next(iter(self.paths))).__name__, "")
        module, path = self.stack[-1].module, self.stack[-1].path
        plain = type(module).__module__.startswith("torch.nn.")
        return Place(path, type(module).__name__, _user_line(), plain, bool(module._parameters or module._buffers))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.stack or self._inside_atomic():
            return func(*args, **kwargs)
        if func is Tensor.__iter__:
            return iter(self.__torch_function__(Tensor.unbind, types, (args[0], 0)))
        if len(args) == 2 and name_of(func) in _BY_FORM and args[0] not in self.values and args[1] in self.values:
            func, form = _BY_FORM[name_of(func)]
            args = (args[0], *form(args[1]))
        given = list(leaves((args, kwargs), Tensor))
        if name_of(func) in _OF_FORM or not any(tensor in self.values for tensor in given):
            return self._constant_call(func, args, kwargs, given)
        noted = self.noted(args), self.noted(kwargs)
        versions = [tensor._version for tensor in given]
        stops = not torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        result = func(*args, **kwargs)
        written = [tensor for tensor, before in zip(given, versions, strict=True) if tensor._version != before]
        if any(result is tensor for tensor in given) and not any(result is tensor for tensor in written):
            result = result.view_as(result)  # an argument as it was (a dropout in eval mode), a tensor of its own
        self._touched(func, noted, result, written, stops)
        return result

    def _constant_call(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """Run a function of constants alone, and note what its results were computed from, and how."""
        versions = [tensor._version for tensor in given]
        noted = self.noted(args), self.noted(kwargs)
        result = func(*args, **kwargs)
        sources = [self.origins.get(tensor) for tensor in given if tensor not in self.values]
        if name_of(func) in _OF_FORM:
            sources = []
        origin = None if None in sources else frozenset[str]().union(*sources)
        for tensor, before in zip(given, versions, strict=True):
            if tensor._version != before:
                self.origins[tensor] = origin
                self.made.pop(tensor, None)  # what it was computed by is not all any more
        for pick, tensor in enumerate(leaves(result, Tensor)):
            if any(tensor is other for other in given):
                continue
            self.origins[tensor] = origin
            if origin and origin & self.parameters and torch.is_grad_enabled():
                self.made[tensor] = Expression(func, *noted, pick)
        return result

    def _touched(self, func: Any, noted: tuple[Any, Any], result: Any, written: list[Tensor], stops: bool) -> None:
        """Record a call that read a tensor made of the input; `stops`: it ran without the gradients that it needs."""
        results = list(leaves(result, Tensor))
        hidden = [tensor for tensor in written if not any(tensor is other for other in results)]
        reason = ""
        if not results and not hidden:
            if not _reads_values(func, result):
                return
            reason = "Python reads the values of a tensor here, and goes on by them"
            if "hook" in name_of(func):
                reason = "a hook on its gradient"
        elif _shaped_by_values(func, noted[0], list(leaves(noted[0][1:], Value))):
            reason = "the shape of its result depends on the values of a tensor"
        elif self._autocasts():
            reason = "runs under autocast: give the module without it"
        elif stops:
            reason = "runs without gradients: under no_grad, or in a function with a backward of its own"
        self._add(self.stack[-1], self.place(), func, *noted, results + hidden, written=bool(hidden), reason=reason)

    def _autocasts(self) -> bool:
        return torch.is_autocast_enabled(self.images.device.type)

    def _add(
        self, visit: Visit, place: Place, target: Any, args: Any, kwargs: Any, results: list[Tensor], **marks: Any
    ) -> Call:
        made = tuple(self._new(tensor) for tensor in results)
        call = Call(target, args, kwargs, made, place, len(self.calls), **marks)
        self.calls.append(call)
        visit.items.append(call)
        return call

    def _new(self, tensor: Tensor) -> Value:
        made = len(self.calls) if self.stack else -1
        value = Value(tuple(tensor.shape), tensor.dtype, tensor.device, made, tensor.requires_grad)
        self.values[tensor] = (value, tensor._version)
        return value

    def noted(self, tree: Any) -> Any:
        """Return nested arguments with Values and Constants in place of tensors."""
        return replaced(tree, Tensor, self._note)

    def _note(self, tensor: Tensor) -> Value | Constant:
        if tensor not in self.values:
            origin, made = self.origins.get(tensor), self.made.get(tensor)
            names = origin or frozenset[str]()
            return Constant(tensor, names, origin is not None, tensor._version, names & self.parameters, made)
        value, version = self.values[tensor]
        if version != tensor._version:
            reason = "reads a tensor that was changed in place by another name"
            visit, place = self.stack[-1], self.place()
            return self._add(visit, place, Tensor.view_as, (value,), {}, [tensor], written=True, reason=reason).results[
                0
            ]
        return value
