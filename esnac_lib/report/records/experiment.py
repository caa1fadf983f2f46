"""An experiment as its ledgers have it, and its variants side by side: means and standard deviations over the runs.

>>> experiment = read_experiment(config)
>>> readable(variants_table(experiment, config.tables()["kernels"]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from esnac_lib.config.experiment import ExperimentConfig
from esnac_lib.config.paths import outputs_root, study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.ledger.file import has_ledger
from esnac_lib.objective import compression_ratio
from esnac_lib.report.records.study import StudyRecord, read
from esnac_lib.report.statistics import stat
from esnac_lib.space.operators.base import Operator
from esnac_lib.space.registry import core_and

NUMBERS = (
    "accuracy [%]", "parameters", "ratio", "compression (×)", "f", "best search f", "proposing [s]", "evaluating [s]",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ExperimentRecord:
    """What the ledgers of an experiment say. studies: of each variant, by seed, those that have a ledger."""

    folder: Path
    config: ExperimentConfig
    studies: dict[str, tuple[StudyRecord, ...]]

    def __repr__(self) -> str:
        return f"ExperimentRecord({self.config.study!r}: {self.status})"

    def finished(self, variant: str) -> tuple[StudyRecord, ...]:
        """Return the variant's studies that came to their end, by seed."""
        return tuple(record for record in self.studies.get(variant, ()) if is_complete(record))

    def first(self, variant: str) -> StudyRecord | None:
        """Return the variant's study of the first seed, finished or not; None if it has not begun."""
        return next(iter(self.studies.get(variant, ())), None)

    @property
    def records(self) -> tuple[StudyRecord, ...]:
        """All studies that have a ledger."""
        return tuple(record for records in self.studies.values() for record in records)

    @property
    def status(self) -> str:
        """How far the experiment is, in words."""
        done, planned = sum(map(is_complete, self.records)), len(self.config.studies())
        shared = sum(len(record.results["shared"]) for record in self.records)
        observed = sum(len(record.observed) for record in self.records)
        text = f"{done} of {planned} studies finished; {observed} architectures evaluated"
        return f"{text}, {shared} of them looked up in another study" if shared else text


def read_experiment(config: ExperimentConfig) -> ExperimentRecord:
    """Read all ledgers of an experiment that there are. Raises LedgerError for a damaged one."""
    by_variant: dict[str, list[StudyConfig]] = {variant: [] for variant in config.variants()}
    for study in config.studies():
        by_variant.setdefault(variant_of(study), []).append(study)
    studies = {variant: read_studies(configs) for variant, configs in by_variant.items()}
    return ExperimentRecord(outputs_root() / config.study, config, studies)


def read_studies(configs: Sequence[StudyConfig]) -> tuple[StudyRecord, ...]:
    """Read those of some studies that have a ledger."""
    return tuple(read(study_dir(config)) for config in configs if has_ledger(study_dir(config) / "ledger.sqlite"))


def variant_of(study: StudyConfig) -> str:
    """Return the variant that a study of an experiment is a run of.

    >>> variant_of(StudyConfig(study="ablations/K4_seed0"))
    'K4'
    """
    return study.study.split("/", 1)[1].rsplit("_seed", 1)[0]


def is_complete(record: StudyRecord) -> bool:
    """Return whether a study is finished: it has a solution, or all evaluations if there is no final training."""
    if record.config.final != "none":
        return record.is_final
    return record.has_summary and record.best is not None


def variants_table(experiment: ExperimentRecord, rows: Mapping[str, str]) -> pd.DataFrame:
    """Return one line per variant, in the papers' columns: mean and sample standard deviation over its finished runs.

    rows: by label, the variant. Accuracies and f are of the solution on the test images, against our own reference
    teacher; without final training of the best student on the validation images, as "evaluated on" says. A variant
    without a finished run has a line without numbers.
    """
    return pd.DataFrame([_line(label, experiment.finished(variant)) for label, variant in rows.items()], dtype=object)


def _line(label: str, records: Sequence[StudyRecord]) -> dict[str, Any]:
    values = [_numbers(record) for record in records]
    line: dict[str, Any] = {"variant": label, "runs": len(records)}
    line["evaluated on"] = records[0].student.evaluated_on if records and records[0].student else None
    for number, name in enumerate(NUMBERS):
        line[name], line[f"{name} ±"] = stat([numbers[number] for numbers in values])
    line["failed"] = sum(len(record.failed) for record in records) if records else None
    return line


def _numbers(record: StudyRecord) -> tuple[float, ...]:
    """`NUMBERS` of a finished study."""
    student, teacher, best = record.student, record.teacher, record.best
    assert student is not None and teacher is not None and best is not None
    ratio, times = compression_ratio(student.params, teacher.params), teacher.params / student.params
    seconds = float(record.trials["propose_seconds"].sum()), float(record.observed["seconds"].sum())
    return 100 * student.accuracy, float(student.params), ratio, times, student.f, best.f, *seconds


def operators_of(experiment: ExperimentRecord) -> tuple[Operator, ...]:
    """Return the paper's operators and all others that a study of the experiment may use."""
    return core_and({name for record in experiment.records for name in record.config.operator_names})


def decisions_table(experiment: ExperimentRecord, rows: Mapping[str, str]) -> pd.DataFrame:
    """Return what the variants decided, one line for each observed trial of every run.

    The columns are variant, seed, trial, f, state, and how much each operator changed (`Operator.amount`): removed
    (layers), shrunk (mean share of filters taken from each group), skips (connections added).
    """
    operators = operators_of(experiment)
    lines = []
    for label, variant in rows.items():
        for record in experiment.studies.get(variant, ()):
            for row in record.observed.to_dict("records"):
                line = {"variant": label, "seed": record.config.seed} | {n: row[n] for n in ("trial", "f", "state")}
                decisions = record.decisions(row["trial"])
                lines.append(line | {o.column: o.amount(o.part(decisions)) for o in operators})
    columns = ["variant", "seed", "trial", "f", "state", *(operator.column for operator in operators)]
    return pd.DataFrame(lines, columns=columns)
