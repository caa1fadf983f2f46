"""Tables as text. In a table numbers stay numbers, with the unit in the column's name; `readable` rounds them."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

import pandas as pd

FORMATS = {
    r"rank correlation|deviation|seconds each": "{:,.2f}",
    r"change \[points\]": "{:+.2f}",
    r"\[%\]|\[points\]|×|times": "{:.2f}",
    r"parameters|MACs|linear fit": "{:,.0f}",
    r"^share": "{:.1%}",
    r"\[s\]|seconds|^evaluations to| s$": "{:,.1f}",
    r"\bf\b|ratio|quartile|half-width": "{:.4f}",
}
"""By a pattern of a column's name, how its numbers are written; the first that matches counts."""


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as text: rounded, "mean ± standard deviation" in one cell, a dash where there is nothing."""
    shown: dict[str, list[str]] = {}
    for name in table.columns:
        if not str(name).endswith(" ±"):
            form = next((form for pattern, form in FORMATS.items() if re.search(pattern, str(name))), "{:.4g}")
            spreads = table[f"{name} ±"] if f"{name} ±" in table.columns else [None] * len(table)
            shown[name] = [_cell(value, spread, form) for value, spread in zip(table[name], spreads, strict=True)]
    return pd.DataFrame(shown, index=table.index)


def headline(result: str, guesses: str) -> str:
    """Return the result as a headline, unless its teacher only guesses: then that is the headline."""
    return f"**{guesses}.** {result}" if guesses else f"**{result}**"


def _cell(value: Any, spread: Any, form: str) -> str:
    if pd.isna(value) or value == "":
        return "–"
    if not isinstance(value, Real) or (isinstance(value, int) and form == "{:.4g}"):
        return str(value)
    text = form.format(value)
    return text if pd.isna(spread) else f"{text} ± {form.replace('+', '').format(spread)}"
