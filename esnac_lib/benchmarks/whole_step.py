"""Where the time of whole search steps goes, as a study's ledger has it."""

from __future__ import annotations

from typing import Any

import pandas as pd

Row = dict[str, Any]


def step_rows(trials: pd.DataFrame) -> list[Row]:
    """Proposing, evaluating and neither: part, seconds a step, share; of all steps but the first, in which nothing is
    learned.

    trials: as `Ledger.trials` gives them. A step lasts from the moment that the last trial of the step before was told
    to that of its own last; a study that was stopped in between shows the pause as time that is neither.
    """
    ends = trials.groupby("step")["told_at"].max()
    later = trials[trials["step"] > ends.index.min()]
    steps = later["step"].nunique()
    whole = (ends.max() - ends.min()).total_seconds() / steps
    parts = {
        "proposing": float(later["propose_seconds"].sum()) / steps,
        "evaluating": float(later["seconds"].sum()) / steps,
    }
    parts["neither"] = whole - sum(parts.values())
    return [{"part": part, "seconds": seconds, "share": seconds / whole} for part, seconds in parts.items()]
