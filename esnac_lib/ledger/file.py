"""The file under a ledger: SQLite with one writer, any number of readers, and nothing left beside it at the end.

While a study is written its file is in WAL mode, with a `-wal` and a `-shm` beside it, so that others can read it
meanwhile. Whoever writes holds an exclusive `flock` on `<file>.lock`, which the system gives back when that process
ends, however it ends. The lock file stays: whoever removed it could let two writers in.

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
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from esnac_lib.errors import LedgerError, one_line
from esnac_lib.files import write_atomically

Value = TypeVar("Value")

PACKED = ".xz"
_PATIENCE = 10.0  # seconds that a call waits for another's transaction
_READING_ATTEMPTS = 50
_CLOSING_ATTEMPTS = 200


class LedgerFile:
    """The SQLite file at `path`, which must exist. One object may serve several threads.

    Opening locks nothing. `write` takes the writer's lock and keeps it until `close`, after which the file can still
    be read. Faults of SQLite and of the file system are raised as `LedgerError`, in one line.
    """

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        self._read_only = read_only
        self._lock: TextIO | None = None
        self._connection: sqlite3.Connection | None = None
        self._mutex = threading.RLock()

    def read(self, job: Callable[[sqlite3.Connection], Value]) -> Value:
        """What `job` reads, through the writer's connection or one for this call alone.

        Without a `-wal` nobody writes, and the file is opened as one that does not change, for SQLite would make a
        `-wal` and a `-shm` otherwise. Should it have changed after all, `job` reads again.
        """
        with self._mutex, _ledger_errors(self.path):
            if self._connection is not None:
                return job(self._connection)
            for _ in range(_READING_ATTEMPTS):
                before = self._at_rest()
                try:
                    with closing(_connect(self.path, "mode=ro&immutable=1" if before else "mode=ro")) as connection:
                        value = job(connection)
                except (sqlite3.DatabaseError, LedgerError):
                    if before is None or before == self._at_rest():
                        raise
                else:
                    if before is None or before == self._at_rest():
                        return value
            raise LedgerError(f"the ledger {self.path} changes faster than it can be read: try again")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when the block ends, undone when it raises."""
        with self._mutex, _ledger_errors(self.path):
            if self._read_only:
                raise LedgerError(f"the ledger {self.path} is closed or read-only: open it with Ledger.start to write")
            if self._lock is None:
                self.become_writer(take_lock(self.path))
            if self._connection is None or self._lock is None or self._lock.closed:
                raise LedgerError(f"the ledger {self.path} belongs to the process that opened it: write from there")
            with _transaction(self._connection):
                yield self._connection

    def write_beside_the_writer(self, statement: str, values: Sequence[Any]) -> None:
        """One statement in a transaction of its own, whoever holds the writer's lock."""
        with self._mutex, _ledger_errors(self.path):
            if self._connection is not None:
                with _transaction(self._connection):
                    self._connection.execute(statement, values)
            else:
                with closing(_connect(self.path, "mode=rw")) as connection, _transaction(connection):
                    connection.execute(statement, values)

    def writer(self) -> int | None:
        """The process that holds the writer's lock, by what the lock file says; takes no lock, so it hinders nobody."""
        try:
            pid = int(beside(self.path, ".lock").read_text())
        except (OSError, ValueError):
            return None
        try:
            os.kill(pid, 0)  # sends nothing: only asks whether it is there; a killed one leaves its number behind
        except PermissionError:
            return pid  # somebody else's
        except (OSError, OverflowError):
            return None
        return pid

    def become_writer(self, lock: TextIO) -> None:
        """Write from now on, under a lock from `take_lock`, which is given back if that fails."""
        try:
            with _ledger_errors(self.path):
                connection = _connect(self.path, "mode=rw")
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # this makes the -wal
        except BaseException:
            give_back(lock)
            raise
        self._connection, self._lock = connection, lock

    def close(self) -> None:
        """Bring all into the one file and give the lock back."""
        with self._mutex:
            connection, lock = self._connection, self._lock
            self._read_only, self._connection, self._lock = True, None, None
            if connection is None or lock is None:
                return
            try:
                with _ledger_errors(self.path), closing(connection):
                    _leave_wal(connection)
            finally:
                give_back(lock)

    def _at_rest(self) -> tuple[int, int] | None:
        """What changes when the file does; None while there is a `-wal`."""
        if beside(self.path, "-wal").exists() or not self.path.exists():
            return None
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size


