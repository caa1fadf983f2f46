"""All runs under a folder of outputs, and what runs of one protocol have in common.

A run is a study with its ledger. Runs whose parameters differ in nothing but the seed repeat one experiment: together
they give a mean and a standard deviation.

    >>> [group.study_names for group in grouped(read_runs(outputs_root()))]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from esnac_lib.config.base import upgraded
from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.study import PRESETS, RESULT_FREE, StudyConfig
from esnac_lib.errors import LedgerError
from esnac_lib.ledger.file import find_ledgers
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS, Measurement, Objective, compression_ratio
from esnac_lib.report.statistics import Stat, stat

COMPRESSION = "architecture compression"
"""The sampler of a study of the second paper, which has none."""

_NO_PROTOCOL = RESULT_FREE | {"study", "seed"}
_DEFAULTS = {name: field.default for name, field in StudyConfig.model_fields.items()}
_SEARCH = ("operators", "grouping", "keep", "objective", "kernel_loss", *PRESETS["paper"])
"""Parameters of a search that its protocol names where they are not at their defaults."""
TEACHER_PARAMETERS = (
    "teacher", "dataset", "teacher_epochs", "teacher_lr", "batch_size", "augment", "schedule", "validation",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A summary of one study's ledger.

    config: its parameters, those that it does not know at their defaults. observed, planned, failed: numbers of
    architectures. best_f: of the search. teacher: the reference teacher, evaluated on the test images as solution and
    narrowed are; each None before it exists. summary: of summary.json next to the ledger, empty where there is none.
    """

    study: str
    config: Mapping[str, Any]
    observed: int
    planned: int
    failed: int
    best_f: float | None
    teacher: Measurement | None
    solution: Measurement | None
    narrowed: Measurement | None
    summary: Mapping[str, Any]

    @property
    def protocol(self) -> str:
        """Equal for runs that differ in their seeds only."""
        return json.dumps({k: v for k, v in self.config.items() if k not in _NO_PROTOCOL}, sort_keys=True)


@dataclass(frozen=True)
class RunGroup:
    """Runs of one protocol, by seed."""

    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The parameters that the runs share (study and seed are the first one's)."""
        return self.runs[0].config

    @property
    def study_names(self) -> tuple[str, ...]:
        """The runs' studies."""
        return tuple(run.study for run in self.runs)

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that came to a solution."""
        return tuple(run for run in self.runs if run.solution is not None and run.teacher is not None)


def read_runs(root: Path) -> tuple[Run, ...]:
    """Read every ledger under `root`, in the order of their names. Raises LedgerError for one that cannot be read."""
    return tuple(_read(path, root) for path in find_ledgers(root))


def grouped(runs: Iterable[Run]) -> tuple[RunGroup, ...]:
    """Return the runs by protocol: groups ordered by their first study's name, runs by their seed."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.study):
        groups.setdefault(run.protocol, []).append(run)
    return tuple(RunGroup(tuple(sorted(group, key=lambda run: run.config.get("seed", 0)))) for group in groups.values())


def is_same(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether parameters are as wanted: each one equal, or one of a tuple."""
    return all(
        config.get(name) in value if isinstance(value, tuple) else config.get(name) == value
        for name, value in wanted.items()
    )


def results_of(
    pairs: Sequence[tuple[Measurement, Measurement]], published_teacher: float | None, objective: Objective = PAPERS
) -> dict[str, Stat]:
    """Return accuracy (%), params, ratio, times and f of networks, each given with its teacher.

    published_teacher: accuracy in % of the printed teacher; f is against the better of it and ours, as the paper's is.
    """
    values: dict[str, list[float]] = {name: [] for name in ("accuracy", "params", "ratio", "times", "f")}
    for network, teacher in pairs:
        better = replace(teacher, accuracy=max(teacher.accuracy, (published_teacher or 0.0) / 100))
        values["accuracy"].append(100 * network.accuracy)
        values["params"].append(network.params)
        values["ratio"].append(compression_ratio(network.params, teacher.params))
        values["times"].append(teacher.params / network.params)
        values["f"].append(objective.value(network, better))
    return {name: stat(numbers) for name, numbers in values.items()}


def search_protocol(config: Mapping[str, Any]) -> str:
    """Return in words how students were evaluated and finally trained."""
    images = f"{config['search_images']:,}" if config["search_images"] else "all training"
    if config["sampler"] == COMPRESSION:
        text = f"{config['architectures']} random architectures, {config['epochs']} epochs on {images} images"
        return f"{text}; final {config['final_epochs']} epochs (chosen on validation, last epoch)"
    text = f"{config['K'] * config['steps']} evaluations ({config['steps']} × {config['K']}), "
    text += f"{config['epochs']} epochs on {images} images"
    text += "".join(f", {name} {config[name]}" for name in _SEARCH if config[name] != _DEFAULTS[name])
    if config["final"] == "none":
        return f"{text}; no final training"
    form = "best test epoch of the best by test f" if config["final"] == "paper" else "chosen on validation, last epoch"
    return f"{text}; final {config['final_epochs']} epochs ({form})"


def teacher_protocol(config: Mapping[str, Any]) -> str:
    """Return in words how a teacher was trained."""
    return (
        f"{config['teacher_epochs']} epochs on all images, {config['schedule'].replace('_', '-')} schedule, last epoch"
    )


def _read(path: Path, root: Path) -> Run:
    ledger = Ledger(path, read_only=True)
    results = {kind: ledger.results(kind) for kind in ("teacher", "solution", "baseline")}  # first: see `read`
    config, summary = _parameters(ledger.config), _summary(path.parent / "summary.json")
    trials = ledger.trials()
    planned = config["K"] * config["steps"]
    trained: Mapping[str, Any] = {**results["solution"], **results["baseline"]}
    if config["sampler"] == COMPRESSION:
        planned, trained = config["architectures"], summary
        trials = trials[trials["decisions"].map(lambda text: "index" in json.loads(text)).astype(bool)]
    accuracy = "best_epoch_accuracy" if config["final"] == "paper" else "accuracy"
    best = trials["f"].max()
    return Run(
        study=path.parent.relative_to(root).as_posix(),
        config=config,
        observed=int(trials["told_at"].notna().sum()),
        planned=planned,
        failed=int((trials["state"] == "failed").sum()),
        best_f=None if best != best else float(best),
        teacher=_trained(results["teacher"].get("reference"), "accuracy"),
        solution=_trained(trained.get("student"), accuracy),
        narrowed=_trained(trained.get("narrowed"), accuracy),
        summary=summary,
    )


def _parameters(stored: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a study, those that it does not know at their defaults."""
    stored = upgraded(stored)
    if "target_times" not in stored:
        return {**_DEFAULTS, **stored}
    shared = CompressionConfig.from_dict(stored).study_config
    return {**shared.to_dict(), **stored, "sampler": COMPRESSION}


def _trained(found: Mapping[str, Any] | None, accuracy: str) -> Measurement | None:
    return None if found is None else Measurement(float(found[accuracy]), int(found["params"]), found.get("macs", nan))


def _summary(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        raise LedgerError(f"{path.parent.name}/{path.name} is damaged (no JSON): run its notebook again") from None
