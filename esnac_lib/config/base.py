"""What the configs of all notebooks have in common: flat, frozen, strict, and wrong values explained in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from esnac_lib.config.registry import nearest
from esnac_lib.errors import ConfigError

KERNEL_LOSSES = ("posterior", "marginal", "euclidean")

_IPYTHON_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open", "display"})


class FlatConfig(BaseModel):
    """What the configs of all notebooks have in common.

    Every way to make one (`Config(...)`, `from_dict`, `from_notebook`) raises `ConfigError` in one line, which names
    the first wrong value, what is allowed and the nearest choice. Types are strict: True is no integer, 8.0 is none
    either, and neither NaN nor infinity is a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the values of parameters that are not given."""
        return {name: field.default for name, field in cls.model_fields.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data (text, numbers, truth values) in the order of the fields, fit for YAML and JSON."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these values, and defaults for the rest. Raises `ConfigError`."""
        return cls.model_validate(dict(values))

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """The config that a ledger stores, also one of an earlier version. Raises `ConfigError`."""
        return cls.from_dict(upgraded(stored))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """The config that a notebook's parameters make; `namespace` is its `globals()`.

        A name that is no parameter raises `ConfigError` when it holds plain data (what papermill can pass, and a
        `Path`); names that start with "_", IPython's own, modules, callables and other objects are no parameters.
        """
        return cls.from_dict({name: value for name, value in namespace.items() if _is_parameter(cls, name, value)})

    def held(self, stored: Mapping[str, Any]) -> Mapping[str, str]:
        """Return what a study keeps when it is resumed: each parameter's name with a note (may be empty).

        Args:
            stored: All parameters that it was started with.
        """
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(f"{name} = {show(value)}: a config does not change; make a new one with the other value")

    @model_validator(mode="wrap")
    @classmethod
    def _tell_in_one_line(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(values)._check_together()
        except ValidationError as error:
            faults = error.errors(include_url=False)
        others = [show(fault["loc"][0]).strip("'") for fault in faults[1:]]
        more = f" ({len(others)} more wrong: {', '.join(others)})" if others else ""
        raise ConfigError(_explain(cls, faults[0]) + more)

    def _check_together(self) -> Self:
        """Raise `ConfigError` where values that are right alone do not fit together; returns the config to use."""
        return self


def folder_name(value: str, parts: int = 1, more: str = "") -> str:
    """The value of a parameter `study`, made of names of folders. Raises ValueError, for pydantic to tell."""
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", part) for part in value.split("/", parts - 1)):
        allowed = "1 to 100 letters, digits, '-', '_' and '.' are allowed, the first a letter, digit or '_'"
        raise ValueError(f"study = {show(value)} is no name of a folder: {allowed}{more}")
    return value


def upgraded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that a ledger of an earlier version stores, by the names that they have today."""
    values = dict(stored)
    if "beside" in values:
        values["compare_with"] = values.pop("beside")
    if values.get("objective") in KERNEL_LOSSES:
        values["kernel_loss"] = values.pop("objective")
    return values


def check_resume(stored: Mapping[str, Any], new: FlatConfig) -> None:
    """Check that a study may go on with `new`; a parameter that `stored` lacks had its default.

    Args:
        stored: What the study's ledger holds of the config that it was started with.

    Raises:
        ConfigError: A parameter that has to stay as it was (`FlatConfig.held`) differs.
    """
    old, given, wrong = new.defaults() | upgraded(stored), new.to_dict(), []
    for name, note in new.held(old).items():
        if old.get(name) != given.get(name):
            now = show(given[name]) if name in given else "nothing"
            wrong.append(f"{name}: stored {show(old.get(name))}, given {now}" + (f" ({note})" if note else ""))
    if wrong:
        advice = "use another study name or give the stored value back"
        raise ConfigError(f"study {given['study']!r} was started with other parameters: {'; '.join(wrong)}; {advice}")


def _is_parameter(config: type[FlatConfig], name: str, value: Any) -> bool:
    if name.startswith("_") or name in _IPYTHON_NAMES:
        return False
    if name in config.model_fields:
        return True  # even a module or a function: it has taken a parameter's place
    plain = (bool, int, float, complex, str, bytes, list, tuple, set, dict, Path, type(None))
    return isinstance(value, plain)


def _explain(config: type[FlatConfig], fault: ErrorDetails) -> str:
    """One fault that pydantic found, in one line of ours."""
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if not fault["loc"]:
        return f"{show(fault['input'])} is no set of parameters: a dict of names and values is allowed"
    name, value = str(fault["loc"][0]), fault["input"]
    if fault["type"] == "extra_forbidden":
        known = nearest(name, config.model_fields)
        advice = f"the nearest known one is {known!r}; see the cell tagged parameters"
        return f"unknown parameter {show(name)} (= {show(value)}): {advice}"
    if fault["type"] == "literal_error" and isinstance(value, str):
        return unknown_choice(f"{name} = {show(value)}", value, get_args(config.model_fields[name].annotation))
    allowed, hint = _allowed(config, name), _hint(config, name, value)
    limits = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
    if fault["type"] in limits:
        return f"{name} = {show(value)} is out of range: {allowed} is allowed"
    return f"{name} = {show(value)} is of the wrong type ({type(value).__name__}): {allowed} is allowed{hint}"


def unknown_choice(given: str, value: str, choices: Iterable[str], listed: Sequence[str] = ()) -> str:
    return f"{given} is unknown: allowed are {', '.join(listed or choices)}; did you mean {nearest(value, choices)!r}?"


def _allowed(config: type[FlatConfig], name: str) -> str:
    """What a parameter allows, in words, from its field's type and limits."""
    schema = config.model_json_schema()["properties"][name]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    words = {"integer": "an integer", "number": "a number", "boolean": "True or False", "string": "a text"}
    text = words[schema["type"]]
    if "minimum" in schema:
        text += f" of at least {schema['minimum']:g}"
    if "exclusiveMinimum" in schema:
        text += f" above {schema['exclusiveMinimum']:g}"
    if "exclusiveMaximum" in schema:
        text += f" and below {schema['exclusiveMaximum']:g}"
    if "maximum" in schema:
        text += f" and at most {schema['maximum']:g}"
    return text


def _hint(config: type[FlatConfig], name: str, value: Any) -> str:
    """What to write instead of a value of the wrong type, where that is plain; else nothing."""
    wanted = type(config.model_fields[name].default)
    text = str(value).strip()
    if wanted is bool and text.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return f"; write {text.lower() in ('true', 'yes', 'on', '1')}"
    choices = get_args(config.model_fields[name].annotation)
    if wanted is str and not choices and isinstance(value, bool | int | float):
        return f"; write {text!r} (for papermill: -r {name} {text})"
    if wanted in (int, float) and isinstance(value, str | float):
        try:
            number = float(text)
        except ValueError:
            return ""
        if wanted is int and number.is_integer():
            return f"; write {int(number)}"
        if wanted is float and math.isfinite(number):  # YAML reads 1e-3, without a point, as a text
            return f"; write {Decimal(repr(number)):f}"
    return ""


def show(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
