"""Progress: few plain lines where nobody watches, with the time that is left."""

from __future__ import annotations

import pytest

from esnac_lib.training import progress
from esnac_lib.training.progress import Progress, duration


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 185, 3600, 7830)] == [
        "0 s", "59 s", "1 min 0 s", "3 min 5 s", "1 h 0 min", "2 h 10 min",
    ]  # fmt: skip


def test_plain_lines_are_rare_and_tell_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(bars=False)
    shown.begin("step 1/2")
    for done in range(1, 101):
        now += 1.0
        shown.batch(done, 200)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100 // 15
    assert lines[0] == "  step 1/2: 8%, 3 min 5 s left in this"  # 15 batches of 200 in 15 s
    shown.left = lambda: 600.0  # where a study knows how long all of it takes
    now += 15
    shown.batch(101, 200)
    assert capsys.readouterr().out == "  step 1/2: 50%, 10 min 0 s left in all\n"


def test_a_bar_is_a_line_of_text_that_ends_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """No widget, which a notebook would lose when it is opened again."""
    bar = Progress(bars=True)
    bar.begin("step 1/2")
    bar.batch(1, 4)
    assert "step 1/2:   0%|" in capsys.readouterr().out.rpartition("\r")[2]
    bar.note("a note")
    assert capsys.readouterr().out.split("\r")[-1] == "a note\n"
    bar.batch(4, 4)
    bar.end()
    assert not capsys.readouterr().out.split("\r")[-2].strip()


def test_bars_only_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not Progress().bars
    monkeypatch.setenv("JPY_SESSION_NAME", "search.ipynb")
    assert Progress().bars
