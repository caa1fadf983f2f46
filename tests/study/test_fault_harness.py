"""The short form of the fault harness (`tests/faults`): a few faults of each kind, and the study survives them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_study_survives_a_few_faults_of_each_kind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults", "--short", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    total = summary["total"]
    assert total["survived"] == total["tried"] >= 30
    assert total["lost_trials"] == total["different_from_uninterrupted"] == 0
    assert all(kind["tried"] or "skipped" in kind for kind in summary["kinds"].values())
    assert "| killed inside a ledger write |" in (tmp_path / "report.md").read_text()
