"""Writing figures and tables into the folder of their study; the same ledger gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from esnac_lib.files import write_atomically

Item = TypeVar("Item", Figure, pd.DataFrame)

PNG_DPI = 150


class HasFolder(Protocol):
    """The record of a study or of an experiment."""

    @property
    def folder(self) -> Path:
        """Where the study or the experiment keeps its files."""


def save(item: Item, record: HasFolder, name: str) -> Item:
    """Write a figure to figures/<name>.png and .pdf, or a table to tables/<name>.csv, and return it to be shown.

    The files hold no date, so that the same ledger gives the same bytes. Numbers in tables have six significant digits.
    """
    if isinstance(item, pd.DataFrame):
        text = item.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomically(record.folder / "tables" / f"{name}.csv", text)
        return item
    figure, folder = item, record.folder / "figures"
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # text stays text
        write_atomically(folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=PNG_DPI))
        write_atomically(
            folder / f"{name}.pdf", lambda path: figure.savefig(path, format="pdf", metadata={"CreationDate": None})
        )
    return item
