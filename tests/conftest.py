"""What every test runs under: one thread a process, repeatable Hypothesis examples in CI, fresh outputs."""

from __future__ import annotations

import os
from pathlib import Path

# Read when torch is first imported, here and in the processes that a test starts: tests run two at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh outputs folder, so that no test reads or writes the checkout's."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("ESNAC_OUTPUTS", str(folder))
    return folder
