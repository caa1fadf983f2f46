"""The tables of a ledger: their columns in SQLite and in a DataFrame, and the row of a proposed trial."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from esnac_lib.errors import LedgerError
from esnac_lib.ledger.digest import COLUMN, write_digests

SCHEMA = 2  # 1 has no digests: older ledgers, and packed ones, which are guarded by one checksum

TRIALS = {  # column: (type in SQLite, type in the DataFrame), in the order of the DataFrame
    "trial": ("INTEGER PRIMARY KEY", "int64"),
    "step": ("INTEGER NOT NULL", "int64"),
    "kernel": ("INTEGER", "Int64"),
    "arch_id": ("TEXT NOT NULL", "object"),
    "state": ("TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'complete', 'failed'))", "object"),
    "accuracy": ("REAL", "float64"),
    "params": ("INTEGER NOT NULL", "int64"),
    "macs": ("INTEGER NOT NULL", "int64"),
    "f": ("REAL", "float64"),
    "error": ("TEXT", "object"),
    "seconds": ("REAL", "float64"),
    "propose_seconds": ("REAL NOT NULL", "float64"),
    "mean": ("REAL", "float64"),
    "variance": ("REAL", "float64"),
    "ei": ("REAL", "float64"),
    "decisions": ("TEXT NOT NULL", "object"),
    "architecture": ("TEXT NOT NULL", "object"),
    "best_epoch": ("INTEGER", "Int64"),
    "told_at": ("TEXT", "datetime64[us, UTC]"),
}
EPOCHS = {
    "phase": ("TEXT NOT NULL", "object"),
    "name": ("TEXT NOT NULL", "object"),
    "epoch": ("INTEGER NOT NULL", "int64"),
    "loss": ("REAL", "float64"),
    "accuracy": ("REAL", "float64"),
    "seconds": ("REAL", "float64"),
}
RESULTS = {"kind": ("TEXT", "object"), "name": ("TEXT", "object"), "value": ("TEXT NOT NULL", "object")}
META = {"key": ("TEXT PRIMARY KEY", "object"), "value": ("TEXT NOT NULL", "object")}
TABLES = {"meta": META, "trials": TRIALS, "epochs": EPOCHS, "results": RESULTS}
_KEYS = {"epochs": "phase, name, epoch", "results": "kind, name"}
UNFINISHED = "state IN ('waiting', 'running')"


@dataclass(frozen=True)
class ProposalRow:
    """What is known of a trial before it is evaluated.

    `decisions` and `architecture` are JSON texts; `mean`, `variance` and `ei` are what the kernel that proposed it
    predicted (all None, and `kernel` too, where none did); `propose_seconds` is the time that proposing took.
    Numbers become plain Python ones. Raises `LedgerError` for NaN and infinity (SQLite would keep NaN as "unknown").
    """

    kernel: int | None
    arch_id: str
    params: int
    macs: int
    decisions: str
    architecture: str
    mean: float | None
    variance: float | None
    ei: float | None
    propose_seconds: float

    def __post_init__(self) -> None:
        for name in ("kernel", "params", "macs", "mean", "variance", "ei", "propose_seconds"):
            if (value := getattr(self, name)) is not None:
                plain = int(value) if name in ("kernel", "params", "macs") else finite(name, value)
                object.__setattr__(self, name, plain)
        for name in ("arch_id", "decisions", "architecture"):
            if not isinstance(getattr(self, name), str):
                raise LedgerError(f"{name} = {getattr(self, name)!r:.60} cannot be stored: a text is allowed")


PROPOSED = tuple(field.name for field in fields(ProposalRow))


def create_tables(connection: sqlite3.Connection, config: str) -> None:
    """Create the tables of an empty ledger."""
    for table, columns in TABLES.items():
        parts = [f"{name} {kind}" for name, (kind, _) in columns.items()]
        parts += [f"{COLUMN} TEXT", *([f"PRIMARY KEY ({_KEYS[table]})"] if table in _KEYS else [])]
        connection.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
    connection.execute("CREATE TABLE control (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("INSERT INTO meta (key, value) VALUES ('schema', ?), ('config', ?)", [str(SCHEMA), config])
    write_digests(connection, "meta", META, {})


def to_frame(table: Mapping[str, tuple[str, str]], rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Return a DataFrame with the same columns and types whether or not there are rows."""
    kinds = {name: kind for name, (_, kind) in table.items()}
    return pd.DataFrame(rows, columns=list(table), dtype=object).astype(kinds)


def finite(name: str, value: float) -> float:
    """Return a number as a float. Raises `LedgerError` for NaN and infinity."""
    if not math.isfinite(number := float(value)):
        allowed = "a finite number is allowed; report a diverged trial with fail"
        raise LedgerError(f"{name} = {number} cannot be stored: {allowed}")
    return number
