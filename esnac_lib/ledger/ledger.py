"""The ledger of a study: trials, epochs and results in one SQLite file, the one place where results live.

    with Ledger.start(path, config.to_dict()) as ledger:  # the study: makes the file, or goes on with it
        trials = ledger.record(0, [ProposalRow(...), ...])  # waiting
        ledger.running(trials)
        ledger.complete(trials[0], accuracy=0.97, f=0.81, best_epoch=3, seconds=1.2)

    Ledger(path).trials()  # anybody, at any time: a DataFrame

What a call writes is on the disk when it returns. One process at a time writes; readers need no lock and change no
file (see `file.py`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from esnac_lib.errors import LedgerError, one_line
from esnac_lib.ledger.digest import COLUMN, check_digests, drop_digests, has_digests, write_digests
from esnac_lib.ledger.file import LedgerFile, check_pages, create, pack_file, release_lock, take_lock, unpack
from esnac_lib.ledger.schema import PROPOSED, SCHEMA, TABLES, UNFINISHED, ProposalRow, create_tables, finite, to_frame


class Ledger:
    """The ledger at `path`, which must exist, packed or not (`Ledger.start` makes one).

    Opening checks the file and locks nothing. The first call that writes takes the writer's lock and keeps it until
    `close`; with `read_only` such calls are refused, requests excepted. A closed ledger can still be read. One
    object may serve several threads.

    Every method raises `LedgerError`, in one line, when the file is missing, damaged, of a newer version, or (on
    writing) written by another process.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self._file = LedgerFile(self.path, read_only)
        self._file.read(self._check)

    @classmethod
    def start(cls, path: str | Path, config: Mapping[str, Any]) -> Self:
        """Open for writing; first make the ledger, with this config, if there is none. An old one keeps its own."""
        path, text = Path(path), _to_json("config", config)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"cannot make the folder {path.parent} of a ledger: {error.strerror}") from None
        lock = take_lock(path)
        try:
            unpack(path)
            if not path.exists():
                create(path, lambda connection: create_tables(connection, text))
            ledger = cls(path)
        except BaseException:
            release_lock(lock)
            raise
        ledger._file.start_writing(lock)
        ledger._upgrade()
        return ledger

    def __repr__(self) -> str:
        trials = self.trials()
        observed = int(trials["told_at"].notna().sum())
        return f"Ledger({str(self.path)!r}: {observed} of {len(trials)} recorded trials observed)"

    def close(self) -> None:
        """Bring everything into the one file and release the writer's lock. The ledger can still be read."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def config(self) -> dict[str, Any]:
        """The parameters that the study was started with."""
        return self._from_json(self._rows("SELECT value FROM meta WHERE key = 'config'")[0][0])

    def set_config(self, config: Mapping[str, Any]) -> None:
        """Store other parameters: of a resumed study whose `steps` grew, or that went to another device."""
        with self._file.write() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'config'", [_to_json("config", config)])
            write_digests(connection, "meta", TABLES["meta"], {})

    def record(self, step: int, proposals: Sequence[ProposalRow]) -> list[int]:
        """Add waiting trials, all or none; return their numbers, which go on from the last one's."""
        names = ("trial", "step", "state", *PROPOSED)
        insert = f"INSERT INTO trials ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        with self._file.write() as connection:
            [(first,)] = connection.execute("SELECT coalesce(max(trial) + 1, 0) FROM trials").fetchall()
            for trial, row in enumerate(proposals, first):
                values = [getattr(row, name) for name in PROPOSED]
                connection.execute(insert, [trial, int(step), "waiting", *values])
                write_digests(connection, "trials", TABLES["trials"], {"trial": trial})
        return list(range(first, first + len(proposals)))

    def pending(self, step: int) -> dict[int, ProposalRow]:
        """Return the waiting and running trials of a step, by number, as they were recorded."""
        select = f"SELECT trial, {', '.join(PROPOSED)} FROM trials WHERE step = ? AND {UNFINISHED} ORDER BY trial"
        return {trial: ProposalRow(*values) for trial, *values in self._rows(select, [int(step)])}

    def running(self, trials: Sequence[int]) -> None:
        """Mark these trials as being evaluated."""
        with self._file.write() as connection:
            for trial in trials:
                self._update(connection, trial, {"state": "running"})

    def complete(self, trial: int, accuracy: float, f: float, best_epoch: int, seconds: float) -> None:
        """Record a trial's validation accuracy and its f; `seconds` is the time that the evaluation took."""
        values = {"accuracy": finite("accuracy", accuracy), "f": finite("f", f), "best_epoch": int(best_epoch)}
        observed = {"state": "complete", **values, "seconds": finite("seconds", seconds), "told_at": _now()}
        with self._file.write() as connection:
            self._update(connection, trial, observed)

    def fail(self, trial: int, error: str, seconds: float, f: float | None = 0.0) -> None:
        """Record that a trial failed, and why: f is 0 if it diverged, None for a fault of the machine."""
        values = {"error": str(error), "f": None if f is None else finite("f", f), "told_at": _now()}
        with self._file.write() as connection:
            self._update(connection, trial, {"state": "failed", **values, "seconds": finite("seconds", seconds)})

    def reset_running(self) -> int:
        """Set the trials that a killed study left running back to waiting; return how many."""
        with self._file.write() as connection:
            count = connection.execute("UPDATE trials SET state = 'waiting' WHERE state = 'running'").rowcount
            write_digests(connection, "trials", TABLES["trials"], {"state": "waiting"})
        return count

    def trials(self) -> pd.DataFrame:
        """Return all trials, in order, with the columns of `schema.TRIALS`; what one does not have (yet) is missing."""
        return self._frame("trials", "ORDER BY trial")

    def epoch(
        self, phase: str, name: str, epoch: int, loss: float | None, accuracy: float | None, seconds: float
    ) -> None:
        """Store one epoch of a training, in place of what an earlier run stored for it. NaN is a missing value."""
        numbers = [None if value is None else float(value) for value in (loss, accuracy, seconds)]
        insert = "INSERT OR REPLACE INTO epochs (phase, name, epoch, loss, accuracy, seconds) VALUES (?, ?, ?, ?, ?, ?)"
        with self._file.write() as connection:
            connection.execute(insert, [phase, name, int(epoch), *numbers])
            write_digests(connection, "epochs", TABLES["epochs"], {"phase": phase, "name": name, "epoch": int(epoch)})

    def epochs(self, phase: str | None = None) -> pd.DataFrame:
        """Return phase, name, epoch, loss, accuracy, seconds; of one phase or all, in the order of the first three."""
        where, values = ("", []) if phase is None else ("WHERE phase = ? ", [phase])
        return self._frame("epochs", f"{where}ORDER BY phase, name, epoch", values)

    def latest_epoch(self) -> tuple[str, str, int] | None:
        """Return phase, name and epoch of what was stored last: what is, or was, in training. None before any epoch."""
        rows = self._rows("SELECT phase, name, epoch FROM epochs ORDER BY rowid DESC LIMIT 1")
        return rows[0] if rows else None

    def result(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        """Store a result (plain data without NaN), in place of an earlier one of the same kind and name."""
        insert = "INSERT OR REPLACE INTO results (kind, name, value) VALUES (?, ?, ?)"
        with self._file.write() as connection:
            connection.execute(insert, [kind, name, _to_json(f"result {name!r}", value)])
            write_digests(connection, "results", TABLES["results"], {"kind": kind, "name": name})

    def results(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return all results of a kind, by name, in the order of the names."""
        rows = self._rows("SELECT name, value FROM results WHERE kind = ? ORDER BY name", [kind])
        return {name: self._from_json(value) for name, value in rows}

    def writer(self) -> int | None:
        """Return the number of the process that writes the ledger now, on this machine; None where there is none."""
        return self._file.writer()

    def request_stop(self) -> None:
        """Ask the study to stop at its next chance. Needs no lock: a monitor calls it while the study runs."""
        self._set("stop", _now())

    def stop_requested(self) -> bool:
        """Return True from `request_stop` until `clear_requests`."""
        return self._get("stop") is not None

    def request_finish(self) -> None:
        """Ask the study to end its search and finish with the best so far. Needs no lock, like `request_stop`."""
        self._set("finish", _now())

    def finish_requested(self) -> bool:
        """Return True from `request_finish` until `clear_requests`."""
        return self._get("finish") is not None

    def clear_requests(self) -> None:
        """Forget requests to stop or to finish, and what was left."""
        with self._file.write() as connection:
            connection.execute("DELETE FROM control")

    def set_left(self, seconds: float) -> None:
        """Say how many seconds the study that runs takes still, for those who watch it."""
        self._set("left", str(seconds))

    def left(self) -> float | None:
        """Return what `set_left` said last; None where it has said nothing yet."""
        found = self._get("left")
        return None if found is None else float(found)

    def _set(self, key: str, value: str) -> None:
        self._file.write_without_lock("INSERT OR REPLACE INTO control (key, value) VALUES (?, ?)", [key, value])

    def _get(self, key: str) -> str | None:
        rows = self._rows("SELECT value FROM control WHERE key = ?", [key])
        return str(rows[0][0]) if rows else None

    def _frame(self, table: str, clause: str, values: Sequence[Any] = ()) -> pd.DataFrame:
        rows = self._rows(f"SELECT {', '.join(TABLES[table])} FROM {table} {clause}", values)
        return to_frame(TABLES[table], rows)

    def _rows(self, select: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._file.read(lambda connection: connection.execute(select, values).fetchall())

    def _update(self, connection: sqlite3.Connection, trial: int, values: Mapping[str, Any]) -> None:
        """Change a trial that has no result yet."""
        update = f"UPDATE trials SET {', '.join(f'{name} = ?' for name in values)} WHERE trial = ? AND {UNFINISHED}"
        if connection.execute(update, [*values.values(), int(trial)]).rowcount == 1:
            write_digests(connection, "trials", TABLES["trials"], {"trial": int(trial)})
            return
        if found := connection.execute("SELECT state FROM trials WHERE trial = ?", [int(trial)]).fetchall():
            result = f"has a result already ({found[0][0]})"
            raise LedgerError(f"trial {trial} of {self.path} {result}: a trial is observed once")
        raise LedgerError(f"there is no trial {trial} in {self.path}: only a recorded trial can be observed")

    def _check(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall()
        if not (len(found) == 1 and str(found[0][0]).isdecimal()):
            raise LedgerError(f"{self.path} is damaged (no version): restore it or start another study")
        if int(found[0][0]) > SCHEMA:
            newer = f"schema {found[0][0]}, while this one knows {SCHEMA}"
            raise LedgerError(f"the ledger {self.path} is of a newer version ({newer}): update the library")
        check_pages(self.path, connection)
        if int(found[0][0]) > 1 or has_digests(connection, TABLES):
            check_digests(self.path, connection, TABLES)

    def _upgrade(self) -> None:
        """Add digests to an older ledger, or to one that was packed."""
        if self._rows("SELECT value FROM meta WHERE key = 'schema'") != [("1",)]:
            return
        with self._file.write() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [str(SCHEMA)])
            for name, columns in TABLES.items():
                connection.execute(f"ALTER TABLE {name} ADD COLUMN {COLUMN} TEXT")
                write_digests(connection, name, columns, {})

    def _from_json(self, text: str) -> dict[str, Any]:
        try:
            return dict(json.loads(text))
        except ValueError:
            raise LedgerError(f"{self.path} is damaged (no JSON): restore it or start another study") from None


def pack(path: Path) -> Path:
    """Replace a ledger that nobody writes with `<file>.xz`; return its path. Equal ledgers give equal bytes.

    Some 20 times smaller, read like the file itself, and unpacked by `Ledger.start`. The digests of the rows, which
    would take a third of it, are replaced by one checksum. Raises `LedgerError`, and packs nothing, when the
    ledger is damaged or being written.
    """

    def prepare(connection: sqlite3.Connection) -> None:
        Ledger(path, read_only=True)  # a damaged one would be given a checksum that says it is sound
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
        drop_digests(connection, TABLES)

    return pack_file(path, prepare)


def _to_json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        fault = f"the {name} cannot be stored ({one_line(error, kind=False)})"
        raise LedgerError(f"{fault}: plain data without NaN is allowed") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
