"""The base of all configs: flat, frozen, strict, and wrong values explained in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from esnac_lib.config.registry import did_you_mean, nearest, registry
from esnac_lib.config.table import Row, as_html, as_text
from esnac_lib.errors import ConfigError

OWN_IMAGES = (
    "a path that ends in .npz (numpy.savez writes it from train_images, train_labels, test_images and test_labels)"
)
KERNEL_LOSSES = ("posterior", "marginal", "euclidean")

_IPYTHON_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open", "display"})


class FlatConfig(BaseModel):
    """Base of all configs.

    Every way to make one (`Config(...)`, `from_dict`, `from_notebook`) raises `ConfigError` in one line, which names
    every wrong value, what is allowed and a choice that is near. Types are strict: neither True nor 8.0 is an integer,
    and neither NaN nor infinity a number. A notebook shows a config as a table, what differs from the defaults marked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the values of parameters that are not given."""
        return {name: field.default for name, field in cls.model_fields.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (text, numbers, truth values) in the order of the fields, fit for YAML and JSON."""
        return self.model_dump()

    def preset_defaults(self) -> dict[str, Any]:
        """Return what each parameter is where nothing is given."""
        return {name: field.default for name, field in type(self).model_fields.items()}

    def changed(self) -> dict[str, Any]:
        """Return the parameters that differ from `preset_defaults`."""
        defaults = self.preset_defaults()
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    def describe(self) -> str:
        """Return all parameters in force as a text, a line each, with what differs from the defaults marked."""
        return as_text(self._heading(), self._rows())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what IPython shows where there is no HTML
        printer.text(self.describe())

    def _heading(self) -> str:
        preset = getattr(self, "preset", None)
        origin = f"the preset {preset!r}" if preset else "the defaults"
        return f"{type(self).__name__}: {len(self.changed())} of {len(self.to_dict())} parameters differ from {origin}"

    def _rows(self) -> list[Row]:
        defaults, fields = self.preset_defaults(), type(self).model_fields
        return [
            Row(name, value, defaults[name], fields[name].description or "") for name, value in self.to_dict().items()
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these values, and defaults for the rest. Raises `ConfigError`."""
        return cls.model_validate(dict(values))

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the config that a ledger stores, also one of an earlier version. Raises `ConfigError`."""
        return cls.from_dict(upgraded(stored))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Return the config that a notebook's parameters make; `namespace` is its `globals()`.

        Any field counts, whether it is in the cell tagged `parameters` or was added by papermill. A name that is no
        field raises `ConfigError` when it holds plain data (what papermill can pass, and a `Path`); names that start
        with "_", IPython's own, modules, callables and other objects are ignored.
        """
        return cls.from_dict({name: value for name, value in namespace.items() if _is_parameter(cls, name, value)})

    def held(self, stored: Mapping[str, Any]) -> Mapping[str, str]:
        """Return what a study keeps of its `stored` parameters when it is resumed: names with a note (may be empty)."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        raise ConfigError(f"{name} = {show(value)}: a config does not change; make a new one with the other value")

    @model_validator(mode="wrap")
    @classmethod
    def _explain_in_one_line(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            config = validate(values)
            mistakes = list(dict.fromkeys(config._conflicts()))
        except ValidationError as error:
            mistakes = [_explain(cls, fault) for fault in error.errors(include_url=False)]
        if mistakes:
            numbered = "; ".join(f"({number}) {mistake}" for number, mistake in enumerate(mistakes, 1))
            raise ConfigError(f"{len(mistakes)} mistakes: {numbered}" if mistakes[1:] else mistakes[0])
        return config

    def _conflicts(self) -> Iterator[str]:
        """Yield a line wherever values that are right alone do not fit together."""
        yield from ()


def option(default: Any, description: str, **limits: Any) -> Any:
    """Return a parameter's field: its default, what it means, and its limits (ge, gt, le, lt)."""
    return Field(default=default, description=description, **limits)


def upgraded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a ledger of an earlier version stores by the names that they have today."""
    values = dict(stored)
    if "beside" in values:
        values["compare_with"] = values.pop("beside")
    if values.get("objective") in KERNEL_LOSSES:
        values["kernel_loss"] = values.pop("objective")
    return values


def check_resume(stored: Mapping[str, Any], new: FlatConfig) -> None:
    """Check that a study that was started with `stored` may go on with `new`.

    Raises `ConfigError` where a parameter that has to stay as it was (`FlatConfig.held`) differs. One that `stored`
    lacks had its default.
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
    plain = bool | int | float | complex | str | bytes | list | tuple | set | dict | Path | None
    return name in config.model_fields or isinstance(value, plain)  # a module may have taken a parameter's place


def _explain(config: type[FlatConfig], fault: ErrorDetails) -> str:
    """Return one fault that pydantic found, in one line of ours."""
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if not fault["loc"]:
        return f"{show(fault['input'])} is no set of parameters: a dict of names and values is allowed"
    name, value = str(fault["loc"][0]), fault["input"]
    if fault["type"] == "extra_forbidden":
        known = nearest(name, config.model_fields)
        advice = f"the nearest known one is {known!r}; print({config.__name__}().describe()) lists all"
        return f"unknown parameter {show(name)} (= {show(value)}): {advice}"
    if fault["type"] == "literal_error" and isinstance(value, str):
        return unknown_choice(f"{name} = {show(value)}", value, get_args(config.model_fields[name].annotation))
    allowed = f"{_allowed(config, name)} is allowed"
    if fault["type"].startswith(("greater_than", "less_than", "finite_number")):
        return f"{name} = {show(value)} is out of range: {allowed}"
    hint = _hint(config, name, value)
    return f"{name} = {show(value)} is of the wrong type ({type(value).__name__}): {allowed}{hint}"


def unknown_choice(given: str, value: str, choices: Iterable[str], listed: Sequence[str] = ()) -> str:
    """Return the line for a value that is none of `choices`; `listed` is what to print in place of all of them."""
    return f"{given} is unknown: allowed are {', '.join(listed or choices)}{did_you_mean(value, choices)}"


def names_in(text: str) -> tuple[str, ...]:
    """Return the parts of a text with commas: ("a", "b") for "a, b,,"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def fault_of(make: Callable[[], object]) -> Iterator[str]:
    """Yield what making something that holds other configs finds wrong with them."""
    try:
        make()
    except ConfigError as error:
        yield str(error)


def known_names(name: str, text: str, choices: Iterable[str], listed: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the parts of the parameter `name`, a text with commas. Raises ValueError unless all are in `choices`."""
    unknown = [part for part in names_in(text) if part not in choices]
    if unknown:
        given = f"{name} = {show(text)}: {', '.join(map(show, unknown))}"
        raise ValueError(unknown_choice(given, unknown[0], choices, listed))
    return names_in(text)


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers in the parameter `name`, a text with commas. Raises `ConfigError` unless all are ≥ 1."""
    parts = names_in(text) or ("",)
    if wrong := ", ".join(repr(part) for part in parts if not part.isdecimal() or not int(part)):
        raise ConfigError(f"{name} = {text!r}: {wrong} is not allowed; whole numbers from 1 are, with commas")
    return tuple(map(int, parts))


def _allowed(config: type[FlatConfig], name: str) -> str:
    """Return what a parameter allows, in words, from its field's type and limits."""
    if choices := _choices(config, name):
        return f"one of {', '.join(choices)}"
    schema = config.model_json_schema()["properties"][name]
    words = {"integer": "an integer", "number": "a number", "boolean": "True or False", "string": "a text"}
    limits = {"minimum": " of at least", "exclusiveMinimum": " above"}
    limits |= {"exclusiveMaximum": " and below", "maximum": " and at most"}
    return words[schema["type"]] + "".join(f"{text} {schema[key]:g}" for key, text in limits.items() if key in schema)


def _choices(config: type[FlatConfig], name: str) -> tuple[str, ...]:
    """Return the values that a parameter can have; empty where they cannot be listed."""
    return tuple(registry(name) if name in ("sampler", "objective") else get_args(config.model_fields[name].annotation))


def _hint(config: type[FlatConfig], name: str, value: Any) -> str:
    """Return what to write instead of a value of the wrong type, where that is plain; else nothing."""
    wanted, text = type(config.model_fields[name].default), str(value).strip()
    yes, no = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
    if wanted is bool and text.lower() in yes + no:
        return f"; write {text.lower() in yes}"
    if wanted is str and not _choices(config, name) and isinstance(value, bool | int | float):
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
    """Return a value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
