"""Writing figures and tables into the folder of their study; the same ledger gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from esnac_lib.files import write_atomically

Item = TypeVar("Item", Figure, pd.DataFrame)

PNG_DPI = 150


class HasFolder(Protocol):
    """A study or an experiment, or the record of one."""

    @property
    def folder(self) -> Path:
        """Where the study or the experiment keeps its files."""


def save(item: Item, record: HasFolder, name: str) -> Item:
    """Write a figure to figures/<name>.png and .pdf, or a table to tables/<name>.csv (six digits), and return it."""
    if isinstance(item, pd.DataFrame):
        text = item.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomically(record.folder / "tables" / f"{name}.csv", text)
        return item
    figure, folder = item, record.folder / "figures"
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # text stays text
        write_atomically(folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=PNG_DPI))
        undated: dict[str, Any] = {"format": "pdf", "metadata": {"CreationDate": None}}
        write_atomically(folder / f"{name}.pdf", lambda path: figure.savefig(path, **undated))
    return item
