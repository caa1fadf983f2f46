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


def integer(least: int) -> Form:
    """Return the form of an integer of at least `least`."""

    def read(value: Any) -> int:
        if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
            return int(value)
        raise ValueError(f"an integer of at least {least}")

    return read


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

    def read(value: Any) -> float:
        if isinstance(value, Real) and isfinite(value):
            found = float(value)
            if (least is None or found >= least) and (most is None or found <= most):
                return found
        low = "" if least is None else f" of at least {least:g}"
        raise ValueError(f"a number{low}{'' if most is None else f' and at most {most:g}'}")

    return read


def truth(value: Any) -> bool:
    """Read True or False."""
    if value in (False, True):
        return bool(value)
    raise ValueError("True or False")


def choice(names: Collection[str]) -> Form:
    """Return the form of one of some names."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value in names:
            return value
        raise ValueError(f"one of {', '.join(names)}")

    return read


def text(value: Any) -> str:
    """Read a text that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise ValueError("a text that is not empty")


def numbers(value: Any) -> tuple[float, ...]:
    """Read a sequence of finite numbers."""
    if isinstance(value, tuple | list):
        return tuple(map(number(), value))
    raise ValueError("a sequence of numbers")


def sides(value: Any) -> tuple[int, ...]:
    """Read (left, right, top, bottom) as integers; a negative one cuts."""
    if isinstance(value, tuple | list) and len(value) == 4 and all(isinstance(n, Integral) for n in value):
        return tuple(map(int, value))
    raise ValueError("four integers: left, right, top, bottom")


def runs(value: Any) -> tuple[tuple[int, int], ...]:
    """Read runs (start, stop) of positions, at least one and none empty, and merge those that continue each other."""
    merged: list[tuple[int, int]] = []
    for item in value if isinstance(value, tuple | list) else ():
        start, stop = pair(0)(item)
        if start >= stop:
            merged = []
            break
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    if not merged:
        raise ValueError("one or more runs (start, stop) with start < stop")
    return tuple(merged)


def shape(value: Any) -> tuple[int, ...]:
    """Read (channels, height, width) or (features,)."""
    if isinstance(value, tuple | list) and len(value) in (1, 3):
        return tuple(map(integer(1), value))
    raise ValueError("a shape (channels, height, width) or (features,)")


def shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    """Read a sequence of shapes."""
    if isinstance(value, tuple | list) and value:
        return tuple(map(shape, value))
    raise ValueError("one or more shapes")


def tensors(value: Any) -> tuple[tuple[str, tuple[int, ...], bool], ...]:
    """Read (name, shape, trainable) of each tensor."""
    try:
        return tuple((text(name), tuple(map(integer(0), size)), truth(trained)) for name, size, trained in value)
    except (TypeError, ValueError):
        raise ValueError("(name, shape, trainable) of each tensor") from None
