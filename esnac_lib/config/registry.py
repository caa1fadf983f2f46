"""Registries: what a researcher adds to the library (a sampler, an operator, an objective, a teacher, a data set).

    from esnac_lib.samplers import SAMPLERS, SamplerEntry

    SAMPLERS.register(SamplerEntry("mine", ...))       # from now on StudyConfig(sampler="mine") is valid

Each registry is the only list of its kind, and lives in the package of what it lists. The parameters are checked below
those packages, which they do not import: `registry` finds a registry by the name of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

from esnac_lib.errors import ConfigError

_HOMES = {
    "sampler": ("esnac_lib.samplers.registry", "SAMPLERS"),
    "operator": ("esnac_lib.space.registry", "OPERATORS"),
    "objective": ("esnac_lib.objective", "OBJECTIVES"),
    "teacher": ("esnac_lib.teachers.registry", "TEACHERS"),
    "dataset": ("esnac_lib.data.registry", "DATASETS"),
}


ALIKE = 0.6  # the least likeness of two names, from 0 to 1, at which one may be meant by the other


class Entry(Protocol):
    """A row of a registry."""

    @property
    def name(self) -> str:
        """What a config calls it."""


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """An ordered table of entries by name; `kind` is what is listed, as the config's parameter calls it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}

    def register(self, entry: E) -> E:
        """Add an entry, and return it. Raises `ConfigError` where another entry has the name."""
        if self._entries.setdefault(entry.name, entry) is not entry:
            raise ConfigError(f"{self.kind} {entry.name!r} is registered already: give the new one another name")
        return entry

    def unregister(self, name: str) -> None:
        """Remove an entry; nothing happens where there is none."""
        self._entries.pop(name, None)

    def __getitem__(self, name: str) -> E:
        """Return the entry of that name."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"


def registry(kind: str) -> Registry[Any]:
    """Return the registry of a kind (a key of `_HOMES`), with the library's entries; PyTorch is not loaded."""
    home, name = _HOMES[kind]
    return getattr(import_module(home), name)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message on an unknown name, with a known one that is like it; empty where none is."""
    near = nearest(name, names)
    alike = SequenceMatcher(None, name.lower(), near.lower()).ratio() >= ALIKE
    return f"; did you mean {near!r}?" if alike else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that looks most like `name`, whatever the case; the first of equals."""
    return max(names, key=lambda other: SequenceMatcher(None, name.lower(), other.lower()).ratio(), default="")
