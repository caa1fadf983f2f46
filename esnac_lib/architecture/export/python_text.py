"""Pieces of a generated program: expressions that add brackets where needed, and calls that break over lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 88  # the usual limit of formatters
INDENT = " " * 8
SUM, PRODUCT, ATOM = range(3)  # how tightly an expression holds together; a name or a call is an atom

Argument = str | list[str]


class Text(NamedTuple):
    """An expression on one line."""

    text: str
    level: int = ATOM

    def within(self, level: int) -> str:
        """Return the expression as an operand at this level, in brackets if it needs them."""
        return self.text if self.level >= level else f"({self.text})"

    def lines(self, start: str) -> list[str]:
        """Return the statement `start` followed by this expression."""
        return [f"{INDENT}{start}{self.text}"]


class Call(NamedTuple):
    """A call of a function. An argument is an expression, or a list of them."""

    function: str
    arguments: Sequence[Argument]

    @property
    def flat(self) -> Text:
        """The call as an expression on one line."""
        return Text(f"{self.function}({', '.join(map(_flat, self.arguments))})")

    def lines(self, start: str) -> list[str]:
        """Return the lines of `start` followed by this call: a single one, or one per argument if that is too long.

        The comma at the end of every line keeps formatters from joining them again.
        """
        if len(line := f"{INDENT}{start}{self.flat.text}") <= WIDTH:
            return [line]
        lines = []
        for argument in self.arguments:
            if isinstance(argument, list) and len(f"{INDENT}    {_flat(argument)},") > WIDTH:
                lines += ["    [", *(f"        {part}," for part in argument), "    ],"]
            else:
                lines.append(f"    {_flat(argument)},")
        return [f"{INDENT}{line}" for line in (f"{start}{self.function}(", *lines, ")")]


def _flat(argument: Argument) -> str:
    return argument if isinstance(argument, str) else f"[{', '.join(argument)}]"
