"""Names for the parts of a generated program: from "stages.stage1.0.conv1" to `stage1_0_conv1`."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence

from torch import nn

from esnac_lib.architecture.export.python_modules import CLASSES
from esnac_lib.architecture.graph import Layer

MAX_ATTRIBUTE = 32  # characters; more, and too few calls fit on one line
MAX_VARIABLE = 22
MODULE_NAMES = frozenset(dir(nn.Module()))  # what an attribute of a module must not be called
OUTSIDE = frozenset({"F", "Tensor", "nn", "torch", *CLASSES})  # names of the generated program besides its class


def attribute_names(layers: Sequence[Layer]) -> list[str]:
    """Return one attribute name a layer: valid, unique, and free of what every `nn.Module` has already."""
    return _unique(layers, MODULE_NAMES, MAX_ATTRIBUTE)


def variable_names(layers: Sequence[Layer], taken: Iterable[str]) -> list[str]:
    """Return a short name for each layer's output: valid, unique, none of `taken`, Python's own or the program's."""
    return _unique(layers, {*taken, *dir(builtins), *OUTSIDE, "self"}, MAX_VARIABLE)


def is_class_name(name: object) -> bool:
    """Return whether a class of the generated program can have this name."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return False
    return name not in OUTSIDE and name not in dir(builtins) and not name.startswith("_")


def _unique(layers: Sequence[Layer], taken: Iterable[str], limit: int) -> list[str]:
    reserved = {*taken, *keyword.kwlist}
    names: dict[str, None] = {}  # in order
    for parts, layer in zip(_paths(layers), layers, strict=True):
        wanted = _identifier(parts, layer.kind, limit)
        if wanted in reserved:
            wanted = f"{wanted}_{layer.kind}"
        name, count = wanted, 1
        while name in names or name in reserved:
            count += 1
            name = f"{wanted}_{count}"
        names[name] = None
    return list(names)


def _identifier(parts: Sequence[str], kind: str, limit: int) -> str:
    """Return the end of a path that fits the limit, as one word; after the kind where that starts with a digit."""
    first = 0
    while first < len(parts) - 1 and len("_".join(parts[first:])) > limit:
        first += 1
    word = "_".join(parts[first:])[-limit:].strip("_")
    if word and not word[0].isdigit():
        return word
    return kind + word[-(limit - len(kind)) :]


def _paths(layers: Sequence[Layer]) -> list[list[str]]:
    """Return the layers' names in parts, each of ASCII letters, digits and underscores.

    An outermost container whose members are all containers with names of their own, like the "stages" of
    "stages.stage1.0.conv1", says nothing and is left out, unless two layers would get one name by that.
    """
    paths = [_parts(layer.name) for layer in layers]
    for outermost in dict.fromkeys(path[0] for path in paths if path):
        members = [path for path in paths if path[:1] == [outermost]]
        if all(len(path) > 2 and not path[1][0].isdigit() for path in members):
            shorter = [path[1:] if path[:1] == [outermost] else path for path in paths]
            if len({"_".join(path) for path in shorter}) == len({"_".join(path) for path in paths}):
                paths = shorter
    return paths


def _parts(name: str) -> list[str]:
    cleaned = (re.sub(r"[^0-9A-Za-z]+", "_", part).strip("_") for part in name.split("."))
    return [part for part in cleaned if part]
