"""The loops that our training is measured against do the same work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from esnac_lib.benchmarks import evaluating, published_loop
from esnac_lib.benchmarks.evaluating import EvaluatingCase, profile_rows, share_rows, speed_rows
from esnac_lib.benchmarks.published_loop import PilImages, train_published
from esnac_lib.data.batches import DeviceData
from esnac_lib.seeding import make_generator
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.trainer import train

TINY = EvaluatingCase(K=2, images=96, batch_size=32, workers=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_through_pil_are_our_images(channels: int) -> None:
    """Without augmentation the same numbers; with it, one of the crops and flips that ours draws from."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    plain: dict[str, Any] = {"images": images, "labels": np.arange(4), "mean": (0.4,) * channels,
                             "std": (0.2,) * channels, "flip": True, "augment": False}  # fmt: skip
    [(ours, labels)] = DeviceData(**plain).evaluation_batches(4)
    theirs = [PilImages(plain)[number] for number in range(4)]
    torch.testing.assert_close(torch.stack([image for image, _ in theirs]), ours)
    assert [label for _, label in theirs] == labels.tolist()
    black = -0.4 / 0.2
    padded = F.pad(ours[0], (1, 1, 1, 1), value=black)
    crops = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    crops += [crop.flip(2) for crop in crops]
    augmented = PilImages(plain | {"augment": True})
    draws = [augmented[0][0] for _ in range(60)]
    seen = {next(n for n, crop in enumerate(crops) if torch.allclose(crop, draw, atol=1e-5)) for draw in draws}
    assert len(seen) > 9


def test_the_published_loop_learns_and_depends_on_its_seed_alone() -> None:
    bench = evaluating._Bench(TINY)

    def run(seed: int) -> torch.Tensor:
        [student] = bench.students(1)
        state = torch.get_rng_state()
        seconds = train_published(
            [student], bench.teacher(), bench.data.plain("search"), bench.recipe, seed=seed, workers=0
        )
        assert len(seconds) == 2 and min(seconds) > 0 and torch.equal(state, torch.get_rng_state())
        return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])

    torch.manual_seed(1)
    first = run(0)
    torch.manual_seed(2)
    assert torch.equal(first, run(0)) and not torch.equal(first, run(1))


def test_the_published_loop_forks_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured in a spawned process, which spawns by default: each worker would import PyTorch at each epoch."""
    asked: list[Any] = []

    class Loader(published_loop.DataLoader[Any]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            asked.append((settings["num_workers"], settings["multiprocessing_context"]))
            super().__init__(*args, **settings)

    monkeypatch.setattr(published_loop, "DataLoader", Loader)
    assert all(evaluating._Bench(replace(TINY, workers=workers)).published(1) > 0 for workers in (0, 2))
    assert asked == [(0, None), (2, "fork")]


def test_our_loop_is_a_plain_loop_to_the_bit() -> None:
    """What the group, the lanes and the recording are built around, written out: float32, one student, ten lines."""
    bench = evaluating._Bench(TINY)
    [mine], [twin], teacher = bench.students(1), bench.students(1), bench.teacher().eval()
    job = TrainingJob(bench.data.search, None, bench.recipe, seed=3, purpose="p", index=1, teacher=bench.teacher())
    outcome = train([Trainee("s", mine)], job)["s"]
    teacher.to(memory_format=torch.channels_last)
    twin.to(memory_format=torch.channels_last)
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, weight_decay=5e-4, fused=True)
    for epoch in range(2):
        for x, _ in bench.data.search.batches(32, make_generator(3, "p", 1, epoch)):
            optimizer.zero_grad()
            F.mse_loss(twin(x), teacher(x).detach()).backward()
            optimizer.step()
    assert all(torch.equal(outcome.last_weights[name], tensor) for name, tensor in twin.state_dict().items())


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here(case: EvaluatingCase) -> Iterator[Any]:
        yield evaluating._Bench(case).published

    monkeypatch.setattr(evaluating, "_published_elsewhere", here)
    rows = speed_rows(TINY, repeats=2)
    assert {(row["loop"], row["students"], row["repeat"]) for row in rows} == {
        (loop, count, repeat) for loop in ("published", "ours", "bare") for count in (1, 2) for repeat in (0, 1)
    }
    assert all(row["images_per_second"] == pytest.approx(96 * row["students"] / row["seconds"]) for row in rows)
    shares = share_rows(TINY)
    assert len(shares) == 4 and sum(row["share"] for row in shares) == pytest.approx(1)
    operations = profile_rows(TINY, top=5)
    assert len(operations) == 5 and operations[0]["share"] >= operations[4]["share"] > 0
    assert sum(row["share"] for row in operations) <= 1


def test_summary_by_hand() -> None:
    times = {("published", 1): [2.0, 3.0], ("ours", 1): [1.0, 1.0], ("bare", 1): [1.0, 1.0],
             ("published", 4): [9.0, 8.0], ("ours", 4): [3.0, 4.0], ("bare", 4): [2.0, 4.0]}  # fmt: skip
    rows = [
        {
            "loop": loop,
            "students": count,
            "repeat": repeat,
            "seconds": seconds,
            "images_per_second": 12 * count / seconds,
        }
        for (loop, count), both in times.items()
        for repeat, seconds in enumerate(both)
    ]
    assert evaluating.speed_summary(rows) == {
        "evaluate_speedup": 2.5,
        "evaluate_speedup_single": 2.5,
        "evaluate_over_bare": 1.25,
        "evaluate_images_per_second": 14.0,
    }
