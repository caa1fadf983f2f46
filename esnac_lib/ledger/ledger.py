"""The ledger of a study: trials, epochs and results in one SQLite file, the one place where results live.

    with Ledger.start(path, config.to_dict()) as ledger:  # the study: makes the file, or goes on with it
        trials = ledger.record(0, [ProposalRow(...), ...])  # waiting
        ledger.running(trials)
        ledger.complete(trials[0], accuracy=0.97, f=0.81, best_epoch=3, seconds=1.2)

    Ledger(path).trials()  # anybody, at any time: a DataFrame

What a writing call has told is on the disk when it returns. One process at a time writes; readers need no lock and
change no file (see `ledger_file`).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from esnac_lib.errors import LedgerError, one_line
from esnac_lib.ledger.digest import COLUMN, check_seals, is_sealed, seal, unseal
from esnac_lib.ledger.file import LedgerFile, check_whole, create, give_back, pack_file, take_lock, unpack

SCHEMA = 2  # 1 has no digests: older ledgers, and packed ones, which are guarded as a whole

_TRIALS = {  # column: (type in SQLite, type in the DataFrame), in the order of the DataFrame
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
_EPOCHS = {
    "phase": ("TEXT NOT NULL", "object"),
    "name": ("TEXT NOT NULL", "object"),
    "epoch": ("INTEGER NOT NULL", "int64"),
    "loss": ("REAL", "float64"),
    "accuracy": ("REAL", "float64"),
    "seconds": ("REAL", "float64"),
}
_RESULTS = {"kind": ("TEXT", "object"), "name": ("TEXT", "object"), "value": ("TEXT NOT NULL", "object")}
_META = {"key": ("TEXT PRIMARY KEY", "object"), "value": ("TEXT NOT NULL", "object")}
_TABLES = {"meta": _META, "trials": _TRIALS, "epochs": _EPOCHS, "results": _RESULTS}
_KEYS = {"epochs": "phase, name, epoch", "results": "kind, name"}
_OPEN = "state IN ('waiting', 'running')"


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
            value = getattr(self, name)
            if value is not None:
                plain = int(value) if name in ("kernel", "params", "macs") else _finite(name, value)
                object.__setattr__(self, name, plain)
        for name in ("arch_id", "decisions", "architecture"):
            if not isinstance(getattr(self, name), str):
                raise LedgerError(f"{name} = {getattr(self, name)!r:.60} cannot be stored: a text is allowed")


_PROPOSED = tuple(field.name for field in fields(ProposalRow))


class Ledger:
    """The ledger at `path`, which must exist, packed or not (`Ledger.start` makes one).

    Opening checks the file and locks nothing. The first call that writes takes the writer's lock and keeps it until
    `close`; with `read_only` such calls are refused, `request_stop` excepted. A closed ledger can still be read. One
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
        """Open for writing; first make the ledger, with this config, if there is none.

        A ledger that exists keeps the config it has: compare the two (`config.check_resume`) before going on.
        """
        path = Path(path)
        text = _to_json("config", config)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"cannot make the folder {path.parent} of a ledger: {error.strerror}") from None
        lock = take_lock(path)
        try:
            unpack(path)
            if not path.exists():
                create(path, lambda connection: _fill(connection, text))
            ledger = cls(path)
        except BaseException:
            give_back(lock)
            raise
        ledger._file.become_writer(lock)
        ledger._upgrade()
        return ledger

    def __repr__(self) -> str:
        trials = self.trials()
        told = int(trials["told_at"].notna().sum())
        return f"Ledger({str(self.path)!r}: {told} of {len(trials)} recorded trials told)"

    def close(self) -> None:
        """Fold the log into the file, so that only the lock file stays beside it, and let the next writer in.

        Afterwards the ledger can be read, not written.
        """
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
            seal(connection, "meta", _META, {})

    # Trials

    def record(self, step: int, proposals: Sequence[ProposalRow]) -> list[int]:
        """Add waiting trials, all or none; returns their numbers, which go on from the last one's."""
        names = ("trial", "step", "state", *_PROPOSED)
        insert = f"INSERT INTO trials ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        with self._file.write() as connection:
            [(first,)] = connection.execute("SELECT coalesce(max(trial) + 1, 0) FROM trials").fetchall()
            for trial, row in enumerate(proposals, first):
                values = [getattr(row, name) for name in _PROPOSED]
                connection.execute(insert, [trial, int(step), "waiting", *values])
                seal(connection, "trials", _TRIALS, {"trial": trial})
        return list(range(first, first + len(proposals)))

    def pending(self, step: int) -> dict[int, ProposalRow]:
        """The waiting and running trials of a step, by number, as they were recorded."""
        select = f"SELECT trial, {', '.join(_PROPOSED)} FROM trials WHERE step = ? AND {_OPEN} ORDER BY trial"
        return {trial: ProposalRow(*values) for trial, *values in self._rows(select, [int(step)])}

    def running(self, trials: Sequence[int]) -> None:
        """Say that these trials are being evaluated."""
        with self._file.write() as connection:
            for trial in trials:
                self._update(connection, trial, {"state": "running"})

    def complete(self, trial: int, accuracy: float, f: float, best_epoch: int, seconds: float) -> None:
        """Tell a trial's validation accuracy and its f; `seconds` is the time that the evaluation took."""
        values = {"accuracy": _finite("accuracy", accuracy), "f": _finite("f", f), "best_epoch": int(best_epoch)}
        told = {"state": "complete", **values, "seconds": _finite("seconds", seconds), "told_at": _now()}
        with self._file.write() as connection:
            self._update(connection, trial, told)

    def fail(self, trial: int, error: str, seconds: float, f: float | None = 0.0) -> None:
        """Tell that a trial failed, and why. A student that diverged has f = 0; None stands for a fault of the
        machine, which says nothing of the architecture."""
        values = {"error": str(error), "f": None if f is None else _finite("f", f), "told_at": _now()}
        with self._file.write() as connection:
            self._update(connection, trial, {"state": "failed", **values, "seconds": _finite("seconds", seconds)})

    def reset_running(self) -> int:
        """Trials that a killed study left running wait again; returns how many."""
        with self._file.write() as connection:
            count = connection.execute("UPDATE trials SET state = 'waiting' WHERE state = 'running'").rowcount
            seal(connection, "trials", _TRIALS, {"state": "waiting"})
        return count

    def trials(self) -> pd.DataFrame:
        """All trials, in order: trial, step, kernel, arch_id, state, accuracy, params, macs, f, error, seconds, then
        what was predicted, decided and built. What a trial does not have (yet) is missing (None, NaN, NA, NaT)."""
        return _frame(_TRIALS, self._rows(f"SELECT {', '.join(_TRIALS)} FROM trials ORDER BY trial"))

    # Epochs and results

    def epoch(
        self, phase: str, name: str, epoch: int, loss: float | None, accuracy: float | None, seconds: float
    ) -> None:
        """Store one epoch of a training, in place of what an earlier run stored for it. NaN is a missing value."""
        numbers = [None if value is None else float(value) for value in (loss, accuracy, seconds)]
        insert = "INSERT OR REPLACE INTO epochs (phase, name, epoch, loss, accuracy, seconds) VALUES (?, ?, ?, ?, ?, ?)"
        with self._file.write() as connection:
            connection.execute(insert, [phase, name, int(epoch), *numbers])
            seal(connection, "epochs", _EPOCHS, {"phase": phase, "name": name, "epoch": int(epoch)})

    def epochs(self, phase: str | None = None) -> pd.DataFrame:
        """phase, name, epoch, loss, accuracy, seconds; of one phase or of all, in the order of the first three."""
        where = "" if phase is None else " WHERE phase = ?"
        select = f"SELECT {', '.join(_EPOCHS)} FROM epochs{where} ORDER BY phase, name, epoch"
        return _frame(_EPOCHS, self._rows(select, [] if phase is None else [phase]))

    def latest_epoch(self) -> tuple[str, str, int] | None:
        """phase, name and epoch of what was stored last: what is, or was, in training. None before any epoch."""
        rows = self._rows("SELECT phase, name, epoch FROM epochs ORDER BY rowid DESC LIMIT 1")
        return rows[0] if rows else None

    def result(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        """Store a result (plain data without NaN), in place of an earlier one of the same kind and name."""
        insert = "INSERT OR REPLACE INTO results (kind, name, value) VALUES (?, ?, ?)"
        with self._file.write() as connection:
            connection.execute(insert, [kind, name, _to_json(f"result {name!r}", value)])
            seal(connection, "results", _RESULTS, {"kind": kind, "name": name})

    def results(self, kind: str) -> dict[str, dict[str, Any]]:
        """All results of a kind, by name, in the order of the names."""
        rows = self._rows("SELECT name, value FROM results WHERE kind = ? ORDER BY name", [kind])
        return {name: self._from_json(value) for name, value in rows}

    # Who writes, and the request to stop

    def writer(self) -> int | None:
        """The number of the process that writes the ledger now, on this machine; None where there is none."""
        return self._file.writer()

    def request_stop(self) -> None:
        """Ask the study to stop at its next chance. Needs no lock: a monitor asks a study that is running."""
        insert = "INSERT OR REPLACE INTO control (key, value) VALUES ('stop', ?)"
        self._file.write_beside_the_writer(insert, [_now()])

    def stop_requested(self) -> bool:
        """True from `request_stop` until `clear_stop`."""
        return bool(self._rows("SELECT 1 FROM control WHERE key = 'stop'"))

    def clear_stop(self) -> None:
        """Forget a request to stop."""
        with self._file.write() as connection:
            connection.execute("DELETE FROM control WHERE key = 'stop'")

    def _rows(self, select: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._file.read(lambda connection: connection.execute(select, values).fetchall())

    def _update(self, connection: sqlite3.Connection, trial: int, values: Mapping[str, Any]) -> None:
        """Change a trial that was not told yet."""
        update = f"UPDATE trials SET {', '.join(f'{name} = ?' for name in values)} WHERE trial = ? AND {_OPEN}"
        if connection.execute(update, [*values.values(), int(trial)]).rowcount == 1:
            seal(connection, "trials", _TRIALS, {"trial": int(trial)})
            return
        found = connection.execute("SELECT state FROM trials WHERE trial = ?", [int(trial)]).fetchall()
        if found:
            raise LedgerError(f"trial {trial} of {self.path} was told before ({found[0][0]}): a trial is told once")
        raise LedgerError(f"there is no trial {trial} in {self.path}: only a recorded trial can be told")

    def _check(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall()
        if not (len(found) == 1 and str(found[0][0]).isdecimal()):
            raise LedgerError(f"{self.path} is damaged (no version): restore it or start another study")
        if int(found[0][0]) > SCHEMA:
            newer = f"schema {found[0][0]}, while this one knows {SCHEMA}"
            raise LedgerError(f"the ledger {self.path} is of a newer version ({newer}): update the library")
        check_whole(self.path, connection)
        if int(found[0][0]) > 1 or is_sealed(connection, _TABLES):
            check_seals(self.path, connection, _TABLES)

    def _upgrade(self) -> None:
        """Give the rows of an older ledger, or of one that was packed, their digests."""
        if self._rows("SELECT value FROM meta WHERE key = 'schema'") != [("1",)]:
            return
        with self._file.write() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [str(SCHEMA)])
            for name, columns in _TABLES.items():
                connection.execute(f"ALTER TABLE {name} ADD COLUMN {COLUMN} TEXT")
                seal(connection, name, columns, {})

    def _from_json(self, text: str) -> dict[str, Any]:
        try:
            return dict(json.loads(text))
        except ValueError:
            raise LedgerError(f"{self.path} is damaged (no JSON): restore it or start another study") from None


def pack(path: Path) -> Path:
    """Put `<file>.xz` in the place of a ledger that nobody writes; returns its path. Equal ledgers give equal bytes.

    Some 20 times smaller, read like the file itself, and unpacked by `Ledger.start`. The digests of the rows, which
    would take a third of it, make way for a checksum of the whole. Raises `LedgerError`, and packs nothing, when the
    ledger is damaged or being written.
    """

    def prepare(connection: sqlite3.Connection) -> None:
        Ledger(path, read_only=True)  # a damaged one would be given a checksum that says it is sound
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
        unseal(connection, _TABLES)

    return pack_file(path, prepare)


def _fill(connection: sqlite3.Connection, config: str) -> None:
    """The tables of an empty ledger."""
    for table, columns in _TABLES.items():
        parts = [f"{name} {kind}" for name, (kind, _) in columns.items()]
        parts += [f"{COLUMN} TEXT", *([f"PRIMARY KEY ({_KEYS[table]})"] if table in _KEYS else [])]
        connection.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
    connection.execute("CREATE TABLE control (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("INSERT INTO meta (key, value) VALUES ('schema', ?), ('config', ?)", [str(SCHEMA), config])
    seal(connection, "meta", _META, {})


def _frame(table: Mapping[str, tuple[str, str]], rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """A DataFrame with the same columns and types whether or not there are rows."""
    frame = pd.DataFrame(rows, columns=list(table), dtype=object)
    return frame.astype({name: kind for name, (_, kind) in table.items()})


def _finite(name: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise LedgerError(
            f"{name} = {number} cannot be stored: a finite number is allowed; tell a diverged one by fail"
        )
    return number


def _to_json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"the {name} cannot be stored ({one_line(error, kind=False)}): plain data without NaN is allowed"
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
