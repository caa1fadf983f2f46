"""The ledger: what was recorded stays, one writes, all may read, and damage is said in one line."""

from __future__ import annotations

import json
import lzma
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esnac_lib.errors import LedgerError
from esnac_lib.ledger import file as ledger_file
from esnac_lib.ledger.digest import digest
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import SCHEMA, ProposalRow

ROOT = Path(__file__).resolve().parents[2]
ROW = ProposalRow(0, "a0", 1000, 20_000, '{"removed": []}', '{"layers": []}', 0.5, 0.05, 0.01, 0.25)
FIRST_COLUMNS = ["trial", "step", "kernel", "arch_id", "state", "accuracy", "params", "macs", "f", "error", "seconds"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "ledger.sqlite"


def refusal(call: Callable[..., Any], *values: Any, **named: Any) -> str:
    """The line that a call is refused with."""
    with pytest.raises(LedgerError) as caught:
        call(*values, **named)
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def names_next_to(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_a_trial_from_waiting_to_observed(path: Path) -> None:
    with Ledger.start(path, {"K": 2}) as ledger:
        assert ledger.record(0, [ROW, replace(ROW, kernel=None, mean=None, variance=None, ei=None)]) == [0, 1]
        assert ledger.record(1, [replace(ROW, kernel=1, arch_id="a2")]) == [2]
        assert ledger.record(2, []) == []
        ledger.running([0, 1])
        assert list(ledger.trials().state) == ["running", "running", "waiting"]
        ledger.complete(1, accuracy=0.9, f=0.7, best_epoch=3, seconds=1.5)
        ledger.fail(2, "the loss is not finite", seconds=0.5)
        assert ledger.pending(0) == {0: ROW}
        assert ledger.pending(1) == {}

    trials = Ledger(path).trials()
    assert list(trials.columns[:11]) == FIRST_COLUMNS
    assert list(trials.trial) == [0, 1, 2]
    assert list(trials.state) == ["running", "complete", "failed"]
    assert list(trials.step) == [0, 0, 1]
    assert list(trials.kernel.fillna(-1)) == [0, -1, 1]
    assert list(trials.f.fillna(-1)) == [-1, 0.7, 0.0]
    assert list(trials.error) == [None, None, "the loss is not finite"]
    assert list(trials.best_epoch.fillna(-1)) == [-1, 3, -1]
    assert list(trials.told_at.isna()) == [True, False, False]
    assert abs(pd.Timestamp.now("UTC") - trials.told_at[1]) < pd.Timedelta(minutes=1)
    assert math.isnan(trials.accuracy[2])


def test_an_empty_ledger_has_the_same_columns_and_types(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        empty, no_epochs = ledger.trials(), ledger.epochs()
        ledger.record(0, [ROW])
        ledger.epoch("teacher", "t", 0, 1.0, 0.5, 0.1)
        assert len(empty) == len(no_epochs) == 0
        pd.testing.assert_series_equal(empty.dtypes, ledger.trials().dtypes)
        pd.testing.assert_series_equal(no_epochs.dtypes, ledger.epochs().dtypes)
        types = empty.dtypes.astype(str)
    assert (types["trial"], types["kernel"], types["accuracy"], types["error"]) == (
        "int64",
        "Int64",
        "float64",
        "object",
    )
    assert types["told_at"] == "datetime64[us, UTC]"


def test_rows_hold_plain_finite_numbers(path: Path) -> None:
    row = replace(ROW, kernel=np.int64(3), params=np.int32(7), mean=np.float32(0.5), propose_seconds=1)  # type: ignore[arg-type]
    assert [type(value) for value in (row.kernel, row.params, row.mean, row.propose_seconds)] == [
        int,
        int,
        float,
        float,
    ]
    with Ledger.start(path, {}) as ledger:
        ledger.record(0, [row])
        assert ledger.pending(0) == {0: row}
    for value in (math.nan, math.inf, -math.inf):
        assert refusal(replace, ROW, ei=value).startswith(f"ei = {value} cannot be stored")
    assert refusal(replace, ROW, decisions={"removed": []}).startswith("decisions = {'removed': []} cannot be stored")


def test_record_is_all_or_nothing(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.record(0, [ROW, replace(ROW, params=None)])  # type: ignore[arg-type]
        assert len(ledger.trials()) == 0
        assert ledger.record(0, [ROW]) == [0]


def test_what_is_no_number_is_refused_and_changes_nothing(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        ledger.record(0, [ROW])
        for value in (math.nan, math.inf):
            assert "accuracy = " in refusal(ledger.complete, 0, value, 0.5, 1, 1.0)
            assert "f = " in refusal(ledger.complete, 0, 0.5, value, 1, 1.0)
            assert "f = " in refusal(ledger.fail, 0, "reason", 1.0, f=value)
        assert list(ledger.trials().state) == ["waiting"]


def test_a_trial_is_observed_once(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        ledger.record(0, [ROW, ROW, ROW])
        ledger.complete(0, 0.9, 0.7, 3, 1.5)
        ledger.fail(1, "reason", 1.0)
        before = ledger.trials()
        assert "trial 0 of" in refusal(ledger.complete, 0, 0.8, 0.6, 3, 1.5)
        assert "has a result already (complete)" in refusal(ledger.fail, 0, "reason", 1.0)
        assert "has a result already (failed)" in refusal(ledger.complete, 1, 0.8, 0.6, 3, 1.5)
        assert "has a result already" in refusal(ledger.running, [2, 0])  # and 2 is not running either
        assert "there is no trial 9" in refusal(ledger.complete, 9, 0.8, 0.6, 3, 1.5)
        pd.testing.assert_frame_equal(ledger.trials(), before)


def test_a_fault_of_the_machine_has_no_f(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        ledger.record(0, [ROW, ROW])
        ledger.fail(0, "out of memory", 1.0, f=None)
        ledger.fail(1, "the loss is not finite", 1.0)
        trials = ledger.trials()
    assert list(trials.state) == ["failed", "failed"]
    assert list(trials.f.fillna(-1)) == [-1, 0]
    assert trials.told_at.notna().all()


def test_running_trials_wait_again(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        ledger.record(0, [ROW, ROW, ROW])
        ledger.running([0, 1])
        ledger.complete(0, 0.9, 0.7, 3, 1.5)
        assert ledger.reset_running() == 1
        assert list(ledger.trials().state) == ["complete", "waiting", "waiting"]


def test_epochs_are_replaced_and_ordered(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        for epoch in (1, 0):
            ledger.epoch("search", "b", epoch, 0.5, 0.8, 1.0)
        ledger.epoch("search", "a", 0, math.nan, None, 1.0)
        ledger.epoch("final", "c", 0, 0.4, 0.7, 1.0)
        ledger.epoch("search", "b", 1, np.float32(0.25), 0.9, 2.0)  # type: ignore[arg-type]
        epochs = ledger.epochs()
        keys = list(zip(epochs["phase"], epochs["name"], epochs["epoch"], strict=True))
        assert keys == [("final", "c", 0), ("search", "a", 0), ("search", "b", 0), ("search", "b", 1)]
        assert list(epochs["loss"].fillna(-1)) == [0.4, -1, 0.5, 0.25]
        assert list(epochs["accuracy"].fillna(-1)) == [0.7, -1, 0.8, 0.9]
        assert list(ledger.epochs("search")["name"]) == ["a", "b", "b"]


def test_results_are_replaced(path: Path) -> None:
    with Ledger.start(path, {}) as ledger:
        ledger.result("final", "b", {"accuracy": 0.5, "runs": [1, 2], "note": None})
        ledger.result("final", "a", {"accuracy": 0.25})
        ledger.result("final", "b", {"accuracy": 0.75})
        assert list(ledger.results("final").items()) == [("a", {"accuracy": 0.25}), ("b", {"accuracy": 0.75})]
        assert ledger.results("teacher") == {}
        assert "plain data without NaN" in refusal(ledger.result, "final", "c", {"accuracy": math.nan})
        assert "plain data without NaN" in refusal(ledger.result, "final", "c", {"accuracy": np.ones(2)})


def test_config_is_kept_until_it_is_set(path: Path) -> None:
    with Ledger.start(path, {"K": 2, "final_lr": 0.05, "augment": True}) as ledger:
        ledger.record(0, [ROW])
    with Ledger.start(path, {"K": 3}) as ledger:
        assert ledger.config == {"K": 2, "final_lr": 0.05, "augment": True}
        assert len(ledger.trials()) == 1
        ledger.set_config({"K": 2, "steps": 9})
    assert Ledger(path).config == {"K": 2, "steps": 9}


def test_nothing_is_left_next_to_it(path: Path) -> None:
    ledger = Ledger.start(path, {})
    ledger.record(0, [ROW])
    assert {"ledger.sqlite-wal", "ledger.sqlite-shm"} <= names_next_to(path)
    ledger.close()
    ledger.close()
    assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}
    assert path.with_name("ledger.sqlite.lock").read_text() == ""
    assert path.read_bytes()[18:20] == b"\x01\x01"  # no longer in WAL mode: any reader can open it, and makes nothing
    assert len(ledger.trials()) == 1  # a closed ledger can be read
    assert "closed or read-only" in refusal(ledger.record, 0, [ROW])
    assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}


def test_close_with_a_reader_in_the_middle_of_a_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_CLOSING_ATTEMPTS", 3)
    ledger = Ledger.start(path, {})
    ledger.record(0, [ROW])
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM trials").fetchall() == [(1,)]
        ledger.close()
        assert len(Ledger(path).trials()) == 1
    with Ledger.start(path, {}) as ledger:
        assert ledger.record(0, [ROW]) == [1]
    assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}


class TestOneWriter:
    def test_in_one_process(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            assert "being written by this process" in refusal(Ledger.start, path, {})
            assert "being written by this process" in refusal(Ledger(path).record, 0, [ROW])
            assert ledger.record(0, [ROW]) == [0]
        with Ledger.start(path, {}) as ledger:
            assert ledger.record(0, [ROW]) == [1]

    def test_in_two_processes(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            code = "import sys; from esnac_lib.ledger import Ledger; Ledger.start(sys.argv[1], {})"
            child = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
            assert child.returncode == 1
            line = child.stderr.strip().splitlines()[-1]
            assert f"is being written by process {os.getpid()}: wait until it ends, stop it, or use" in line
            assert ledger.record(0, [ROW]) == [0]

    def test_the_first_write_takes_the_lock(self, path: Path) -> None:
        Ledger.start(path, {}).close()
        first, second = Ledger(path), Ledger(path)
        assert first.record(0, [ROW]) == [0]
        assert len(second.trials()) == 1
        assert "being written" in refusal(second.record, 0, [ROW])
        first.close()
        assert second.record(0, [ROW]) == [1]
        second.close()

    def test_a_failed_start_gives_the_lock_back(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"no ledger" * 1000)
        refusal(Ledger.start, path, {})
        path.unlink()
        Ledger.start(path, {}).close()

    def test_threads_share_a_ledger(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            numbers: list[int] = []
            threads = [
                threading.Thread(
                    target=lambda: numbers.extend(n for _ in range(5) for n in ledger.record(0, [ROW, ROW]))
                )
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(numbers) == list(range(40)) == list(ledger.trials().trial)

    def test_a_forked_child_neither_writes_nor_keeps_the_lock(self, path: Path) -> None:
        parent = subprocess.Popen(
            [sys.executable, "-c", FORKING_CHILD, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with parent:  # leaving closes the pipe, which ends the grandchild
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"refused\n"
            assert parent.wait(60) == -signal.SIGKILL
            with Ledger.start(path, {}) as ledger:
                assert ledger.record(0, [ROW]) == [1]


FORKING_CHILD = """
import os, signal, sys
from esnac_lib.errors import LedgerError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
row = ProposalRow(0, "a", 10, 20, "{}", "{}", None, None, None, 0.1)
ledger = Ledger.start(sys.argv[1], {})
ledger.record(0, [row])
started, starts = os.pipe()
if os.fork() == 0:
    try:
        ledger.record(0, [row])
        answer = "wrote"
    except LedgerError:
        answer = "refused"
    print(answer, flush=True)
    os.write(starts, b"!")
    sys.stdin.read()
    os._exit(0)
os.read(started, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
CHILD = """
import os, signal, sys
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
row = ProposalRow(0, "a", 10, 20, "{}", "{}", None, None, None, 0.1)
ledger = Ledger.start(sys.argv[1], {"K": 3})
ledger.record(0, [row, row, row])
ledger.running([0, 1])
ledger.epoch("search", "0", 0, 0.5, 0.8, 1.0)
ledger.complete(0, accuracy=0.875, f=0.75, best_epoch=1, seconds=2.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_recorded_survives_a_kill(path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, capture_output=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "ledger.sqlite-wal" in names_next_to(path)
    bytes_before = {file: file.read_bytes() for file in (path, path.with_name("ledger.sqlite-wal"))}

    reader = Ledger(path, read_only=True)
    for trials in (reader.trials(), reader.trials()):
        assert list(trials.state) == ["complete", "running", "waiting"]
        assert (trials.accuracy[0], trials.f[0], trials.best_epoch[0]) == (0.875, 0.75, 1)
    assert len(reader.epochs()) == 1
    assert {file: file.read_bytes() for file in bytes_before} == bytes_before

    with Ledger.start(path, {"K": 3}) as ledger:
        assert ledger.reset_running() == 1
        assert list(ledger.pending(0)) == [1, 2]
    assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}
    assert list(reader.trials().state) == ["complete", "waiting", "waiting"]


class TestReaders:
    def test_a_reader_sees_what_was_recorded(self, path: Path) -> None:
        with Ledger.start(path, {"K": 1}) as ledger:
            reader = Ledger(path, read_only=True)
            assert len(reader.trials()) == 0
            ledger.record(0, [ROW])
            assert list(reader.trials().state) == ["waiting"]
            ledger.running([0])
            assert list(reader.trials().state) == ["running"]
            assert reader.config == {"K": 1}
        assert list(reader.trials().state) == ["running"]

    def test_read_only_writes_and_makes_nothing(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            ledger.record(0, [ROW])
        path.with_name("ledger.sqlite.lock").unlink()
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        reader = Ledger(path, read_only=True)
        calls: list[Callable[[], Any]] = [
            lambda: reader.record(0, [ROW]),
            lambda: reader.running([0]),
            lambda: reader.complete(0, 0.5, 0.5, 1, 1.0),
            lambda: reader.fail(0, "reason", 1.0),
            lambda: reader.reset_running(),
            lambda: reader.epoch("search", "0", 0, 0.5, 0.5, 1.0),
            lambda: reader.result("final", "0", {}),
            lambda: reader.set_config({}),
            lambda: reader.clear_requests(),
        ]
        for call in calls:
            assert "closed or read-only" in refusal(call)
        assert len(reader.trials()) == 1
        assert (reader.epochs().empty, reader.results("final"), reader.stop_requested()) == (True, {}, False)
        reader.close()
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        assert names_next_to(path) == {"ledger.sqlite"}

    def test_a_file_that_was_left_in_wal_mode(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            ledger.record(0, [ROW])
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA journal_mode = WAL")
        assert path.read_bytes()[18:20] == b"\x02\x02"
        assert len(Ledger(path, read_only=True).trials()) == 1
        assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}

    def test_reads_again_when_the_file_changed_meanwhile(self, path: Path) -> None:
        Ledger.start(path, {}).close()
        seen: list[int] = []

        def count_while_another_writes(connection: sqlite3.Connection) -> int:
            seen.append(connection.execute("SELECT count(*) FROM trials").fetchall()[0][0])
            if len(seen) == 1:
                with Ledger.start(path, {}) as ledger:
                    ledger.record(0, [ROW] * 50)
            return seen[-1]

        assert ledger_file.LedgerFile(path, read_only=True).read(count_while_another_writes) == 50
        assert seen == [0, 50]

    def test_a_request_to_stop(self, path: Path) -> None:
        with Ledger.start(path, {}) as ledger:
            monitor = Ledger(path, read_only=True)
            monitor.request_stop()
            monitor.request_stop()
            assert ledger.stop_requested()
            assert monitor.stop_requested()
            ledger.clear_requests()
            assert not monitor.stop_requested()
            ledger.request_stop()
            ledger.record(0, [ROW])
        monitor.request_stop()
        assert monitor.stop_requested()
        assert names_next_to(path) == {"ledger.sqlite", "ledger.sqlite.lock"}


class TestDamage:
    def test_missing(self, tmp_path: Path) -> None:
        for read_only in (True, False):
            assert "there is no ledger at" in refusal(Ledger, tmp_path / "none.sqlite", read_only)
            assert "there is no ledger at" in refusal(Ledger, tmp_path, read_only)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("content", [b"", b"x", b"text " * 5000, bytes(8192), os.urandom(10_000)])
    def test_not_a_database(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        for call in (lambda: Ledger(path), lambda: Ledger(path, read_only=True), lambda: Ledger.start(path, {})):
            assert "damaged" in refusal(call)
        assert path.read_bytes() == content

    def test_another_database(self, path: Path) -> None:
        path.parent.mkdir()
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE things (name)")
        assert "is not a ledger, or damaged (no such table: meta)" in refusal(Ledger, path)
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE meta (key, value)")
        assert "damaged (no version)" in refusal(Ledger, path)

    def test_newer_version(self, path: Path) -> None:
        Ledger.start(path, {}).close()
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [str(SCHEMA + 1)])
        for call in (lambda: Ledger(path), lambda: Ledger.start(path, {})):
            assert f"is of a newer version (schema {SCHEMA + 1}, while this one knows {SCHEMA}): update" in refusal(
                call
            )

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(kept=st.floats(0, 1, exclude_max=True))
    def test_cut_anywhere(self, whole_ledger: bytes, kept: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            path.write_bytes(whole_ledger[: int(kept * len(whole_ledger))])
            refusal(Ledger, path)

    def test_a_page_was_lost(self, path: Path, whole_ledger: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(whole_ledger)
        whole = contents(path)
        with closing(sqlite3.connect(path)) as other:
            [(unused,)] = other.execute("PRAGMA freelist_count").fetchall()
        harmless = 0
        for page in range(1, len(whole_ledger) // 4096):
            path.write_bytes(whole_ledger[: page * 4096] + os.urandom(4096) + whole_ledger[(page + 1) * 4096 :])
            harmless += not refused_or_same(path, whole)
        assert harmless <= unused

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.floats(0, 1, exclude_max=True), damage=st.binary(min_size=1, max_size=80))
    def test_overwritten_anywhere(self, whole_ledger: bytes, place: float, damage: bytes) -> None:
        """What is read is what was written, to the last bit, or nothing."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            path.write_bytes(whole_ledger)
            whole = contents(path)
            at = int(place * len(whole_ledger))
            path.write_bytes((whole_ledger[:at] + damage + whole_ledger[at + len(damage) :])[: len(whole_ledger)])
            refused_or_same(path, whole)

    @pytest.mark.parametrize(
        "change",
        ["trials SET accuracy = 0.875001", "trials SET state = 'running'", "epochs SET loss = 0.25",
         "epochs SET name = '1'", "results SET value = '{}'", "meta SET value = '{}' WHERE key = 'config'",
         "trials SET digest = NULL"],
    )  # fmt: skip
    def test_another_value(self, path: Path, change: str) -> None:
        with Ledger.start(path, {"K": 4}) as ledger:
            ledger.record(0, [ROW])
            ledger.complete(0, 0.875, 0.75, 1, 2.0)
            ledger.epoch("search", "0", 1, 0.5, 0.5, 1.0)
            ledger.result("final", "0", {"accuracy": 0.5})
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(f"UPDATE {change}")
        line = refusal(Ledger, path)
        assert f"is damaged ({change.split()[0]}: " in line and "is not as it was written): restore it" in line

    def test_no_text_where_text_should_be(self, path: Path) -> None:
        """SQLite's own tables speak first."""
        Ledger.start(path, {}).close()
        path.write_bytes(
            path.read_bytes().replace(b"CREATE TABLE control", b"CREATE TABLE \xff\xff\xff\xff\xff\xff\xff")
        )
        assert "damaged" in refusal(Ledger, path)

    def test_config_that_is_no_json(self, path: Path) -> None:
        Ledger.start(path, {}).close()
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE meta SET value = '{', digest = ? WHERE key = 'config'", [digest(["config", "{"])])
        assert "damaged (no JSON)" in refusal(lambda: Ledger(path).config)

    def test_a_log_of_a_deleted_ledger_is_not_taken_over(self, path: Path) -> None:
        ledger = Ledger.start(path, {})
        ledger.record(0, [ROW])
        shutil.copy(path.with_name("ledger.sqlite-wal"), path.parent / "log")
        ledger.close()
        path.unlink()
        shutil.move(path.parent / "log", path.with_name("ledger.sqlite-wal"))
        with Ledger.start(path, {"K": 7}) as ledger:
            assert len(ledger.trials()) == 0
            assert ledger.config == {"K": 7}

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert "cannot make the folder" in refusal(Ledger.start, tmp_path / "file" / "ledger.sqlite", {})

    def test_config_that_cannot_be_stored(self, path: Path) -> None:
        assert "the config cannot be stored" in refusal(Ledger.start, path, {"lr": math.nan})
        assert not path.exists()


@pytest.fixture(scope="module")
def whole_ledger(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "ledger.sqlite"
    with Ledger.start(path, {"K": 4}) as ledger:
        ledger.record(0, [replace(ROW, architecture=json.dumps({"layers": ["x" * 900] * 9}))] * 12)
        for epoch in range(30):
            ledger.epoch("search", "0", epoch, 0.5, 0.5, 1.0)
    return path.read_bytes()


def contents(path: Path) -> list[Any]:
    ledger = Ledger(path)
    return [ledger.config, ledger.results("final"), ledger.trials().to_csv(), ledger.epochs().to_csv()]


def refused_or_same(path: Path, whole: list[Any]) -> bool:
    """Whether a damaged ledger is refused; if not, all of it is as it was."""
    try:
        assert contents(path) == whole
    except LedgerError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return True
    return False


def test_a_ledger_of_the_first_version_gets_its_digests(path: Path) -> None:
    path.parent.mkdir()
    packed = ROOT / "outputs" / "fashion_mnist_conv7_esnac" / "ledger.sqlite.xz"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    before, bytes_before = Ledger(path, read_only=True).trials(), path.read_bytes()
    assert path.read_bytes() == bytes_before  # reading changes nothing
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
    Ledger.start(path, {}).close()
    pd.testing.assert_frame_equal(Ledger(path).trials(), before)
    with closing(sqlite3.connect(path)) as other, other:
        assert other.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (str(SCHEMA),)
        other.execute("UPDATE trials SET f = f + 1e-9 WHERE trial = 3")
    assert "damaged (trials: 3, " in refusal(Ledger, path)


class LedgerMachine(RuleBasedStateMachine):
    """A dict of states compared with the ledger, through kills of the object, reopenings and refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path = Path(self.folder) / "ledger.sqlite"
        self.ledger = Ledger.start(self.path, {})
        self.states: list[str] = []

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule(count=st.integers(0, 3))
    def record(self, count: int) -> None:
        first = len(self.states)
        self.states += ["waiting"] * count
        assert self.ledger.record(0, [ROW] * count) == list(range(first, len(self.states)))

    @rule(trial=st.integers(0, 6), how=st.sampled_from(["running", "complete", "failed"]))
    def tell(self, trial: int, how: str) -> None:
        calls: dict[str, Callable[[], None]] = {
            "running": lambda: self.ledger.running([trial]),
            "complete": lambda: self.ledger.complete(trial, 0.5, 0.5, 0, 1.0),
            "failed": lambda: self.ledger.fail(trial, "reason", 1.0),
        }
        if trial < len(self.states) and self.states[trial] in ("waiting", "running"):
            calls[how]()
            self.states[trial] = how
        else:
            refusal(calls[how])

    @rule()
    def resume(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.start(self.path, {})
        assert self.ledger.reset_running() == self.states.count("running")
        self.states = ["waiting" if state == "running" else state for state in self.states]

    @invariant()
    def a_reader_agrees(self) -> None:
        assert list(Ledger(self.path, read_only=True).trials().state) == self.states


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
