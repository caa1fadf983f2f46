"""A digest of code that runs as it is, for opaque layers: their graph says nothing of what they compute.

It reads what is loaded, not a file that may have changed since: the instructions and constants of functions, whatever
these name in their modules, and what objects and classes hold. What comes with Python, PyTorch, NumPy or this library
counts by its name. Neither comments nor places in a file count, nor the numbers in tensors of a module's state: they
are its weights.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.files import digest

_BY_NAME = sys.stdlib_module_names | {"torch", "numpy", "esnac_lib"}
_PLAIN = (int, float, complex, str, bytes, type(None), type(...), slice, torch.dtype, torch.device, torch.memory_format)
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}  # state, and hooks


def code_digest(code: Any, numbers: bool = False) -> str:
    """Return a hash of a module or function: the same in every process with this version of Python.

    numbers: whether those in arrays and tensors outside of a module's state count, which may be drawn at random.
    """
    return hashlib.blake2b(_Reader(numbers).text(code).encode(), digest_size=16).hexdigest()


class _Reader:
    """Reads values into a text; what was read before is referred to by its number, so that circles end."""

    def __init__(self, numbers: bool) -> None:
        self._numbers = numbers
        self._seen: dict[int, tuple[int, Any]] = {}  # the values too, so that none is freed and its id taken

    def text(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._seen:
            return f"#{self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value
        return f"{type(value).__qualname__}({', '.join(self._parts(value))})"

    def _parts(self, value: Any) -> Iterable[str]:
        if isinstance(value, Tensor):
            shape = f"{value.dtype} {tuple(value.shape)}"
            return [shape, digest({"": value.detach().cpu()}) if self._numbers else ""]
        if isinstance(value, np.ndarray):
            return [f"{value.dtype} {value.shape}", value.tobytes().hex() if self._numbers else ""]
        if isinstance(value, Mapping):
            return [f"{self.text(key)}: {self.text(item)}" for key, item in value.items()]
        if isinstance(value, tuple | list | deque):
            return map(self.text, value)
        if isinstance(value, set | frozenset):
            return sorted(map(self.text, value))
        if isinstance(value, functools.partial):
            return map(self.text, (value.func, value.args, value.keywords))
        if isinstance(value, MethodType):
            return map(self.text, (value.__self__, value.__func__))
        if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            return [str(value.code)]
        if isinstance(value, CodeType):
            described = not value.co_name.startswith("<") and isinstance(next(iter(value.co_consts), None), str)
            consts = value.co_consts[described:]  # a comprehension has no docstring
            return [value.co_code.hex(), *value.co_names, *map(self.text, consts)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        return self._object(value)

    def _function(self, value: FunctionType) -> Iterable[str]:
        yield _name(value)
        if not _by_name(value):
            yield from map(self.text, (value.__code__, value.__defaults__, value.__kwdefaults__))
            yield from (self.text(cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell))
            yield from map(self.text, _outer(value))

    def _class(self, value: type) -> Iterable[str]:
        yield _name(value)
        if not _by_name(value):
            yield from map(self.text, value.__bases__)
            for name, item in sorted(vars(value).items()):
                function = _under(item)
                if name == "__init__" and issubclass(value, nn.Module):
                    continue  # what it built is in the object itself
                if isinstance(function, FunctionType) or not name.startswith("__"):
                    yield f"{name}: {self.text(function)}"

    def _object(self, value: Any) -> Iterable[str]:
        yield self.text(type(value))
        if callable(value) and not isinstance(value, nn.Module):
            yield _name(value)
        if _by_name(type(value)) and not isinstance(value, nn.Module | SimpleNamespace):
            yield re.sub("0x[0-9a-fA-F]+", "", repr(value))
            yield self.text(getattr(value, "__wrapped__", None))  # the function whose results are cached
            return
        own = dict(getattr(value, "__dict__", {}))
        kinds = [vars(kind) for kind in type(value).__mro__ if not _by_name(kind)]
        slots = [name for kind in kinds for name, item in kind.items() if isinstance(item, MemberDescriptorType)]
        own |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        if isinstance(value, nn.Module):
            own = {name: item for name, item in own.items() if name not in _OF_EVERY_MODULE}
            state = value.state_dict(keep_vars=True)
            own |= {name: tensor for name, tensor in value.named_buffers(recurse=False) if name not in state}
            trained = {name: tensor.requires_grad for name, tensor in value.named_parameters(recurse=False)}
            own |= {"trained": trained, "parts": dict(value.named_children())}
        yield from (f"{name}: {self.text(item)}" for name, item in sorted(own.items()))


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
    return f"{getattr(value, '__module__', '')}.{name}"


def _by_name(value: Any) -> bool:
    place = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(place or "builtins").partition(".")[0] in _BY_NAME


def _names(code: CodeType) -> Iterable[str]:
    """Return all names that code and the code within it read from outside."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _outer(function: FunctionType) -> Iterable[Any]:
    """Return what a function names in its module, in modules of the user's that it names, and in those it imports."""
    names = list(dict.fromkeys(_names(function.__code__)))
    seen: list[Any] = [function.__globals__[name] for name in names if name in function.__globals__]
    seen += [sys.modules[name] for name in _imports(function.__code__) if name in sys.modules]
    for item in seen:  # grows meanwhile
        if not isinstance(item, ModuleType):
            yield item
        elif not _by_name(item):
            inner = [vars(item)[name] for name in names if name in vars(item)]
            seen += [found for found in inner if not any(found is known for known in seen)]


def _imports(code: CodeType) -> Iterable[str]:
    """Return the modules that code and the code within it import when they run."""
    yield from (found.argval for found in dis.get_instructions(code) if found.opname == "IMPORT_NAME")
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _imports(const)


def _under(item: Any) -> Any:
    """Return the function that a method's or property's descriptor calls, or the item."""
    if isinstance(item, functools.cached_property):
        return item.func
    return getattr(item, "fget", getattr(item, "__func__", item))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
