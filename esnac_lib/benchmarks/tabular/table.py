"""The offline table: evaluated architectures as JSON lines in one gzip file.

A line is either a *problem* (a teacher with its architecture and accuracy, a data set, a search training and a seed:
all that an evaluation depends on apart from the architecture) or an *evaluation* in one: decisions, curve, accuracy, f,
parameters, MACs. The same evaluations give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import DataError
from esnac_lib.files import shown, write_atomically
from esnac_lib.ledger.file import find_ledgers
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import PAPERS
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.evaluation_cache import training_of

VERSION = 1
COMMITTED = Path(__file__).with_name("evaluations.jsonl.gz")
COLUMNS = (
    "problem", "study", "trial", "step", "sampler", "sampling", "arch_id", "decisions", "params", "macs", "accuracy",
    "f", "best_epoch", "curve", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """All that f depends on apart from the architecture."""

    name: str  # a short hash of the rest
    training: Mapping[str, Any]  # the parameters of the study that define it
    operators: tuple[str, ...]  # of the studies' search space
    accuracy: float  # of the search teacher, on the validation images
    teacher: Architecture

    def __repr__(self) -> str:
        known = self.training
        return f"Problem({self.name}: {known['teacher'][0]} on {known['dataset']}, seed {known['seed']})"

    def space(self, sampling: str = "paper") -> SearchSpace:
        """Return the search space that its decisions belong to."""
        return SearchSpace(self.teacher, self.operators, sampling=sampling)


@dataclass(frozen=True, eq=False)
class OfflineTable:
    """Problems by name, and their evaluations, one line for each architecture of a problem."""

    problems: Mapping[str, Problem]
    evaluations: pd.DataFrame  # `COLUMNS`: `decisions` as text, `curve` a list of [loss, validation accuracy] by epoch

    def __repr__(self) -> str:
        return f"OfflineTable({len(self.evaluations)} evaluations of {len(self.problems)} problems)"

    def of(self, problem: Problem) -> pd.DataFrame:
        """Return the evaluations of one problem."""
        return self.evaluations[self.evaluations["problem"] == problem.name].reset_index(drop=True)

    def largest(self) -> Problem:
        """Return the problem with most evaluations; of equals the first by name."""
        counts = self.evaluations["problem"].value_counts()
        return self.problems[min(counts.index, key=lambda name: (-counts[name], name))]

    @cached_property
    def overview(self) -> pd.DataFrame:
        """One line a problem: what it is, how many evaluations, and the spread of f."""
        lines = []
        for name, problem in self.problems.items():
            rows, training = self.of(problem), problem.training
            lines.append({
                "problem": name, "teacher": training["teacher"], "data set": training["dataset"],
                "seed": training["seed"], "images": training["search_images"] or "all",
                "epochs": training["search"]["epochs"], "operators": ", ".join(problem.operators),
                "filters kept": training.get("keep", "first"), "decisions": problem.space().num_decisions,
                "evaluations": len(rows), "mean f": rows["f"].mean(), "best f": rows["f"].max(),
            })  # fmt: skip
        return pd.DataFrame(lines)


def collect(root: Path) -> OfflineTable:
    """Collect from the ledgers under `root` every finished trial with an f, once for each architecture of a problem.

    Equal are architectures that inherit the same channels, too: studies of one experiment look such a one up. The first
    study by name stands. Ledgers of other experiments than searches, without a search teacher, or of another objective
    than the papers' are passed by.
    """
    problems: dict[str, Problem] = {}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for path in find_ledgers(root):
        ledger = Ledger(path, read_only=True)
        teacher = ledger.results("teacher").get("search")
        if teacher is None or not set(ledger.config) <= set(StudyConfig.model_fields):
            continue
        config = StudyConfig.from_stored(ledger.config)
        if config.objective != PAPERS.name:
            continue
        problem = _problem(config, teacher)
        problems.setdefault(problem.name, problem)
        for architecture, line in _evaluations(ledger, config, problem, path.parent.relative_to(root).as_posix()):
            lines.setdefault((problem.name, architecture), line)
    return _table(problems.values(), lines.values())


def write(table: OfflineTable, path: Path = COMMITTED) -> Path:
    """Write a table; the same table gives the same bytes, whenever and wherever it is written."""
    lines: list[dict[str, Any]] = [{"offline": VERSION, "columns": list(COLUMNS)}]
    for problem in table.problems.values():
        about = {"problem": problem.name, "training": dict(problem.training), "operators": list(problem.operators)}
        lines.append({**about, "accuracy": problem.accuracy, "teacher": problem.teacher.to_json()})
    for row in table.evaluations.to_dict("records"):
        values = {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in row}
        lines.append({"evaluation": [values[name] for name in COLUMNS]})
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    write_atomically(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return path


def load(path: Path = COMMITTED) -> OfflineTable:
    """Read a table. Raises DataError, one line, if the file is missing or is something else."""
    try:
        header, *lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        if header["offline"] != VERSION:
            raise ValueError(f"version {header['offline']}, while this library reads {VERSION}")
        problems = [_read_problem(line) for line in lines if "problem" in line]
        rows = [dict(zip(header["columns"], line["evaluation"], strict=True)) for line in lines if "evaluation" in line]
    except FileNotFoundError:
        raise DataError(f"there is no offline table {shown(path)}: make one with offline.write") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)} is no offline table: {type(error).__name__}: {error}") from None
    return _table(problems, rows)


def decisions_of(rows: pd.DataFrame) -> list[Decisions]:
    """Return the decisions of evaluations."""
    return [Decisions.from_json(text) for text in rows["decisions"]]


def _table(problems: Iterable[Problem], lines: Iterable[Mapping[str, Any]]) -> OfflineTable:
    frame = pd.DataFrame([[line[name] for name in COLUMNS] for line in lines], columns=list(COLUMNS), dtype=object)
    frame = frame.sort_values(["problem", "study", "trial"], ignore_index=True)
    numbers = {"trial": "int64", "step": "int64", "params": "int64", "macs": "int64"}
    frame = frame.astype({**numbers, "accuracy": "float64", "f": "float64", "best_epoch": "Int64"})
    return OfflineTable({problem.name: problem for problem in sorted(problems, key=lambda p: p.name)}, frame)


def _problem(config: StudyConfig, teacher: Mapping[str, Any]) -> Problem:
    training = json.loads(json.dumps(_finite(training_of(config))))
    parts = [training, config.operators, teacher["accuracy"], teacher["architecture"]]
    name = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=4).hexdigest()
    architecture = Architecture.from_json(teacher["architecture"])
    return Problem(name, training, config.operator_names, teacher["accuracy"], architecture)


def _read_problem(line: Mapping[str, Any]) -> Problem:
    teacher = Architecture.from_json(line["teacher"])
    return Problem(line["problem"], line["training"], tuple(line["operators"]), line["accuracy"], teacher)


def _evaluations(
    ledger: Ledger, config: StudyConfig, problem: Problem, study: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(architecture as text, line of the table) of each finished trial that has an f."""
    trials, epochs = ledger.trials(), ledger.epochs("search").groupby("name")
    curves = {str(name): rows[["loss", "accuracy"]].round(6).to_numpy().tolist() for name, rows in epochs}
    known = {"problem": problem.name, "study": study, "sampler": config.sampler, "sampling": config.sampling}
    for row in trials[trials["told_at"].notna() & trials["f"].notna()].to_dict("records"):
        values = {name: row[name] for name in ("trial", "step", "arch_id", "decisions", "params", "macs", "f", "error")}
        values["accuracy"] = None if row["accuracy"] != row["accuracy"] else row["accuracy"]
        values["best_epoch"] = None if pd.isna(row["best_epoch"]) else int(row["best_epoch"])
        values["curve"] = curves.get(f"trial{row['trial']:04d}", [])
        yield row["architecture"], known | values


def _finite(value: Any) -> Any:
    """Return the value without infinities, which JSON has not: they become text."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
