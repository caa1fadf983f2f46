"""The file of a ledger: SQLite with one writer, any number of readers, and one file at the end.

While a study runs its file is in WAL mode, with a `-wal` and a `-shm` file next to it, so that others can read it
meanwhile. The writer holds an exclusive `flock` on `<file>.lock`, which the system releases when that process ends,
however it ends. The lock file stays: removing it could let two writers in.

A finished ledger can be *packed*: `<file>.xz` in its place, some 20 times smaller, is read like the file itself, and
unpacked by the next writer. The checksum of xz guards all its bytes.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from esnac_lib.errors import LedgerError, one_line
from esnac_lib.files import write_atomically

Value = TypeVar("Value")

PACKED = ".xz"
_BUSY_TIMEOUT = 10.0  # seconds that a call waits for another's transaction
_READING_ATTEMPTS, _CLOSING_ATTEMPTS = 50, 200


class LedgerFile:
    """The SQLite file at `path`, which must exist. One object may serve several threads.

    Opening locks nothing. `write` takes the writer's lock and keeps it until `close`, after which the file can still
    be read. Faults of SQLite and of the file system are raised as `LedgerError`, in one line.
    """

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path, self._read_only, self._mutex = path, read_only, threading.RLock()
        self._lock: TextIO | None = None
        self._connection: sqlite3.Connection | None = None

    def read(self, query: Callable[[sqlite3.Connection], Value]) -> Value:
        """Return what `query` reads, through the writer's connection or one for this call alone.

        Without a `-wal` nobody writes, and the file is opened as immutable, for SQLite would make a `-wal` and a `-shm`
        otherwise. Should it have changed after all, `query` reads again.
        """
        with self._mutex, _ledger_errors(self.path):
            if self._connection is not None:
                return query(self._connection)
            for _ in range(_READING_ATTEMPTS):
                before = self._unchanging_state()
                try:
                    with closing(_connect(self.path, "mode=ro&immutable=1" if before else "mode=ro")) as connection:
                        value = query(connection)
                    if before is None or before == self._unchanging_state():
                        return value
                except (sqlite3.DatabaseError, LedgerError):
                    if before is None or before == self._unchanging_state():
                        raise
            raise LedgerError(f"the ledger {self.path} changes faster than it can be read: try again")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction: on the disk when the block ends, undone when it raises."""
        with self._mutex, _ledger_errors(self.path):
            if self._read_only:
                raise LedgerError(f"the ledger {self.path} is closed or read-only: open it with Ledger.start to write")
            if self._lock is None:
                self.start_writing(take_lock(self.path))
            if self._connection is None or self._lock is None or self._lock.closed:
                raise LedgerError(f"the ledger {self.path} belongs to the process that opened it: write from there")
            with _transaction(self._connection):
                yield self._connection

    def write_without_lock(self, statement: str, values: Sequence[Any]) -> None:
        """Execute one statement in a transaction of its own, whoever holds the writer's lock."""
        with self._mutex, _ledger_errors(self.path):
            own = self._connection
            opened = nullcontext(own) if own else closing(_connect(self.path, "mode=rw"))
            with opened as connection, _transaction(connection):
                connection.execute(statement, values)

    def writer(self) -> int | None:
        """Return the process that holds the writer's lock, as the lock file says, without taking a lock."""
        try:
            pid = int(sidecar(self.path, ".lock").read_text())
            with suppress(PermissionError):  # somebody else's process
                os.kill(pid, 0)  # sends nothing: only asks whether it is there; a killed one leaves its number behind
        except (OSError, ValueError, OverflowError):
            return None
        return pid

    def start_writing(self, lock: TextIO) -> None:
        """Write from now on, under a lock from `take_lock`, which is released if that fails."""
        try:
            with _ledger_errors(self.path):
                connection = _connect(self.path, "mode=rw")
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # this makes the -wal
        except BaseException:
            release_lock(lock)
            raise
        self._connection, self._lock = connection, lock

    def close(self) -> None:
        """Bring everything into the one file and release the lock."""
        with self._mutex:
            connection, lock = self._connection, self._lock
            self._read_only, self._connection, self._lock = True, None, None
            if connection is None or lock is None:
                return
            try:
                with _ledger_errors(self.path), closing(connection):
                    _end_wal_mode(connection)
            finally:
                release_lock(lock)

    def _unchanging_state(self) -> tuple[int, int] | None:
        """Time and size of the file; None while there is a `-wal`."""
        if sidecar(self.path, "-wal").exists() or not self.path.exists():
            return None
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size


