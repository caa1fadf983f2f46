"""What a training asks of its machine: memory that stays, and checkpoints that do not eat its time."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from esnac_lib.training import checkpoints
from esnac_lib.training.checkpoints import CheckpointSchedule
from esnac_lib.training.device import device_settings


def page_faults(times: int) -> int:
    """Of making and freeing 40 MB, more than glibc keeps by itself, so many times; 9,766 pages of 4 KiB each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep freed memory as they like")
def test_freed_memory_stays_while_it_trains_and_is_given_back_afterwards() -> None:
    with device_settings(torch.device("cpu")):
        page_faults(5)
        within = min(page_faults(10) for _ in range(3))  # a machine short of memory takes some back now and then
    assert within < 3000 < page_faults(1)


def test_slow_checkpoints_are_written_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    schedule = CheckpointSchedule()

    def epoch(seconds: float, *files: float) -> bool:
        """An epoch, and the writing of its files where that is due."""
        nonlocal now
        now += seconds
        due = schedule.due()
        for writing in files if due else ():
            with schedule:
                now += writing
        return due

    assert all(epoch(0.01, 0.2, 0.2) for _ in range(5))  # 0.4 s an epoch: as often as it likes
    assert epoch(1, 0.4, 0.6)  # 1 s: the next one is due 20 s later
    assert [epoch(6.5, 0.1) for _ in range(5)] == [False, False, False, True, True]
