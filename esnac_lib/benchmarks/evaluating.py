"""How fast students are trained: our loop compared with the published one, and with the least that any must do.

Three loops train the same students on the same images; the second of two epochs is timed, without evaluation:

* *published*: `published_loop`, with all its worker processes, in a process of its own (ours changes how its process
  holds memory, see `devices`, and would speed it up);
* *ours*: `trainer.train`, as an evaluation calls it;
* *bare*: the teacher's forward pass once a batch, and forward, loss, backward and optimiser step of each student, on
  batches that lie ready on the device.

Images a second count an image once for each student that learns from it. Every function returns plain rows.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from esnac_lib.architecture.network import Network, build, inherit
from esnac_lib.benchmarks.published_loop import WORKERS, train_published, wait_for
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.data.splits import StudyData
from esnac_lib.seeding import make_generator, make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.training.device import device_settings
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import traced_teacher
from esnac_lib.training.trainer import train

Row = dict[str, Any]


@dataclass(frozen=True)
class EvaluatingCase:
    """What is measured: K random students of an untrained teacher, on some of a data set's images."""

    teacher: str = "cnn4"
    dataset: str = "digits"
    data_root: str = ""
    K: int = 8
    images: int = 0  # of the training split; 0 takes all
    batch_size: int = 128
    workers: int = WORKERS
    device: str = "cpu"
    seed: int = 0


def speed_rows(case: EvaluatingCase, repeats: int = 3) -> list[Row]:
    """Measure each loop, with one student and with K, so many times in turn."""
    bench, rows = _Bench(case), list[Row]()
    with _published_elsewhere(case) as published:
        loops: dict[str, Callable[[int], float]] = {"published": published, "ours": bench.ours, "bare": bench.bare}
        for repeat in range(repeats):
            for count in sorted({1, case.K}):
                for loop, seconds_of in loops.items():
                    seconds = seconds_of(count)
                    speed = count * len(bench.data.search) / seconds
                    row = {"loop": loop, "students": count, "repeat": repeat, "seconds": seconds}
                    rows.append(row | {"images_per_second": speed})
    return rows


def speed_summary(rows: Sequence[Row]) -> Row:
    """Return what `summary.json` holds of `speed_rows`; ratios are medians of the ratios within a repeat.

    evaluate_speedup: published / ours with K students, evaluate_speedup_single: with one; evaluate_over_bare: ours /
    bare with K; evaluate_images_per_second: ours with K.
    """
    seconds = {(row["loop"], row["students"], row["repeat"]): row["seconds"] for row in rows}
    most = max(row["students"] for row in rows)
    repeats = sorted({row["repeat"] for row in rows})

    def ratio(first: str, second: str, count: int) -> float:
        return median(seconds[first, count, repeat] / seconds[second, count, repeat] for repeat in repeats)

    speeds = [row["images_per_second"] for row in rows if (row["loop"], row["students"]) == ("ours", most)]
    return {
        "evaluate_speedup": ratio("published", "ours", most),
        "evaluate_speedup_single": ratio("published", "ours", 1),
        "evaluate_over_bare": ratio("ours", "bare", most),
        "evaluate_images_per_second": median(speeds),
    }


def share_rows(case: EvaluatingCase) -> list[Row]:
    """Where an epoch of our loop with K students goes; the parts are measured one by one, and "neither" is the rest."""
    bench = _Bench(case)
    whole, both = bench.ours(case.K), bench.bare(case.K)
    teacher, batches = bench.teacher_alone(), bench.batches_alone()
    parts = {
        "students: forward, backward, optimiser": both - teacher,
        "teacher: forward": teacher,
        "batches: crop, flip, normalise": batches,
        "neither": whole - both - batches,
    }
    return [{"part": part, "seconds": seconds, "share": seconds / whole} for part, seconds in parts.items()]


