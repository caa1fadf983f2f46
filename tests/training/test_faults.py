"""A limit interrupts what hangs, and only that."""

from __future__ import annotations

import math
import signal
import threading
import time

import pytest

from esnac_lib.training.faults import TimeLimitError, time_limit


def test_what_hangs_is_interrupted() -> None:
    began = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"^the nap took longer than it may$"), time_limit(0.05, "the nap"):
        time.sleep(60)
    assert time.monotonic() - began < 30


def test_a_loop_is_interrupted() -> None:
    with pytest.raises(TimeLimitError), time_limit(0.05, "the loop"):
        while True:
            pass


@pytest.mark.parametrize("seconds", [math.inf, 60.0])
def test_what_is_in_time_is_not(seconds: float) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(seconds, "it"):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_time_at_all() -> None:
    with pytest.raises(TimeLimitError), time_limit(-1.0, "it"):
        pytest.fail("it was done")


def test_an_error_within_passes() -> None:
    with pytest.raises(ZeroDivisionError), time_limit(60.0, "it"):
        _ = 1 / 0


def test_an_alarm_from_outside_goes_on() -> None:
    rings: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rings.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with time_limit(60.0, "it"):
            time.sleep(0.01)
        remaining, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < remaining < 0.2
        time.sleep(0.4)
        assert rings == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_in_a_thread_it_is_looked_at_afterwards() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with time_limit(0.01, "it"):
                time.sleep(0.05)
        except TimeLimitError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1
