"""A digest of each row of a ledger, so that a byte that changed on the disk is noticed.

SQLite checks the structure of its pages, not what is written in them: it does not notice another digit in an accuracy.
So each row carries a digest of its values, made in the transaction that writes it, and opening a ledger compares. A
packed ledger has none: the checksum of xz guards all of it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from esnac_lib.errors import LedgerError

COLUMN = "digest"


def write_digests(
    connection: sqlite3.Connection, table: str, columns: Collection[str], where: Mapping[str, Any]
) -> None:
    """Store the digests of the rows that have these values. `columns` are the table's, without the digest."""
    clause = " AND ".join(f"{name} = ?" for name in where) or "1"
    select = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE {clause}"
    for rowid, *values in connection.execute(select, list(where.values())).fetchall():
        connection.execute(f"UPDATE {table} SET {COLUMN} = ? WHERE rowid = ?", [digest(values), rowid])


def has_digests(connection: sqlite3.Connection, tables: Collection[str]) -> bool:
    """Return whether any of these tables has digests."""
    return any(COLUMN in (row[1] for row in connection.execute(f"PRAGMA table_info({name})")) for name in tables)


def drop_digests(connection: sqlite3.Connection, tables: Collection[str]) -> None:
    """Remove the digests, and free their space."""
    if has_digests(connection, tables):
        for name in tables:
            connection.execute(f"ALTER TABLE {name} DROP COLUMN {COLUMN}")
        connection.execute("VACUUM")


def check_digests(path: Path, connection: sqlite3.Connection, tables: Mapping[str, Collection[str]]) -> None:
    """Raise `LedgerError` for a row whose digest is missing, or not that of its values. tables: their columns."""
    for table, columns in tables.items():
        for found, *values in connection.execute(f"SELECT {COLUMN}, {', '.join(columns)} FROM {table}"):
            if found != digest(values):
                which = f"{table}: {', '.join(map(str, values[:3]))}"
                damage = f"{which:.60} is not as it was written"
                raise LedgerError(f"{path} is damaged ({damage}): restore it or start another study")


def digest(values: Sequence[Any]) -> str:
    """Return 16 hexadecimal digits for a row's values as SQLite returns them: text, integers, exact floats or None."""
    return hashlib.blake2b(repr(tuple(values)).encode(), digest_size=8).hexdigest()
