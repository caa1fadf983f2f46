"""Trials of a ledger as samplers know them: proposals in, observations out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from esnac_lib.architecture.graph import Architecture
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.space.decisions import Decisions


def row_of(proposal: Proposal, seconds: float) -> ProposalRow:
    """Return a proposal as the ledger stores it, with the seconds that it took to make."""
    p, a = proposal, proposal.architecture
    decisions = p.decisions.to_json()
    return ProposalRow(
        p.kernel, a.arch_id, a.num_params, a.macs, decisions, a.to_json(), p.mean, p.variance, p.ei, seconds
    )


def observation_of(row: Mapping[Any, Any]) -> Observation:
    """Return the observation that a finished trial's row of the ledger stands for."""
    f = None if math.isnan(row["f"]) else row["f"]
    return Observation(Decisions.from_json(row["decisions"]), Architecture.from_json(row["architecture"]), f)


def observations_of(ledger: Ledger, steps: Collection[int] | None = None) -> list[Observation]:
    """Return the finished trials of some steps, or of all, in their order."""
    trials = ledger.trials()
    rows = trials[trials["told_at"].notna() & (True if steps is None else trials["step"].isin(steps))]
    return [observation_of(row) for row in rows.to_dict("records")]


def count_observed(ledger: Ledger) -> int:
    """Return how many trials are finished, failed ones included."""
    return int(ledger.trials()["told_at"].notna().sum())
