"""Every row of the two papers' tables as printed, and which studies of ours are the same experiment.

    >>> [row.method for row in paper_tables()["ESNAC Table 4"]]
    ['K = 1', 'K = 2', 'K = 4', 'K = 8', 'K = 16']

The numbers come from published.yaml; nothing here reads a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from esnac_lib.config.study import AS_PUBLISHED
from esnac_lib.data.registry import DATASETS
from esnac_lib.objective import PAPERS, Measurement, compression_ratio
from esnac_lib.report.statistics import Stat
from esnac_lib.teachers.registry import TEACHERS

FULL, SHRINK = "remove,shrink,skip", "remove,shrink"
MILLION = 1e6
NUMBERS = {"accuracy": "accuracy [%]", "params": "parameters", "ratio": "ratio", "times": "compression (×)", "f": "f"}
"""What a row may print, in the order of a row that is printed as a list, and its heading in our tables."""
PLAIN: Mapping[str, Any] = {"kernel_loss": "posterior", "acquisition": "random"}  # what the paper's ablations change
ESNAC: Mapping[str, Any] = {"sampler": "esnac", "K": 8, **PLAIN}
_WITH_AND_WITHOUT_SKIPS = (("removal_shrink", "without skips", SHRINK), ("full", "with skips", FULL))

Values = Mapping[str, Any]
What = Literal["solution", "teacher", "compression", "baseline"]
NOTHING = Stat()


@dataclass(frozen=True)
class PaperRow:
    """One printed row."""

    setting: str  # what was compressed, on what
    method: str
    accuracy: Stat  # in %
    params: Stat
    same: Values  # the parameters of our studies that are the same experiment
    what: What = "solution"  # which of their results: of Architecture Compression the student or a baseline
    ratio: Stat = NOTHING
    times: Stat = NOTHING
    f: Stat = NOTHING
    teacher_accuracy: float | None = None  # in %, of the printed teacher; f is against it
    key: str = ""  # of the baseline
    program: Mapping[str, float] = field(default_factory=dict)  # the authors' program's own run, seed 127


@lru_cache(maxsize=1)
def paper_tables() -> dict[str, tuple[PaperRow, ...]]:
    """Return all printed tables by name, in the papers' order."""
    papers = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    printed = (_table1, _table2, _table3, _table4, _table5, _table6, _table7, _table8)
    tables = {f"ESNAC Table {number}": tuple(rows(papers["esnac"])) for number, rows in enumerate(printed, 1)}
    for number, rows in enumerate((_compression1, _compression2), 1):
        tables[f"Architecture Compression Table {number}"] = tuple(rows(papers["architecture_compression"]))
    return tables


def _table1(esnac: Values) -> Iterator[PaperRow]:
    methods: dict[str, tuple[str, Values]] = {
        "random_search": ("random search", {"sampler": "random", "operators": FULL}),
        "n2n": ("N2N", {"sampler": "n2n", "operators": (FULL, SHRINK)}),
        "n2n_removal": ("N2N, removal only", {"sampler": "n2n", "operators": "remove"}),
        "esnac_removal": ("ESNAC, removal only", {"operators": "remove", **ESNAC}),
        "esnac": ("ESNAC", {"operators": FULL, **ESNAC}),
    }
    for dataset, teachers in esnac["table1"].items():
        for teacher, rows in teachers.items():
            accuracy, params = Stat(rows["teacher"]["accuracy"]), Stat(rows["teacher"]["params"] * MILLION)
            same = _of(dataset, teacher)
            yield PaperRow(_setting(**same), "teacher", accuracy, params, same, "teacher")
            for key, (method, search) in methods.items():
                if key in rows:
                    program = esnac["authors_program"].get(teacher) if (key, dataset) == ("esnac", "cifar100") else None
                    yield _row(esnac, dataset, teacher, method, rows[key], search, program)


def _table2(esnac: Values) -> Iterator[PaperRow]:
    for teacher, (accuracy, params) in esnac["table2"]["esnac"].items():
        same_f = esnac["table1"]["cifar100"][teacher]["esnac"]["f"]  # the same students: Table 2 prints no f
        printed = {"accuracy": accuracy, "params": params, "f": same_f}
        label = TEACHERS[teacher].label
        yield _row(esnac, "cifar100", teacher, f"ESNAC from {label}", printed, {"operators": FULL, **ESNAC})
    for name, (accuracy, params) in esnac["table2"]["shufflenet"].items():
        width, groups = name.split("x g")
        same = _of("cifar100", f"shufflenet_{width}x_g{groups}")
        setting, method = DATASETS["cifar100"].label, TEACHERS[same["teacher"]].label
        yield PaperRow(setting, method, Stat(accuracy), Stat(params * MILLION), same, "teacher")


def _table3(esnac: Values) -> Iterator[PaperRow]:
    settings = {"(b)": ("cifar10", "resnet34"), "(c)": ("cifar10", "vgg19"), "(d)": ("cifar100", "resnet18")}
    methods: dict[str, tuple[str, Values]] = {
        "transfer_k1": ("kernels of (a), K = 1", {"sampler": "transfer", "K": 1, "operators": FULL}),
        "transfer_k8": ("kernels of (a), K = 8", {"sampler": "transfer", "K": 8, "operators": FULL}),
        "n2n_direct": ("N2N, direct", {"sampler": "n2n", "operators": (FULL, SHRINK)}),
        "esnac_direct": ("ESNAC, direct", {"operators": FULL, **ESNAC}),
    }
    for name, rows in esnac["table3"].items():
        dataset, teacher = settings[name.split()[0]]
        for key, (method, same) in methods.items():
            printed = dict(zip(("accuracy", "ratio", "f"), rows[key], strict=True))
            yield _row(esnac, dataset, teacher, method, printed, same)


