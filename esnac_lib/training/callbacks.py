"""Who looks on at a training: hears of its epochs and batches, and may ask it to stop.

A training does not know whether a ledger, a progress bar or nobody listens. It gets one `Callbacks`, which travels
whole from the study through evaluators and final training to the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1: the mean training loss an image, and the accuracy after it as a fraction.

    `accuracy` is None where there is nothing to evaluate on. `seconds` is the trainee's share of the group's time.
    """

    epoch: int
    loss: float
    accuracy: float | None
    seconds: float


class TrainingStopped(Exception):
    """The watch asked to stop. The checkpoints stay, and the same call goes on from them."""


def _unheard(*_: object) -> None:
    """Nobody listens."""


def _go_on() -> bool:
    return False


@dataclass(frozen=True)
class Callbacks:
    """What a training tells and asks; the default hears nothing and never stops it.

    on_epoch: told (key of the trainee, its epoch) before the epoch is stored; a training that goes on tells all that
    were stored again, for the listener's own file may have lost them. on_batch: told (batches done, batches in all),
    for a progress bar. should_stop: asked before each epoch, and within one at most twice a second; where it says yes,
    the training raises `TrainingStopped`.
    """

    on_epoch: Callable[[str, EpochResult], None] = _unheard
    on_batch: Callable[[int, int], None] = _unheard
    should_stop: Callable[[], bool] = _go_on


NO_CALLBACKS = Callbacks()
