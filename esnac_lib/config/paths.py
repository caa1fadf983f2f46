"""Where studies and data sets are kept."""

from __future__ import annotations

import os
from pathlib import Path

from esnac_lib.config.study import StudyConfig

_CHECKOUT = Path(__file__).resolve().parents[2]


def outputs_root() -> Path:
    """Return the folder of all studies: ESNAC_OUTPUTS, else outputs/ in the checkout (from any working folder)."""
    return _folder(os.environ.get("ESNAC_OUTPUTS", ""), "outputs")


def study_dir(config: StudyConfig) -> Path:
    """Return the folder of one study. It need not exist yet."""
    return outputs_root() / config.study


def data_root(given: str = "") -> Path:
    """Return the folder of the data sets: the one given, else ESNAC_DATA, else data/ in the checkout."""
    return _folder(given or os.environ.get("ESNAC_DATA", ""), "data")


def data_root_of(config: StudyConfig) -> Path:
    """Return the folder of a study's data sets: its `data_root`, else ESNAC_DATA, else data/ in the checkout."""
    return data_root(config.data_root)


def _folder(given: str, default: str) -> Path:
    """Return an absolute path; a relative one starts at the checkout, or at the working folder where there is none."""
    base = _CHECKOUT if (_CHECKOUT / "notebooks").is_dir() else Path.cwd()
    return (base / Path(given or default).expanduser()).resolve()
