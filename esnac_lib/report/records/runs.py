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
from esnac_lib.files import shown
from esnac_lib.ledger.file import find_ledgers
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS, Measurement, Objective, compression_ratio
from esnac_lib.report.records.study import is_last
from esnac_lib.report.statistics import Stat, stat

COMPRESSION = "architecture compression"  # stands for the sampler of a study of the second paper, which has none
_NO_PROTOCOL = RESULT_FREE | {"study", "seed"}
_DEFAULTS = {name: field.default for name, field in StudyConfig.model_fields.items()}
_SEARCH = ("operators", "grouping", "keep", "objective", "kernel_loss", *PRESETS["paper"])  # named if not the defaults
_TEACHER = ("teacher", "dataset", "teacher_epochs", "teacher_lr", "batch_size", "augment", "schedule", "validation")


Pair = tuple[Measurement, Measurement]
"""A network with its teacher."""


@dataclass(frozen=True)
class Run:
    """A summary of one study's ledger. Networks, each None before it exists, are evaluated on the test images."""

    study: str
    config: Mapping[str, Any]  # parameters that the study does not know are at their defaults
    observed: int  # architectures, as planned and failed
    planned: int
    failed: int
    best_f: float | None  # of the search
    teacher: Measurement | None  # the reference teacher
    solution: Measurement | None
    narrowed: Measurement | None
    summary: Mapping[str, Any]  # of summary.json next to the ledger, empty where there is none

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
    def solutions(self) -> list[Pair]:
        """The solutions of the finished runs, each with its teacher."""
        return [(run.solution, run.teacher) for run in self.runs if run.solution and run.teacher]

    @property
    def narrowed(self) -> list[Pair]:
        """The narrowed teachers of the finished runs, each with the teacher itself."""
        return [(run.narrowed, run.teacher) for run in self.runs if run.solution and run.narrowed and run.teacher]

    @property
    def search_protocol(self) -> str:
        """How students were evaluated and finally trained, in words."""
        config = self.config
        images = f"{config['search_images']:,}" if config["search_images"] else "all training"
        if config["sampler"] == COMPRESSION:
            text = f"{config['architectures']} random architectures, {config['epochs']} epochs on {images} images"
            return f"{text}; final {config['final_epochs']} epochs (chosen on validation, last epoch)"
        text = f"{config['K'] * config['steps']} evaluations ({config['steps']} × {config['K']}), "
        text += f"{config['epochs']} epochs on {images} images"
        text += "".join(f", {name} {config[name]}" for name in _SEARCH if config[name] != _DEFAULTS[name])
        if config["final"] == "none":
            return f"{text}; no final training"
        paper = config["final"] == "paper"
        form = "best test epoch of the best by test f" if paper else "chosen on validation, last epoch"
        return f"{text}; final {config['final_epochs']} epochs ({form})"

    @property
    def teacher_protocol(self) -> str:
        """How the teacher was trained, in words."""
        schedule = self.config["schedule"].replace("_", "-")
        return f"{self.config['teacher_epochs']} epochs on all images, {schedule} schedule, last epoch"

    @property
    def teacher_recipe(self) -> str:
        """Equal for groups whose runs of one seed share their teacher."""
        return str([self.config[name] for name in _TEACHER])


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
    pairs: Sequence[Pair], published_teacher: float | None, objective: Objective = PAPERS
) -> dict[str, Stat]:
    """Return accuracy (%), params, ratio, times and f of networks, each given with its teacher.

    published_teacher: accuracy in % of the printed teacher; f is against the better of it and ours, as the paper's is.
    """
    rows = []
    for network, teacher in pairs:
        better = replace(teacher, accuracy=max(teacher.accuracy, (published_teacher or 0.0) / 100))
        ratio, times = compression_ratio(network.params, teacher.params), teacher.params / network.params
        rows.append((100 * network.accuracy, network.params, ratio, times, objective.value(network, better)))
    names = ("accuracy", "params", "ratio", "times", "f")
    return {name: stat([row[number] for row in rows]) for number, name in enumerate(names)}


def _read(path: Path, root: Path) -> Run:
    ledger = Ledger(path, read_only=True)
    results = {kind: ledger.results(kind) for kind in ("teacher", "solution", "baseline")}  # first: see `read`
    config, summary = _parameters(ledger.config), _summary(path.parent / "summary.json")
    trials, planned = ledger.trials(), config["K"] * config["steps"]
    trained: Mapping[str, Any] = {**results["solution"], **results["baseline"]}
    if config["sampler"] == COMPRESSION:
        planned, trained = config["architectures"], summary
        trials = trials[trials["decisions"].map(lambda text: "index" in json.loads(text)).astype(bool)]
    observed = int(trials["told_at"].notna().sum())
    if not is_last(results["solution"].get("student", {}), observed, planned):
        trained = {}  # the search can go on: it is no result yet
    accuracy = "best_epoch_accuracy" if config["final"] == "paper" else "accuracy"
    best = trials["f"].max()
    return Run(
        study=path.parent.relative_to(root).as_posix(),
        config=config,
        observed=observed,
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
        raise LedgerError(f"{shown(path)} is damaged (no JSON): run its notebook again") from None
