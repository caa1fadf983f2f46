"""The forms that a layer's attributes may have: each reads a value into the one form that is hashed and saved.

A form takes a value as a user, PyTorch or JSON gives it (numbers of any type, lists or tuples) and returns plain
Python, or raises ValueError with what is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import isfinite
from numbers import Integral, Real
from typing import Any

Form = Callable[[Any], Any]


def _form(valid: Callable[[Any], Any], read: Form, needed: str) -> Form:
    """Return the form that reads the valid values, and says of all others what is needed."""

    def form(value: Any) -> Any:
        if valid(value):
            return read(value)
        raise ValueError(needed)

    return form


def _sequence(item: Form, needed: str, valid: Callable[[Any], Any] = lambda value: True) -> Form:
    """Return the form of a valid tuple or list of items of a form."""
    return _form(lambda value: isinstance(value, tuple | list) and valid(value), lambda v: tuple(map(item, v)), needed)


def integer(least: int) -> Form:
    """Return the form of an integer of at least `least`."""
    needed = f"an integer of at least {least}"
    return _form(lambda v: isinstance(v, Integral) and not isinstance(v, bool) and int(v) >= least, int, needed)


def pair(least: int) -> Form:
    """Return the form (height, width) of integers of at least `least`; one number stands for both."""

    def read(value: Any) -> tuple[int, int]:
        both = value if isinstance(value, tuple | list) else (value, value)
        try:
            height, width = map(integer(least), both)
        except ValueError:
            raise ValueError(f"one or two integers of at least {least}") from None
        return height, width

    return read


def number(least: float | None = None, most: float | None = None) -> Form:
    """Return the form of a finite number within bounds, as a float."""
    low, high = "" if least is None else f" of at least {least:g}", "" if most is None else f" and at most {most:g}"

    def valid(value: Any) -> bool:
        if not isinstance(value, Real) or not isfinite(value):
            return False
        return (least is None or float(value) >= least) and (most is None or float(value) <= most)

    return _form(valid, float, f"a number{low}{high}")


def choice(names: Collection[str]) -> Form:
    """Return the form of one of some names."""
    return _form(lambda value: isinstance(value, str) and value in names, lambda v: v, f"one of {', '.join(names)}")


truth = _form(lambda value: value in (False, True), bool, "True or False")
text = _form(lambda value: isinstance(value, str) and value, lambda value: value, "a text that is not empty")
numbers = _sequence(number(), "a sequence of numbers")
shape = _sequence(integer(1), "a shape (channels, height, width) or (features,)", lambda value: len(value) in (1, 3))
shapes = _sequence(shape, "one or more shapes", len)
sides = _sequence(  # of which a negative one cuts
    int, "four integers: left, right, top, bottom", lambda v: len(v) == 4 and all(isinstance(n, Integral) for n in v)
)


def runs(value: Any) -> tuple[tuple[int, int], ...]:
    """Read runs (start, stop) of positions, at least one and none empty, and merge those that continue each other."""
    merged: list[tuple[int, int]] = []
    for start, stop in map(pair(0), value if isinstance(value, tuple | list) else ()):
        if start >= stop:
            merged = []
            break
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    if not merged:
        raise ValueError("one or more runs (start, stop) with start < stop")
    return tuple(merged)


def tensors(value: Any) -> tuple[tuple[str, tuple[int, ...], bool], ...]:
    """Read (name, shape, trainable) of each tensor."""
    try:
        return tuple((text(name), tuple(map(integer(0), size)), truth(trained)) for name, size, trained in value)
    except (TypeError, ValueError):
        raise ValueError("(name, shape, trainable) of each tensor") from None
