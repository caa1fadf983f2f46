"""Names for the parts of a generated program: from "stages.stage1.0.conv1" to `stage1_0_conv1`."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count

from torch import nn

from esnac_lib.architecture.export.python_modules import CLASSES
from esnac_lib.architecture.graph import Layer

MAX_ATTRIBUTE = 32  # characters; more, and too few calls fit on one line
MAX_VARIABLE = 22
MODULE_NAMES = frozenset(dir(nn.Module()))  # what an attribute of a module must not be called
IMPORTED, WRITTEN = ("F", "Tensor", "nn", "torch"), ("CLASSES", "MEAN", "STD", "predict", "preprocess")
OUTSIDE = frozenset({*IMPORTED, *WRITTEN, *CLASSES})  # names of the generated program besides its class


def attribute_names(layers: Sequence[Layer]) -> list[str]:
    """Return one attribute name a layer: valid, unique, and free of what every `nn.Module` has already."""
    return _unique(layers, MODULE_NAMES, MAX_ATTRIBUTE)


def variable_names(layers: Sequence[Layer], taken: Iterable[str]) -> list[str]:
    """Return a short name for each layer's output: valid, unique, none of `taken`, Python's own or the program's."""
    return _unique(layers, {*taken, *dir(builtins), *OUTSIDE, "self"}, MAX_VARIABLE)


def is_class_name(name: object) -> bool:
    """Return whether a class of the generated program can have this name."""
    valid = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
    return valid and name not in {*keyword.kwlist, *OUTSIDE, *dir(builtins)}


def _unique(layers: Sequence[Layer], taken: Iterable[str], limit: int) -> list[str]:
    reserved = {*taken, *keyword.kwlist}
    names: dict[str, None] = {}  # in order
    for parts, layer in zip(_paths(layers), layers, strict=True):
        wanted = _identifier(parts, layer.kind, limit)
        if wanted in reserved:
            wanted = f"{wanted}_{layer.kind}"
        candidates = chain([wanted], (f"{wanted}_{number}" for number in count(2)))
        names[next(name for name in candidates if name not in names and name not in reserved)] = None
    return list(names)


def _identifier(parts: Sequence[str], kind: str, limit: int) -> str:
    """Return the end of a path that fits the limit, as one word; after the kind where that starts with a digit."""
    ends = ("_".join(parts[first:]) for first in range(len(parts)))
    word = next((end for end in ends if len(end) <= limit), "_".join(parts[-1:]))[-limit:].strip("_")
    return word if word and not word[0].isdigit() else kind + word[-(limit - len(kind)) :]


def _paths(layers: Sequence[Layer]) -> list[list[str]]:
    """Return the layers' names in parts, each of ASCII letters, digits and underscores.

    An outermost container whose members are all containers with names of their own, like the "stages" of
    "stages.stage1.0.conv1", says nothing and is left out, unless two layers would get one name by that.
    """
    cleaned = [[re.sub(r"[^0-9A-Za-z]+", "_", part).strip("_") for part in layer.name.split(".")] for layer in layers]
    paths = [list(filter(None, parts)) for parts in cleaned]
    for outermost in dict.fromkeys(path[0] for path in paths if path):
        members = [path for path in paths if path[:1] == [outermost]]
        if all(len(path) > 2 and not path[1][0].isdigit() for path in members):
            shorter = [path[1:] if path[:1] == [outermost] else path for path in paths]
            if len({"_".join(path) for path in shorter}) == len({"_".join(path) for path in paths}):
                paths = shorter
    return paths
