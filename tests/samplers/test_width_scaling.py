"""Uniform width scaling as a sampler. What it has in common with the others is in test_samplers."""

from __future__ import annotations

import numpy as np
import torch

from esnac_lib.architecture.tracing import trace
from esnac_lib.samplers.base import Observation
from esnac_lib.samplers.width_scaling import NarrowSampler, van_der_corput
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import teacher


def space() -> SearchSpace:
    return SearchSpace(trace(teacher("conv7_half", 10, 1, 28, seed=0), torch.zeros(1, 1, 28, 28))[0])


def test_the_sequence_fills_ever_finer() -> None:
    """Digits mirrored at the point: 6 = 110 in base 2 gives 0.011 = 3/8."""
    assert [van_der_corput(index) for index in (1, 2, 3, 4, 5, 6, 7)] == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


def test_proposals_have_one_ratio_and_nothing_else() -> None:
    proposals = NarrowSampler(space(), 0).ask(12)
    assert len(proposals) == 12
    for proposal in proposals:
        assert len(set(proposal.decisions.ratios)) == 1
        assert not proposal.decisions.removed and not proposal.decisions.skips
    shares = np.sort([proposal.decisions.ratios[0] for proposal in proposals])
    assert np.diff([0.0, *shares, 1.0]).max() < 0.2  # no gap in sizes


def test_it_learns_nothing() -> None:
    sampler, other = NarrowSampler(space(), 1), NarrowSampler(space(), 1)
    first = sampler.ask(4)
    for one, f in ((sampler, 0.0), (other, 1.0)):
        one.tell([Observation(p.decisions, p.architecture, f) for p in first])
    assert [p.decisions for p in sampler.ask(4)] == [p.decisions for p in other.ask(4)]
