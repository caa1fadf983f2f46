"""Callbacks of a training: they receive its epochs and batches, and may ask it to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a trainee."""

    epoch: int  # from 1
    loss: float  # in training, the mean over the images
    accuracy: float | None  # after the epoch, a fraction; None where there is nothing to evaluate on
    seconds: float  # the trainee's share of the group's time


class TrainingStopped(Exception):
    """A callback asked to stop. The checkpoints stay, and the same call goes on from them."""


@dataclass(frozen=True)
class Callbacks:
    """What a training reports and asks; by default nothing, and it never stops early.

    `on_epoch` gets (key of the trainee, its epoch) before the epoch is stored; a resumed training reports all stored
    epochs again, for the receiver's own file may have lost them. `on_batch` gets (batches done, batches in all).
    `should_stop` is asked before each epoch, and within one at most twice a second; if true, the training raises
    `TrainingStopped`.
    """

    on_epoch: Callable[[str, EpochResult], None] = lambda *_: None
    on_batch: Callable[[int, int], None] = lambda *_: None
    should_stop: Callable[[], bool] = lambda: False


NO_CALLBACKS = Callbacks()