def profile_rows(case: EvaluatingCase, top: int = 12) -> list[Row]:
    """Return the operations that our loop spends most time in, of its own: operation, calls, seconds, share."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    bench, cuda = _Bench(case), case.device.startswith("cuda")
    bench.ours(case.K)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        bench.ours(case.K)
    times = {
        (event.key, event.count): (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        for event in profiled.key_averages()
    }
    whole = sum(times.values())
    return [
        {"operation": operation, "calls": calls, "seconds": seconds, "share": seconds / whole}
        for (operation, calls), seconds in sorted(times.items(), key=lambda item: -item[1])[:top]
    ]


class _Bench:
    """The students, the teacher and the images of a case, and the loops over them. A loop returns its seconds."""

    def __init__(self, case: EvaluatingCase) -> None:
        self.case = case
        same = {name: getattr(case, name) for name in ("teacher", "dataset", "batch_size", "seed")}
        config = StudyConfig(search_images=case.images, epochs=2, **same)
        dataset = load_dataset(case.dataset, case.data_root)
        self.data, self.recipe = StudyData(dataset, config, case.device), Recipe.search(config)
        self.architecture, self.weights = traced_teacher(config, dataset)
        space = SearchSpace(self.architecture)
        rngs = (make_rng(case.seed, "benchmark-students", number) for number in range(case.K))
        self.architectures = [space.apply(space.sample(rng)) for rng in rngs]

    def students(self, count: int) -> list[Network]:
        """Return the first so many students, with the weights that they inherit."""
        return [build(student, inherit(self.weights, student)) for student in self.architectures[:count]]

    def teacher(self) -> Network:
        return build(self.architecture, self.weights)

    def ours(self, count: int) -> float:
        """Our loop; the seconds of its last epoch."""
        trainees = [Trainee(f"s{number}", student) for number, student in enumerate(self.students(count))]
        job = TrainingJob(self.data.search, None, self.recipe, seed=self.case.seed, purpose="benchmark",
                          device=self.case.device, teacher=self.teacher())  # fmt: skip
        return sum(outcome.curve[-1].seconds for outcome in train(trainees, job).values())

    def published(self, count: int) -> float:
        case, networks = self.case, (self.students(count), self.teacher())
        where: dict[str, Any] = {"seed": case.seed, "workers": case.workers, "device": case.device}
        return train_published(*networks, self.data.plain("search"), self.recipe, **where)[-1]

    def bare(self, count: int) -> float:
        batches, teacher = self._ready()
        students = [self._placed(student) for student in self.students(count)]
        optimizers = [self.recipe.make_optimizer(student.parameters()) for student in students]

        def step(x: Tensor) -> None:
            with torch.no_grad():
                target = teacher(x)
            for student, optimizer in zip(students, optimizers, strict=True):
                optimizer.zero_grad()
                F.mse_loss(student(x), target).backward()
                optimizer.step()

        return self._seconds(step, batches)

    def teacher_alone(self) -> float:
        batches, teacher = self._ready()
        return self._seconds(torch.no_grad()(teacher.forward), batches)

    def batches_alone(self) -> float:
        return self._seconds(lambda x: None, self._batches)

    def _batches(self) -> Iterator[Tensor]:
        generator = make_generator(self.case.seed, "benchmark", 0)
        return (x for x, _ in self.data.search.batches(self.recipe.batch_size, generator))

    def _ready(self) -> tuple[Callable[[], Iterable[Tensor]], Network]:
        batches = list(self._batches())
        return lambda: batches, self._placed(self.teacher()).eval()

    def _placed(self, network: Network) -> Network:
        return network.to(self.case.device).to(memory_format=torch.channels_last)

    def _seconds(self, step: Callable[[Tensor], object], batches: Callable[[], Iterable[Tensor]]) -> float:
        """Of a step on each batch, the second time."""
        device, seconds = self.case.device, 0.0
        with device_settings(torch.device(device)):
            for _ in range(2):
                began = time.perf_counter()
                for x in batches():
                    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
                        step(x)
                wait_for(device)
                seconds = time.perf_counter() - began
        return seconds


@contextmanager
def _published_elsewhere(case: EvaluatingCase) -> Iterator[Callable[[int], float]]:
    """Return the published loop in a process of its own, which waits while nothing is asked of it."""
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    process = context.Process(target=_serve, args=(case, torch.get_num_threads(), other))
    process.start()
    other.close()

    def seconds_of(count: int) -> float:
        mine.send(count)
        return float(mine.recv())

    try:
        yield seconds_of
    finally:
        mine.close()
        process.join()


def _serve(case: EvaluatingCase, threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    bench = _Bench(case)
    while True:
        try:
            count = connection.recv()
        except EOFError:
            return
        connection.send(bench.published(count))


def step_rows(trials: pd.DataFrame) -> list[Row]:
    """Return the seconds a step, and their share, of proposing, evaluating and neither, from `Ledger.trials`.

    The first step, in which nothing is learned, is left out. A step lasts from the moment that the last trial of the
    step before ended to that of its own last; a study that was stopped in between shows the pause as "neither".
    """
    ends = trials.groupby("step")["told_at"].max()
    later = trials[trials["step"] > ends.index.min()]
    steps = later["step"].nunique()
    whole = (ends.max() - ends.min()).total_seconds() / steps
    columns = {"proposing": "propose_seconds", "evaluating": "seconds"}
    parts = {part: float(later[column].sum()) / steps for part, column in columns.items()}
    parts["neither"] = whole - sum(parts.values())
    return [{"part": part, "seconds": seconds, "share": seconds / whole} for part, seconds in parts.items()]
