"""The report of the harness: summary.json for programs, report.md for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esnac_lib.study.environment import describe_environment

from .workshop import Tally

COLUMNS = ("tried", "survived", "lost_trials", "different_from_uninterrupted")


def write_report(
    folder: Path,
    tallies: Mapping[str, Tally],
    seed: int,
    watching: Mapping[str, Any] | None = None,
    cuda: str | None = None,
) -> None:
    """Write both files. watching, cuda: what `watch` and `compare_on_cuda` found, in the long form."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {name: tally.summary() for name, tally in tallies.items()}
    total = {column: sum(kind[column] for kind in kinds.values()) for column in COLUMNS}
    environment = describe_environment("cpu")
    summary = {"seed": seed, "total": total, "kinds": kinds, "watching": watching, "cuda": cuda}
    summary["environment"] = environment
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    versions = environment["versions"]
    lines = [
        "# Faults tried on a study, and what came of them",
        "",
        f"{total['tried']} faults, {total['survived']} survived, {total['lost_trials']} observed trials lost, "
        f"{total['different_from_uninterrupted']} studies that ended differently from the one that was left alone.",
        "",
        "A tiny real study (a CNN on scikit-learn's digits, ESNAC, 4 evaluations, final training) in a process of its "
        "own meets each fault and is started again until it ends. *Survived*: it ended; nothing whose telling the "
        "ledger had confirmed is lost; trials, curves and results are exactly those of the run that was left alone, "
        "times excepted; and whatever it said was one line.",
        "",
        "| fault | tried | survived | observed trials lost | ended differently |",
        "|---|---|---|---|---|",
    ]
    for name, kind in kinds.items():
        if "skipped" in kind:
            lines.append(f"| {name} | not tried: {kind['skipped']} | | | |")
        else:
            lines.append(f"| {name} | {' | '.join(str(kind[column]) for column in COLUMNS)} |")
    lines += ["", "## What the study said", ""]
    for name, tally in tallies.items():
        lines += [f"- {name}: “{message}” ({count} times)" for message, count in sorted(tally.messages.items())]
    if watching is not None:
        ways = ", ".join(
            f"{way} {ratio:.3f} (of processor time {watching['processor_ratio'][way]:.3f})"
            for way, ratio in watching["ratio"].items()
        )
        lines += [
            "",
            "## What watching costs",
            "",
            f"Time of a study of 80 evaluations with a live view attached, to the same study alone (medians of "
            f"{len(watching['seconds']['alone'])} runs in turns): {ways}. Trials: "
            f"{'the same' if watching['same_trials'] else 'DIFFERENT'}.",
        ]
    if cuda is not None:
        lines += ["", "## The same seed on CUDA", "", cuda]
    lines += [
        "",
        f"Seed {seed}; {environment['hardware']}, Python {versions['python']}, PyTorch {versions['torch']}; run by "
        "`python -m tests.faults --out outputs/faults`.",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