def create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a file beside its place, `fill` it and rename it there, so that no half-made one is ever found."""

    def write(part: Path) -> None:
        part.unlink(missing_ok=True)
        for suffix in ("-wal", "-shm", "-journal"):  # of a deleted ledger: SQLite would take them for the new one's
            beside(path, suffix).unlink(missing_ok=True)
            beside(part, suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(part, isolation_level=None)) as connection, _transaction(connection):
            fill(connection)

    with _ledger_errors(path):
        write_atomically(path, write)


def check_whole(path: Path, connection: sqlite3.Connection) -> None:
    """Raise `LedgerError` when pages are damaged or missing."""
    [(verdict,), *_] = connection.execute("PRAGMA quick_check").fetchall()
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    alone = path.exists() and not beside(path, "-wal").exists()
    if verdict != "ok" or (alone and path.stat().st_size % page_size):
        raise LedgerError(f"{path} is damaged or was cut short: restore it or start another study")


def take_lock(path: Path) -> TextIO:
    """The lock file, open, locked, and naming this process. Raises `LedgerError` when another has it."""
    with _ledger_errors(path):
        lock = beside(path, ".lock").open("a+")
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

    def let_go() -> None:
        inherited = reference()
        if inherited is not None:
            inherited.close()

    os.register_at_fork(after_in_child=let_go)  # a forked child would hold the lock beyond its parent's death
    return lock


def give_back(lock: TextIO) -> None:
    """Let the next writer in."""
    if not lock.closed:
        lock.truncate(0)
        fcntl.flock(lock, fcntl.LOCK_UN)
        lock.close()


def has_ledger(path: Path) -> bool:
    """Whether there is a ledger at this path, packed or not."""
    return path.exists() or beside(path, PACKED).exists()


def find_ledgers(root: Path, pattern: str = "**/ledger.sqlite") -> list[Path]:
    """The ledgers under a folder in the order of their paths, packed ones by the path that they unpack to."""
    plain = set(root.glob(pattern))
    return sorted(plain | {path.with_suffix("") for path in root.glob(pattern + PACKED)})


def pack_file(path: Path, prepare: Callable[[sqlite3.Connection], None]) -> Path:
    """Put `<file>.xz` in the place of a file that nobody writes; returns its path. Equal files give equal bytes.

    prepare: changes the copy, in memory, that is packed; where it raises, nothing has happened.
    """
    lock = take_lock(path)
    try:
        with _ledger_errors(path):
            if beside(path, "-wal").exists():
                raise LedgerError(f"the ledger {path} was not closed: start its study again, then pack it")
            target = beside(path, PACKED)
            with closing(_in_memory(path.read_bytes())) as connection:
                prepare(connection)
                data = connection.serialize()
            write_atomically(target, lzma.compress(data, check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME))
            path.unlink()
            return target
    finally:
        give_back(lock)


def unpack(path: Path) -> None:
    """The inverse of `pack_file`, for whoever holds the writer's lock; where nothing is packed, nothing happens."""
    with _ledger_errors(path):
        source = beside(path, PACKED)
        if not path.exists() and source.exists():
            write_atomically(path, _unpacked(source))
        source.unlink(missing_ok=True)  # beside a file: a kill came between the two lines, here or in `pack_file`


def beside(path: Path, suffix: str) -> Path:
    """The neighbour of a file with this at the end of its name."""
    return path.with_name(path.name + suffix)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that never makes the file and brings each transaction to the disk before it goes on."""
    if beside(path, PACKED).is_file() and not path.is_file() and mode != "mode=rw":
        return _in_memory(_unpacked(beside(path, PACKED)))
    if not path.is_file():  # never open it here: closing it would take SQLite's own locks away from this process
        raise LedgerError(f"there is no ledger at {path}: start the study first, or give the path of its ledger.sqlite")
    address = f"{path.resolve().as_uri()}?{mode}"
    connection = sqlite3.connect(address, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _unpacked(path: Path) -> bytes:
    try:
        return lzma.decompress(path.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise LedgerError(
            f"{path} is no packed ledger, or damaged ({error}): restore it or start another study"
        ) from None


def _in_memory(data: bytes) -> sqlite3.Connection:
    """A connection to a copy. Bytes 18 and 19 say that there is a log: memory has none, and they are set to 1."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.deserialize(data[:18] + b"\x01\x01" + data[20:])
    return connection


def _leave_wal(connection: sqlite3.Connection) -> None:
    """Fold the log in. A reader in the middle of a call holds that up for a moment."""
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
    """What SQLite and the file system complain of, as a `LedgerError`. Text that is no text means a damaged file."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise  # a mistake in this library, not in the file
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        text = one_line(error, 120, kind=False)
        damaged = text.startswith(("no such", "Could not decode"))
        if isinstance(error, sqlite3.OperationalError) and not damaged:
            fault = f"cannot use the ledger {path} ({text}): see that nothing else holds it, and that the disk has room"
        else:
            fault = f"{path} is no ledger, or damaged ({text}): restore it or start another study"
        raise LedgerError(fault) from None
    except OSError as error:
        raise LedgerError(f"cannot use the ledger {path}: {error.strerror}; see that its folder can be used") from None