def create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make the file of a new ledger, with what `fill` writes, so that no half-made one is ever found."""

    def write(part: Path) -> None:
        part.unlink(missing_ok=True)
        for suffix in ("-wal", "-shm", "-journal"):  # of a deleted ledger: SQLite would take them for the new one's
            sidecar(path, suffix).unlink(missing_ok=True)
            sidecar(part, suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(part, isolation_level=None)) as connection, _transaction(connection):
            fill(connection)

    with _ledger_errors(path):
        write_atomically(path, write)


def check_pages(path: Path, connection: sqlite3.Connection) -> None:
    """Raise `LedgerError` when pages are damaged or missing."""
    [(verdict,), *_] = connection.execute("PRAGMA quick_check").fetchall()
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    alone = path.exists() and not sidecar(path, "-wal").exists()
    if verdict != "ok" or (alone and path.stat().st_size % page_size):
        raise LedgerError(f"{path} is damaged or was cut short: restore it or start another study")


def take_lock(path: Path) -> TextIO:
    """Return the lock file, open, locked, and naming this process. Raises `LedgerError` when another has it."""
    with _ledger_errors(path):
        lock = sidecar(path, ".lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(20).strip() or "unknown"
            lock.close()
            who = "this process, which did not close it" if holder == str(os.getpid()) else f"process {holder}"
            advice = "wait until it ends, stop it, or use another study name"
            raise LedgerError(f"the ledger {path} is being written by {who}: {advice}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    reference = weakref.ref(lock)

    def close_inherited() -> None:
        if (inherited := reference()) is not None:
            inherited.close()

    os.register_at_fork(after_in_child=close_inherited)  # a forked child would hold the lock beyond its parent's death
    return lock


def release_lock(lock: TextIO) -> None:
    """Release a lock from `take_lock`."""
    if not lock.closed:
        lock.truncate(0)
        fcntl.flock(lock, fcntl.LOCK_UN)
        lock.close()


def has_ledger(path: Path) -> bool:
    """Return whether there is a ledger at this path, packed or not."""
    return path.exists() or sidecar(path, PACKED).exists()


def find_ledgers(root: Path, pattern: str = "**/ledger.sqlite") -> list[Path]:
    """Return the ledgers under a folder in the order of their paths, packed ones by the path that they unpack to."""
    plain = set(root.glob(pattern))
    return sorted(plain | {path.with_suffix("") for path in root.glob(pattern + PACKED)})


def pack_file(path: Path, prepare: Callable[[sqlite3.Connection], None]) -> Path:
    """Replace a file that nobody writes with `<file>.xz`; return its path. Equal files give equal bytes.

    `prepare` changes the copy, in memory, that is packed; where it raises, nothing has happened.
    """
    lock = take_lock(path)
    try:
        with _ledger_errors(path):
            if sidecar(path, "-wal").exists():
                raise LedgerError(f"the ledger {path} was not closed: start its study again, then pack it")
            target = sidecar(path, PACKED)
            with closing(_in_memory(path.read_bytes())) as connection:
                prepare(connection)
                data = connection.serialize()
            write_atomically(target, lzma.compress(data, check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME))
            path.unlink()
            return target
    finally:
        release_lock(lock)


def unpack(path: Path) -> None:
    """Undo `pack_file`, under the writer's lock; where nothing is packed, do nothing."""
    with _ledger_errors(path):
        source = sidecar(path, PACKED)
        if not path.exists() and source.exists():
            write_atomically(path, _unpacked(source))
        source.unlink(missing_ok=True)  # next to a file: a kill came between the two lines, here or in `pack_file`


def sidecar(path: Path, suffix: str) -> Path:
    """Return the file next to `path` whose name ends in `suffix`."""
    return path.with_name(path.name + suffix)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Connect without creating the file; each transaction is on the disk before the next."""
    if sidecar(path, PACKED).is_file() and not path.is_file() and mode != "mode=rw":
        return _in_memory(_unpacked(sidecar(path, PACKED)))
    if not path.is_file():  # never open it here: closing it would take SQLite's own locks away from this process
        raise LedgerError(f"there is no ledger at {path}: start the study first, or give the path of its ledger.sqlite")
    address = f"{path.resolve().as_uri()}?{mode}"
    connection = sqlite3.connect(address, _BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=True)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _unpacked(path: Path) -> bytes:
    try:
        return lzma.decompress(path.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        fault = f"{path} is not a packed ledger, or damaged ({error})"
        raise LedgerError(f"{fault}: restore it or start another study") from None


def _in_memory(data: bytes) -> sqlite3.Connection:
    """Connect to a copy in memory, where there is no log: bytes 18 and 19, which say so, are set to 1."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.deserialize(data[:18] + b"\x01\x01" + data[20:])
    return connection


def _end_wal_mode(connection: sqlite3.Connection) -> None:
    """Move the log into the file. A reader in the middle of a call delays that for a moment."""
    connection.execute("PRAGMA busy_timeout = 0").fetchall()
    for _ in range(_CLOSING_ATTEMPTS):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            return
        time.sleep(0.01)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _ledger_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the file system into `LedgerError`. Undecodable text means a damaged file."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise  # a mistake in this library, not in the file
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        text = one_line(error, 120, kind=False)
        damaged = text.startswith(("no such", "Could not decode"))
        fault = f"{path} is not a ledger, or damaged ({text}): restore it or start another study"
        if isinstance(error, sqlite3.OperationalError) and not damaged:
            fault = f"cannot use the ledger {path} ({text}): see that nothing else holds it, and that the disk has room"
        raise LedgerError(fault) from None
    except OSError as error:
        raise LedgerError(f"cannot use the ledger {path}: {error.strerror}; see that its folder can be used") from None
