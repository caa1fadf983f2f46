"""Neural architecture compression: hand over a trained CNN and a data set, get a network several times smaller.

    import esnac_lib as esnac

Names load when they are first used, so that a mistake in a study's parameters is reported before PyTorch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Architecture": "architecture",
    "Decisions": "space",
    "EsnacError": "errors",
    "EsnacSampler": "samplers",
    "EvolutionSampler": "samplers",
    "Experiment": "study",
    "Ledger": "ledger",
    "Limits": "space",
    "LocalEvaluator": "training",
    "N2nSampler": "samplers",
    "NarrowSampler": "samplers",
    "RandomSampler": "samplers",
    "RayEvaluator": "training",
    "SearchSpace": "space",
    "Study": "study",
    "StudyConfig": "config",
    "TpeSampler": "samplers",
    "TransferSampler": "samplers",
    "build": "architecture",
    "encode": "architecture",
    "inherit": "architecture",
    "largest_first": "space",
    "load_dataset": "data",
    "verify": "space",
    "teacher": "teachers",
    "trace": "architecture",
}
_FORMER = {"prove": "verify"}  # names of earlier versions
_MODULES = {
    "export": "architecture.export",
    "monitor": "report.live",
    "offline": "benchmarks.tabular",
    "report": "report",
}

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
