"""How fast ESNAC proposes: our `ask` compared with one that takes architectures one at a time (`slow_proposing`).

The space is that of an untrained teacher for 100 classes of 32×32 colour images; the observations are random students
with an f made up from their decisions, for nothing is trained. The slow twin is measured for a few steps and candidates
and scaled to as many as our kernels took. Every function returns plain rows.
"""

from __future__ import annotations

import cProfile
import inspect
import pstats
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from esnac_lib.architecture.canonical import canonical_order
from esnac_lib.architecture.encoding import encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.tracing import trace
from esnac_lib.benchmarks.slow_proposing import SlowKernel, new_candidate, with_gaps
from esnac_lib.samplers.base import Observation
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.seeding import make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate import gp
from esnac_lib.surrogate.embedding import Embedding, used_columns
from esnac_lib.surrogate.fitting import Adam, KernelSettings, Learner, Objectives
from esnac_lib.surrogate.kernel import Kernel, learn_kernel
from esnac_lib.surrogate.lstm import BiLstm, linear
from esnac_lib.teachers.registry import teacher

Row = dict[str, Any]


@dataclass(frozen=True)
class ProposingCase:
    """One `ask`: K kernels, each learned on about half of the observations, each choosing among so many candidates."""

    teacher: str = "resnet18"
    observations: int = 20
    K: int = 2
    candidates: int = 50
    max_steps: int = 100  # of a kernel's learning, which ends earlier where its objective settles
    device: str = "cpu"
    seed: int = 0


def speed_rows(case: ProposingCase, slow_steps: int = 3, slow_candidates: int = 20) -> list[Row]:
    """Measure ours and the slow twin.

    A row has `COLUMNS` (seconds of one kernel, steps of all kernels together) and seconds of the whole `ask`. The twin
    is measured on one thread and on as many as PyTorch has, with PyTorch's own LSTM and with oneDNN's fused one, which
    PyTorch calls on a CPU by default; with sequences as the published program has them, where a removed layer keeps its
    place, and with the fused LSTM also as ours.
    """
    bench = _Bench(case)
    learning, kernels = _seconds(lambda: bench.sampler.kernels(case.K))
    choosing, _ = _seconds(lambda: bench.sampler.propose(kernels))
    steps, looked_at = sum(kernel.steps for kernel in kernels), case.K * case.candidates
    threads = torch.get_num_threads()
    rows = [_row("ours", "short", "ours", threads, learning / max(1, steps), choosing / looked_at, steps, looked_at)]
    typical = sorted(kernels, key=lambda kernel: len(kernel.f))[len(kernels) // 2]
    for sequences, lstm in (("published", NATIVE), ("published", FUSED), ("short", FUSED)):
        for number in sorted({1, threads}):
            with _threads(number), _lstm(lstm):
                slow = _Slow(bench.space, typical, len(bench.space.teacher.layers) if sequences == "published" else 0)
                seconds = slow.step_seconds(slow_steps), slow.candidate_seconds(slow_candidates)
            rows.append(_row("one at a time", sequences, lstm, number, *seconds, steps, looked_at))
    return rows


COLUMNS = ("proposer", "sequences", "lstm", "threads", "step_seconds", "candidate_seconds", "steps", "candidates")
NATIVE, FUSED = "PyTorch", "oneDNN"  # which LSTM the twin has
STEP_LIMIT, CANDIDATE_LIMIT = 3.6, 0.017
"""Seconds of the published program's step (n = 80) and candidate, with ResNet-34: a slower twin is not counted."""


def speed_summary(rows: Sequence[Row]) -> Row:
    """Return what `summary.json` holds of `speed_rows`: how many times faster our `ask` is than the twin.

    The twin has the number of threads that serves it best. propose_speedup: with the published sequences and PyTorch's
    own LSTM, where a step and a candidate count as no more than the published program's (`STEP_LIMIT`,
    `CANDIDATE_LIMIT`); propose_speedup_fused: with oneDNN's LSTM, which PyTorch calls by default;
    propose_speedup_short: with that and our sequences. No limit applies to these two.
    """
    (ours, *slow) = rows

    def times(sequences: str, lstm: str, seconds_of: Callable[[Row], float]) -> float:
        found = [seconds_of(row) for row in slow if (row["sequences"], row["lstm"]) == (sequences, lstm)]
        return min(found) / float(ours["seconds"])

    def limited(row: Row) -> float:
        learning = row["steps"] * min(row["step_seconds"], STEP_LIMIT)
        return float(learning + row["candidates"] * min(row["candidate_seconds"], CANDIDATE_LIMIT))

    return {
        "propose_speedup": times("published", NATIVE, limited),
        "propose_speedup_fused": times("published", FUSED, lambda row: row["seconds"]),
        "propose_speedup_short": times("short", FUSED, lambda row: row["seconds"]),
    }


def growth_rows(cases: Sequence[ProposingCase]) -> list[Row]:
    """Measure a whole `ask` in each case; steps are of all kernels together, step_seconds of one kernel's step."""
    largest = _Bench(max(cases, key=lambda case: case.observations))
    rows = []
    for case in cases:
        sampler = _Bench(case, largest).sampler
        learning, kernels = _seconds(partial(sampler.kernels, case.K))
        choosing, _ = _seconds(partial(sampler.propose, kernels))
        steps = sum(kernel.steps for kernel in kernels)
        rows.append({"observations": case.observations, "K": case.K, "steps": steps, "learning": learning,
                     "choosing": choosing, "seconds": learning + choosing,
                     "step_seconds": learning / max(1, steps)})  # fmt: skip
    return rows


PARTS: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "learning: buffers and their views": (Objectives.__init__, None),
    "learning: forward": (BiLstm.forward, Objectives.losses),
    "learning: Gaussian process": (Learner.objective, None),
    "learning: backward": (Objectives.backward, None),
    "learning: Adam": (Adam.step, None),
    "candidates: draws": (SearchSpace.sample, None),
    "candidates: graphs": (CandidateMaker.make, None),
    "candidates: canonical order": (canonical_order, None),
    "candidates: encodings": (Candidate.encode, None),
    "candidates: embeddings": (Embedding.embed, None),
    "candidates: Gaussian process": (gp.posterior, None),
}
"""What an `ask` consists of: functions of the library, where needed only as called by another."""


