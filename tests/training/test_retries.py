"""Groups that the machine cannot train whole are divided; students become the same in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.helpers import DISTILLATION, Few, cnn, same

from esnac_lib.architecture.network import Network, build
from esnac_lib.architecture.tracing import trace
from esnac_lib.teachers import teacher
from esnac_lib.training.job import Outcome, Trainee, TrainingJob
from esnac_lib.training.retries import train_with_retries
from esnac_lib.training.trainer import train

DONE = Outcome("", "complete", None, False, (), 1, 0.5, 0.5, {}, {}, 1.0)


def student(seed: int) -> Network:
    return build(*trace(teacher("cnn4", 10, 1, 8, seed=seed), torch.zeros(1, 1, 8, 8)))


class Memory:
    """A machine that has room for so many trainees; in a larger group the last ones find none."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.groups: list[str] = []

    def __call__(self, trainees: Sequence[Trainee]) -> dict[str, Outcome]:
        self.groups.append("".join(trainee.key for trainee in trainees))
        return {
            trainee.key: replace(DONE, key=trainee.key, retry=place >= self.room)
            for place, trainee in enumerate(trainees)
        }


@pytest.mark.parametrize(
    ("count", "room", "groups"),
    [
        (3, 3, ["abc"]),
        (8, 7, ["abcdefgh", "h"]),
        (8, 2, ["abcdefgh", "cdef", "gh", "ef"]),
        (8, 1, ["abcdefgh", "bcde", "fgh", "cd", "eg", "h", "d", "g"]),
        (1, 0, ["a", "a", "a"]),
        (2, 0, ["ab", "a", "b", "a", "b"]),
        (5, 0, ["abcde", "abc", "de", "ab", "cd", "e", *"abcde", *"abcde"]),
    ],
)
def test_whom_there_is_no_room_for_comes_again_in_smaller_groups(count: int, room: int, groups: list[str]) -> None:
    memory, made = Memory(room), []

    def make(key: str) -> Any:
        made.append(key)

    keys = "abcdefgh"[:count]
    told = list(train_with_retries({key: lambda key=key: make(key) for key in keys}, memory))  # type: ignore[misc]
    assert memory.groups == groups and "".join(made) == "".join(groups)
    assert sorted(outcome.key for outcome, _ in told) == list(keys)
    assert [outcome.key for outcome, _ in told if outcome.retry] == (list(keys) if room == 0 else [])


def test_a_divided_group_ends_as_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three real students on a machine with memory for two: each becomes what it becomes alone, to the bit."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(140, 1, 8, 8, generator=generator), torch.randint(10, (140,), generator=generator)
    data = Few(images[:100], labels[:100]), Few(images[100:], labels[100:])

    def group(trainees: Sequence[Trainee], checkpoint: Path | None = None) -> dict[str, Outcome]:
        return train(
            trainees, TrainingJob(*data, DISTILLATION, seed=0, purpose="p", teacher=cnn(0), checkpoint=checkpoint)
        )

    def starved(trainees: Sequence[Trainee]) -> dict[str, Outcome]:
        sizes.append(len(trainees))
        for trainee in trainees[2:]:
            calls = 0
            forward = trainee.network.forward

            def greedy(x: torch.Tensor, forward: Any = forward) -> torch.Tensor:
                nonlocal calls
                calls += 1
                if calls > 5:  # in the second epoch
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return forward(x)

            monkeypatch.setattr(trainee.network, "forward", greedy)
        return group(trainees, tmp_path)

    sizes: list[int] = []
    outcomes = {
        outcome.key: outcome
        for outcome, _ in train_with_retries({key: lambda n=n: student(n) for n, key in enumerate("abc")}, starved)  # type: ignore[misc]
    }
    assert sizes == [3, 1] and list(outcomes) == ["a", "b", "c"]
    for number, key in enumerate("abc"):
        assert same(outcomes[key], group([Trainee(key, student(number))])[key])
