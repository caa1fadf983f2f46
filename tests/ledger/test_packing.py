"""A packed ledger is read like the file itself, and unpacked by who writes."""

from __future__ import annotations

import lzma
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esnac_lib.errors import LedgerError
from esnac_lib.ledger.file import find_ledgers, has_ledger
from esnac_lib.ledger.ledger import Ledger, pack
from esnac_lib.ledger.schema import ProposalRow


def filled(path: Path) -> Path:
    with Ledger.start(path, {"study": "x"}) as ledger:
        rows = [
            ProposalRow(None, f"a{k}", 5, 5, "{}", '{"layers": []}' * 200, None, None, None, 0.1) for k in range(40)
        ]
        for trial in ledger.record(0, rows):
            ledger.complete(trial, 0.5, 0.25, 1, 1.0)
            ledger.epoch("search", f"trial{trial:04d}", 1, 0.5, 0.5, 1.0)
        ledger.result("teacher", "search", {"accuracy": 0.9})
    return path


def test_readers_see_no_difference(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    before = Ledger(path, read_only=True)
    trials, epochs, size = before.trials(), before.epochs(), path.stat().st_size
    packed = pack(path)
    assert not path.exists() and packed == tmp_path / "ledger.sqlite.xz" and packed.stat().st_size < size / 10
    assert has_ledger(path) and not has_ledger(tmp_path / "other.sqlite")
    after = Ledger(path, read_only=True)
    assert after.trials().equals(trials) and after.epochs().equals(epochs)
    assert after.config == {"study": "x"} and after.results("teacher") == {"search": {"accuracy": 0.9}}


def test_the_same_ledger_gives_the_same_bytes(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    data = path.read_bytes()
    first = pack(path).read_bytes()
    path.write_bytes(data)
    assert pack(path).read_bytes() == first


def test_a_writer_unpacks_it_and_goes_on(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    packed = pack(path)
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(path).complete(0, 0.5, 0.5, 1, 1.0)
    with Ledger.start(path, {"study": "y"}) as ledger:
        assert path.exists() and not packed.exists()
        assert ledger.config == {"study": "x"} and len(ledger.trials()) == 40
        ledger.result("solution", "student", {"f": 1.0})
    assert Ledger(path, read_only=True).results("solution") == {"student": {"f": 1.0}}


def test_ledgers_are_found_packed_or_not(tmp_path: Path) -> None:
    pack(filled(tmp_path / "e" / "a" / "ledger.sqlite"))
    filled(tmp_path / "e" / "b" / "ledger.sqlite")
    assert [path.parent.name for path in find_ledgers(tmp_path)] == ["a", "b"]
    assert [path.parent.name for path in find_ledgers(tmp_path / "e", "*/ledger.sqlite")] == ["a", "b"]
    assert find_ledgers(tmp_path / "nowhere") == []


def test_what_is_being_written_is_not_packed(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    with Ledger.start(path, {}), pytest.raises(LedgerError, match="is being written"):
        pack(path)
    assert path.exists()


def test_a_damaged_packed_ledger_is_told_in_one_line(tmp_path: Path) -> None:
    packed = pack(filled(tmp_path / "ledger.sqlite"))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(LedgerError, match="is not a packed ledger, or damaged") as caught:
        Ledger(tmp_path / "ledger.sqlite", read_only=True)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    packed = pack(filled(tmp_path / "ledger.sqlite"))
    whole = packed.read_bytes()
    for place in range(0, len(whole), 3):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(LedgerError, match="is not a packed ledger, or damaged") as caught:
            Ledger(tmp_path / "ledger.sqlite", read_only=True)
        assert "\n" not in str(caught.value)


def test_a_damaged_ledger_is_not_packed(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    path.write_bytes(path.read_bytes().replace(b"trial0007", b"trial0107"))
    with pytest.raises(LedgerError, match="is damaged"):
        pack(path)
    assert path.exists() and not (tmp_path / "ledger.sqlite.xz").exists()


def test_digests_make_way_for_one_checksum_and_come_back(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    plain = path.read_bytes()
    whole = len(lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME))
    assert pack(path).stat().st_size < 0.8 * whole
    with Ledger.start(path, {}) as ledger:
        trials = ledger.trials()
    path.write_bytes(path.read_bytes().replace(b"trial0007", b"trial0107"))
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger(path, read_only=True)
    path.write_bytes(plain)
    assert Ledger(path, read_only=True).trials().equals(trials)


def test_a_ledger_left_in_wal_mode_is_packed(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.read_bytes()[18:20] == b"\x02\x02"
    pack(path)
    assert len(Ledger(path, read_only=True).trials()) == 40


def test_a_kill_between_packing_and_deleting_leaves_one_ledger(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.sqlite")
    plain = path.read_bytes()
    packed = pack(path)
    path.write_bytes(plain)  # both are there
    with Ledger.start(path, {}) as ledger:
        ledger.result("solution", "student", {"f": 1.0})
    assert not packed.exists()  # an older one would come back should the other be deleted