def profile_rows(case: ProposingCase) -> list[Row]:
    """Return where the time of an `ask` goes, on one thread and under cProfile: part, seconds, share."""
    bench, profiler = _Bench(case), cProfile.Profile()
    with _threads(1):
        profiler.runcall(bench.sampler.ask, case.K)
    stats: Any = pstats.Stats(profiler)
    seconds = {part: _cumulative(stats.stats, *functions) for part, functions in PARTS.items()}
    seconds["all else"] = stats.total_tt - sum(seconds.values())
    return [{"part": part, "seconds": value, "share": value / stats.total_tt} for part, value in seconds.items()]


def _cumulative(stats: Mapping[Any, Any], function: Callable[..., Any], caller: Callable[..., Any] | None) -> float:
    """Seconds within a function, of all calls or of those by one caller."""
    _, _, _, seconds, callers = stats.get(_place(function), (0, 0, 0.0, 0.0, {}))
    return float(seconds if caller is None else callers.get(_place(caller), (0, 0, 0.0, 0.0))[3])


def _place(function: Callable[..., Any]) -> tuple[str, int, str]:
    code = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def floor_rows(case: ProposingCase) -> list[Row]:
    """Compare a step of one kernel's learning, and a candidate's embedding, with what the device can do.

    The arithmetic is that of the products. The bytes are what a step keeps for its way back, written and read once. The
    floor is the larger of the two times, at the rates that one thread reaches with large products and copies.
    """
    with _threads(1):
        flops, bytes_ = _rates(case.device)
        kernel = _Bench(replace(case, K=1, max_steps=5)).sampler.kernels(1)[0]
        learning, _ = _seconds(lambda: learn_kernel(kernel.encodings, kernel.f, kernel.settings, torch.Generator()))
        embedding = min(_seconds(lambda: kernel.embed(kernel.encodings))[0] for _ in range(3))
    rows = []
    for part, passes, seconds in (("learning step", 3, learning / 5), ("candidate", 1, embedding / len(kernel.f))):
        share = 1 if part == "learning step" else len(kernel.f)
        work = passes * _forward_flops(kernel) / share
        moved = 2 * STATE_BYTES * sum(map(len, kernel.encodings)) if share == 1 else 0
        floor = max(work / flops, moved / bytes_)
        rows.append({"part": part, "gigaflops": work / 1e9, "megabytes": moved / 1e6, "floor_seconds": floor,
                     "seconds": seconds, "times": seconds / floor})  # fmt: skip
    return rows


STATE_BYTES = 23_000  # of a row of four layers of 64 units in both directions, see `lstm.BiLstm`


def _forward_flops(kernel: Kernel) -> float:
    """Of the products that embed D^k once: multiplications and additions."""
    hidden, depth = kernel.embedding.lstm.hidden_size, kernel.embedding.lstm.num_layers
    inputs = [len(used_columns(kernel.encodings)), *[2 * hidden] * (depth - 1)]
    return sum(map(len, kernel.encodings)) * sum(2 * 2 * 4 * hidden * (width + hidden) for width in inputs)


def _rates(device: str) -> tuple[float, float]:
    """Floating-point operations a second in large float32 products, and bytes a second copied (read and written)."""
    a, b = (torch.rand(size, 512, device=device) for size in (4096, 512))
    wide = torch.rand(1 << 25, device=device)
    product = min(_seconds(lambda: linear(a, b)[0, 0].item())[0] for _ in range(5))
    copy = min(_seconds(lambda: wide.clone()[0].item())[0] for _ in range(5))
    return 2 * 4096 * 512 * 512 / product, 2 * 4 * len(wide) / copy


def _row(*values: Any) -> Row:
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {"seconds": row["steps"] * row["step_seconds"] + row["candidates"] * row["candidate_seconds"]}


class _Bench:
    """A sampler with the observations of a case, and the twin of one of its kernels."""

    def __init__(self, case: ProposingCase, larger: _Bench | None = None) -> None:
        self.case = case
        self.space: SearchSpace = larger.space if larger else SearchSpace(_teacher(case))
        known = larger.observations[: case.observations] if larger else list(self._observations())
        self.observations: list[Observation] = known
        settings = KernelSettings(max_steps=case.max_steps)
        self.sampler = EsnacSampler(self.space, case.seed, settings, candidates=case.candidates, device=case.device)
        self.sampler.tell(self.observations)

    def _observations(self) -> Iterator[Observation]:
        whole = self.space.teacher.num_params
        for index in range(self.case.observations):
            rng = make_rng(self.case.seed, "benchmark-students", index)
            decisions = self.space.sample(rng)
            student = self.space.apply(decisions)
            left, size = len(student.layers) / len(self.space.teacher.layers), student.num_params / whole
            yield Observation(decisions, student, (1 - size) * (1 + size) * min(1.0, 0.4 + left + rng.normal(0, 0.02)))


class _Slow:
    """One kernel of the twin, with sequences of at least so many rows."""

    def __init__(self, space: SearchSpace, kernel: Kernel, length: int) -> None:
        self.space, self.length = space, length
        encodings, generator = list(map(self._encoding, kernel.encodings)), torch.Generator().manual_seed(0)
        self.kernel = SlowKernel(encodings, kernel.f.tolist(), kernel.settings, generator)

    def _encoding(self, encoding: np.ndarray) -> np.ndarray:
        return with_gaps(encoding, max(self.length, len(encoding)))

    def step_seconds(self, steps: int) -> float:
        """Of one step."""
        return _average(lambda: self.kernel.step(self.kernel.objective()), steps)

    def candidate_seconds(self, candidates: int) -> float:
        """Of one candidate: drawn, built, named, encoded, embedded and scored."""
        rng, seen = make_rng(0, "benchmark-candidates"), set[str]()

        def look() -> None:
            _, architecture = new_candidate(self.space, seen, rng)
            self.kernel.log_ei(self._encoding(encode(architecture, self.kernel.settings.max_edge)))

        return _average(look, candidates)


def _teacher(case: ProposingCase) -> Architecture:
    return trace(teacher(case.teacher, 100, 3, 32, seed=case.seed), torch.zeros(1, 3, 32, 32))[0]


def _average(work: Callable[[], object], times: int) -> float:
    """Seconds on average over so many times, after one that is not counted."""
    work()
    return _seconds(lambda: [work() for _ in range(times)])[0] / times


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it gave. All that is measured here ends with numbers on the CPU."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


@contextmanager
def _lstm(name: str) -> Iterator[None]:
    """PyTorch calls this LSTM on the CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # of Intel's GPUs
        with torch.backends.mkldnn.flags(enabled=name == FUSED):
            yield


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