def _table4(esnac: Values) -> Iterator[PaperRow]:
    for name, row in esnac["table4"].items():
        same = {"operators": FULL, **ESNAC, "K": int(name[1:])}
        yield _row(esnac, "cifar100", "resnet34", f"K = {same['K']}", row, same)


def _table5(esnac: Values) -> Iterator[PaperRow]:
    for teacher, rows in esnac["table5"].items():
        for key, method, operators in _WITH_AND_WITHOUT_SKIPS:
            same = {"operators": operators, **ESNAC}
            yield _row(esnac, "cifar100", teacher, f"ESNAC, {method}", rows[key], same)


def _table6(esnac: Values) -> Iterator[PaperRow]:
    for name, row in esnac["table6"].items():
        short, kernels = name.split("_K")
        acquisition, maximiser = {"RS": ("random", "random sampling"), "EA": ("evolution", "evolution")}[short]
        same = {"operators": FULL, **ESNAC, "acquisition": acquisition, "K": int(kernels)}
        yield _row(esnac, "cifar100", "resnet34", f"EI by {maximiser}, K = {kernels}", row, same)


def _table7(esnac: Values) -> Iterator[PaperRow]:
    for teacher in ("resnet18", "resnet34"):
        for key, skips, operators in _WITH_AND_WITHOUT_SKIPS:
            for method, search in (("TPE", {"sampler": "tpe"}), ("ESNAC", ESNAC)):
                row, same = esnac["table7"][teacher][f"{method.lower()}_{key}"], {"operators": operators, **search}
                yield _row(esnac, "cifar100", teacher, f"{method}, {skips}", row, same)


def _table8(esnac: Values) -> Iterator[PaperRow]:
    for teacher, rows in esnac["table8"].items():
        for loss, row in rows.items():
            yield _row(esnac, "cifar100", teacher, loss, row, {"operators": FULL, **ESNAC, "kernel_loss": loss})


def _row(
    esnac: Values, dataset: str, teacher: str, method: str, printed: Any, same: Values, program: Any = None
) -> PaperRow:
    """Return a student's row; `printed` by name, or as a list of accuracy, params, ratio, times, f; None: no result."""
    values: Values = dict(zip(NUMBERS, printed, strict=True)) if isinstance(printed, Sequence) else printed or {}
    numbers = {name: Stat(*value) if isinstance(value, list) else Stat(value) for name, value in values.items()}
    if "params" in numbers:
        numbers["params"] = Stat(*(None if x is None else x * MILLION for x in numbers["params"]))
    own = dict(zip(NUMBERS, program or (), strict=bool(program)))
    if own:
        own["params"] *= MILLION
    accuracy, params, ratio, times, f = (numbers.get(name, NOTHING) for name in NUMBERS)
    same = {**_of(dataset, teacher), **AS_PUBLISHED, **same}
    reference = esnac["table1"][dataset][teacher]["teacher"]["accuracy"]
    rest = (ratio, times, f, reference, "", own)
    return PaperRow(_setting(dataset, teacher), method, accuracy, params, same, "solution", *rest)


def _of(dataset: str, teacher: str) -> dict[str, str]:
    return {"dataset": dataset, "teacher": teacher}


def _setting(dataset: str, teacher: str) -> str:
    return f"{TEACHERS[teacher].label} on {DATASETS[dataset].label}"


def _compression1(paper: Values) -> Iterator[PaperRow]:
    for dataset, row in paper["table1"].items():
        same, teacher = _of(dataset, row["model"].replace("-", "").lower()), _measured(row["accuracy"], row["params"])
        accuracy, params = Stat(teacher.accuracy), Stat(teacher.params)
        yield PaperRow(_setting(**same), "teacher", accuracy, params, same, "teacher")
        student = Measurement(round(row["accuracy"] + row["delta_accuracy"], 2), teacher.params / row["times"])
        yield _compressed(same, "Architecture Compression", student, teacher)


def _compression2(paper: Values) -> Iterator[PaperRow]:
    baselines, row = {"FitNet": "fitnet", "pruning": "pruning", "N2N": "n2n"}, paper["table1"]["cifar10"]
    teacher = _measured(row["accuracy"], row["params"])
    for method, printed in paper["table2"].items():
        key = baselines.get(method.split()[0], "")
        yield _compressed(_of("cifar10", "conv10"), method, _measured(*printed), teacher, key)


def _measured(accuracy: float, millions: float) -> Measurement:
    return Measurement(accuracy, millions * MILLION)


def _compressed(
    same: dict[str, str], method: str, student: Measurement, teacher: Measurement, key: str = ""
) -> PaperRow:
    """Return a row whose ratio, times and f follow from what is printed."""
    ratio, times = compression_ratio(student.params, teacher.params), teacher.params / student.params
    derived = Stat(ratio), Stat(times), Stat(PAPERS.value(student, teacher))
    accuracy, params = Stat(student.accuracy), Stat(student.params)
    what: What = "baseline" if key else "compression"
    return PaperRow(_setting(**same), method, accuracy, params, same, what, *derived, teacher.accuracy, key)
