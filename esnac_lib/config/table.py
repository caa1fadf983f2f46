"""The parameters in force as a table, for a notebook and for a terminal. Needs neither pandas nor PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A parameter: its value, its default and what it means."""

    name: str
    value: Any
    default: Any
    meaning: str

    @property
    def changed(self) -> bool:
        """Whether the value is not the default."""
        return bool(self.value != self.default)


def as_text(heading: str, rows: Sequence[Row]) -> str:
    """Return a line for each parameter; those that were changed begin with "*" and end with their default."""
    wide, column = max(len(row.name) for row in rows), min(max(len(repr(row.value)) for row in rows), 24)
    lines = [f"{heading} (marked *)"]
    for row in rows:
        mark, default = ("*", f" (default {row.default!r})") if row.changed else (" ", "")
        lines.append(f"{mark} {row.name:{wide}} = {row.value!r:{column}}  # {row.meaning}{default}")
    return "\n".join(lines)


def as_html(heading: str, rows: Sequence[Row]) -> str:
    """Return a compact table that scrolls; those that were changed are bold, with their default."""
    lines = []
    for row in rows:
        value, default = (escape(repr(part)) for part in (row.value, row.default))
        shown = f"<b>{value}</b> (default {default})" if row.changed else value
        name = f"<b>{row.name} *</b>" if row.changed else row.name
        cells = "".join(f'<td style="text-align: left">{cell}</td>' for cell in (name, shown, escape(row.meaning)))
        lines.append(f"<tr>{cells}</tr>")
    changed = ", ".join(f"{row.name} = {row.value!r}" for row in rows if row.changed)
    return (
        f"<b>{escape(heading)}</b> {escape(changed)}"
        '<div style="max-height: 22em; overflow: auto"><table style="font-size: 85%">'
        f"<thead><tr><th>parameter</th><th>value</th><th>meaning</th></tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )
