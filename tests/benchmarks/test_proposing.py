"""ESNAC's `ask` against the one that takes architectures one at a time, and what is measured of both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from esnac_lib.architecture.tracing import trace
from esnac_lib.benchmarks import proposing
from esnac_lib.benchmarks.evaluating import step_rows
from esnac_lib.benchmarks.proposing import (
    ProposingCase,
    floor_rows,
    growth_rows,
    profile_rows,
    speed_rows,
    speed_summary,
)
from esnac_lib.benchmarks.slow_proposing import slow_ask, with_gaps
from esnac_lib.samplers.base import Observation
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.teachers import teacher

SMALL = ProposingCase(teacher="cnn4", observations=6, K=2, candidates=4, max_steps=2)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_trials_as_one_at_a_time(space: SearchSpace, seed: int) -> None:
    """Two steps of three proposals each. The predictions differ by rounding, which 30 steps of Adam make larger."""
    settings = KernelSettings(max_steps=30)
    sampler = EsnacSampler(space, seed, settings, candidates=30)
    told: list[Observation] = []
    for step in range(3):
        proposals = sampler.ask(3)
        if step:
            slow = slow_ask(space, told, seed, 3, settings, 30)
            assert [p.decisions for p in proposals] == [p.decisions for p in slow]
            for name in ("mean", "variance", "ei"):
                ours, theirs = ([getattr(p, name) for p in found] for found in (proposals, slow))
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        values = [int(p.architecture.arch_id[:6], 16) / 16**6 for p in proposals]
        trials = [Observation(p.decisions, p.architecture, f) for p, f in zip(proposals, values, strict=True)]
        sampler.tell(trials)
        told += trials


def test_a_failed_trial_is_no_observation_of_either(space: SearchSpace) -> None:
    settings = KernelSettings(max_steps=2)
    first = RandomSampler(space, 3).ask(4)
    told = [Observation(p.decisions, p.architecture, f) for p, f in zip(first, (0.3, None, 0.8, 0.1), strict=True)]
    sampler = EsnacSampler(space, 3, settings, candidates=5)
    sampler.tell(told)
    assert [p.decisions for p in sampler.ask(2)] == [p.decisions for p in slow_ask(space, told, 3, 2, settings, 5)]


def test_sequences_of_the_published_length() -> None:
    encoding = np.ones((3, 5), np.float32)
    assert with_gaps(encoding, 7).shape == (7, 5)
    assert with_gaps(encoding, 7)[3:].sum() == 0
    np.testing.assert_array_equal(with_gaps(encoding, 3), encoding)


def test_speed() -> None:
    before = torch.get_num_threads()
    rows = speed_rows(SMALL, slow_steps=1, slow_candidates=1)
    assert torch.get_num_threads() == before
    assert [row["proposer"] for row in rows] == ["ours", *["one at a time"] * (len(rows) - 1)]
    forms = [("published", "PyTorch"), ("published", "oneDNN"), ("short", "oneDNN")]
    ways = {(*form, threads) for form in forms for threads in {1, before}}
    assert {(row["sequences"], row["lstm"], row["threads"]) for row in rows[1:]} == ways
    assert torch.backends.mkldnn.enabled
    for row in rows:
        assert row["candidates"] == 8
        assert 1 <= row["steps"] <= 4
        parts = row["steps"] * row["step_seconds"] + row["candidates"] * row["candidate_seconds"]
        assert row["seconds"] == pytest.approx(parts)
        assert min(row["step_seconds"], row["candidate_seconds"]) > 0


def test_speed_summary_takes_the_twin_at_its_best() -> None:
    def row(sequences: str, lstm: str, seconds: float, step: float = 0.1, candidate: float = 0.01) -> dict[str, object]:
        own = {"steps": 10, "candidates": 100, "step_seconds": step, "candidate_seconds": candidate}
        return {"sequences": sequences, "lstm": lstm, "seconds": seconds} | own

    rows = [
        row("short", "ours", 2.0), row("published", "oneDNN", 40.0), row("published", "oneDNN", 90.0),
        row("short", "oneDNN", 24.0), row("short", "oneDNN", 22.0), row("published", "PyTorch", 101.4, 10.0, 0.014),
        row("published", "PyTorch", 120.0, 10.0, 0.02),
    ]  # fmt: skip
    assert speed_summary(rows) == {
        "propose_speedup": pytest.approx((10 * 3.6 + 100 * 0.014) / 2),
        "propose_speedup_fused": 20.0,
        "propose_speedup_short": 11.0,
    }
    faster = [row("short", "ours", 2.0), *rows[1:5], row("published", "PyTorch", 7.0, 0.5, 0.02)]
    assert speed_summary(faster)["propose_speedup"] == pytest.approx((10 * 0.5 + 100 * 0.017) / 2)


def test_the_parts_of_a_step() -> None:
    """Three steps of two trials: the first does not count; the second lasts 10 s, the third 20 s."""
    start = pd.Timestamp("2030-01-01", tz="UTC")
    told_at = [start, start, *(start + pd.Timedelta(seconds=s) for s in (7, 10, 29, 30))]
    trials = pd.DataFrame(
        {"step": [0, 0, 1, 1, 2, 2], "told_at": told_at, "propose_seconds": [9, 9, 1, 1, 2, 2],
         "seconds": [99, 99, 3, 3, 6, 9]}
    )  # fmt: skip
    rows = step_rows(trials)
    assert {row["part"]: row["seconds"] for row in rows} == {"proposing": 3.0, "evaluating": 10.5, "neither": 1.5}
    assert [row["share"] for row in rows] == pytest.approx([0.2, 0.7, 0.1])


def test_growth_is_of_whole_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "_seconds", lambda work: (3.0, work()))
    cases = [replace(SMALL, observations=3, max_steps=10), replace(SMALL, K=1, max_steps=1)]
    rows = growth_rows(cases)
    assert [(row["observations"], row["K"]) for row in rows] == [(3, 2), (6, 1)]
    assert rows[0]["steps"] > rows[1]["steps"] == 1
    for row in rows:
        assert row["seconds"] == row["learning"] + row["choosing"] == 6.0
        assert row["step_seconds"] == pytest.approx(3.0 / row["steps"])


def test_profile_and_floor() -> None:
    parts = profile_rows(SMALL)
    assert sum(row["share"] for row in parts) == pytest.approx(1)
    assert all(row["seconds"] > 0 for row in parts)  # every part is found
    step, candidate = floor_rows(SMALL)
    assert step["gigaflops"] > 3 * candidate["gigaflops"] > 0
    assert (step["megabytes"] > 0) and candidate["megabytes"] == 0
    for row in (step, candidate):
        assert row["times"] == pytest.approx(row["seconds"] / row["floor_seconds"])
        assert row["times"] > 1


def test_the_arithmetic_of_an_embedding(space: SearchSpace) -> None:
    """Against what PyTorch counts of `nn.LSTM`'s definition: each gate is a product with the inputs and one with h."""
    sampler = EsnacSampler(space, 0, KernelSettings(max_steps=0))
    sampler.tell([Observation(p.decisions, p.architecture, 0.5) for p in RandomSampler(space, 0).ask(3)])
    (kernel,) = sampler.kernels(1)
    rows, width = sum(map(len, kernel.encodings)), int(np.concatenate(kernel.encodings).any(0).sum())
    by_hand = sum(4 * 64 * (inputs + 64) for inputs in (width, 128, 128, 128))  # multiply-accumulates, one direction
    assert proposing._forward_flops(kernel) == 2 * 2 * rows * by_hand
