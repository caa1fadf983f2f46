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
PLAIN: Mapping[str, Any] = {"kernel_loss": "posterior", "acquisition": "random"}
"""The settings of the paper's own search that its ablations change."""

Values = Mapping[str, Any]
What = Literal["solution", "teacher", "compression", "baseline"]


NOTHING = Stat()


@dataclass(frozen=True)
class PaperRow:
    """One printed row.

    setting: what was compressed, on what. accuracy in %, params in numbers. teacher_accuracy: in %, of the printed
    teacher; f is against it. what: which of our results is its counterpart: the solution or the teacher of a
    study, or the student ("compression") or a named baseline of Architecture Compression. same: the parameters of such
    a study. key: of the baseline. program: the authors' program's own run, seed 127, where there is one.
    """

    setting: str
    method: str
    accuracy: Stat
    params: Stat
    same: Values
    what: What = "solution"
    ratio: Stat = NOTHING
    times: Stat = NOTHING
    f: Stat = NOTHING
    teacher_accuracy: float | None = None
    key: str = ""
    program: Mapping[str, float] = field(default_factory=dict)


@lru_cache(maxsize=1)
def paper_tables() -> dict[str, tuple[PaperRow, ...]]:
    """Return all printed tables by name, in the papers' order."""
    papers = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    esnac, other = papers["esnac"], papers["architecture_compression"]
    return {
        "ESNAC Table 1": tuple(_table1(esnac)),
        "ESNAC Table 2": tuple(_table2(esnac)),
        "ESNAC Table 3": tuple(_table3(esnac)),
        "ESNAC Table 4": tuple(_table4(esnac)),
        "ESNAC Table 5": tuple(_table5(esnac)),
        "ESNAC Table 6": tuple(_table6(esnac)),
        "ESNAC Table 7": tuple(_table7(esnac)),
        "ESNAC Table 8": tuple(_table8(esnac)),
        "Architecture Compression Table 1": tuple(_compression1(other)),
        "Architecture Compression Table 2": tuple(_compression2(other)),
    }


# -- ESNAC -------------------------------------------------------------------------------------------------------------


def _table1(esnac: Values) -> Iterator[PaperRow]:
    methods: dict[str, tuple[str, Values]] = {
        "random_search": ("random search", {"sampler": "random", "operators": FULL}),
        "n2n": ("N2N", {"sampler": "n2n", "operators": (FULL, SHRINK)}),
        "n2n_removal": ("N2N, removal only", {"sampler": "n2n", "operators": "remove"}),
        "esnac_removal": ("ESNAC, removal only", {"operators": "remove", **_esnac()}),
        "esnac": ("ESNAC", {"operators": FULL, **_esnac()}),
    }
    for dataset, teachers in esnac["table1"].items():
        for teacher, rows in teachers.items():
            yield _teacher_row(esnac, dataset, teacher, "teacher")
            for key, (method, same) in methods.items():
                if key in rows:
                    program = esnac["authors_program"].get(teacher) if (key, dataset) == ("esnac", "cifar100") else None
                    yield _row(esnac, dataset, teacher, method, rows[key], same, program)


def _table2(esnac: Values) -> Iterator[PaperRow]:
    for teacher, (accuracy, params) in esnac["table2"]["esnac"].items():
        same_f = esnac["table1"]["cifar100"][teacher]["esnac"]["f"]  # the same students: Table 2 prints no f
        printed = {"accuracy": accuracy, "params": params, "f": same_f}
        method = f"ESNAC from {TEACHERS[teacher].label}"
        yield _row(esnac, "cifar100", teacher, method, printed, {"operators": FULL, **_esnac()})
    for name, (accuracy, params) in esnac["table2"]["shufflenet"].items():
        width, groups = name.split("x g")
        same = {"teacher": f"shufflenet_{width}x_g{groups}", "dataset": "cifar100"}
        yield PaperRow(
            DATASETS["cifar100"].label, TEACHERS[same["teacher"]].label, Stat(accuracy), Stat(params * MILLION), same,
            "teacher",
        )  # fmt: skip


def _table3(esnac: Values) -> Iterator[PaperRow]:
    settings = {"(b)": ("cifar10", "resnet34"), "(c)": ("cifar10", "vgg19"), "(d)": ("cifar100", "resnet18")}
    methods: dict[str, tuple[str, Values]] = {
        "transfer_k1": ("kernels of (a), K = 1", {"sampler": "transfer", "K": 1, "operators": FULL}),
        "transfer_k8": ("kernels of (a), K = 8", {"sampler": "transfer", "K": 8, "operators": FULL}),
        "n2n_direct": ("N2N, direct", {"sampler": "n2n", "operators": (FULL, SHRINK)}),
        "esnac_direct": ("ESNAC, direct", {"operators": FULL, **_esnac()}),
    }
    for name, rows in esnac["table3"].items():
        dataset, teacher = settings[name.split()[0]]
        for key, (method, same) in methods.items():
            printed = dict(zip(("accuracy", "ratio", "f"), rows[key], strict=True))
            yield _row(esnac, dataset, teacher, method, printed, same)


def _table4(esnac: Values) -> Iterator[PaperRow]:
    for name, row in esnac["table4"].items():
        kernels = int(name[1:])
        same = {"operators": FULL, **_esnac(), "K": kernels}
        yield _row(esnac, "cifar100", "resnet34", f"K = {kernels}", row, same)


def _table5(esnac: Values) -> Iterator[PaperRow]:
    for teacher, rows in esnac["table5"].items():
        for key, method, operators in _WITH_AND_WITHOUT_SKIPS:
            same = {"operators": operators, **_esnac()}
            yield _row(esnac, "cifar100", teacher, f"ESNAC, {method}", rows[key], same)


def _table6(esnac: Values) -> Iterator[PaperRow]:
    for name, row in esnac["table6"].items():
        maximiser, kernels = name.split("_K")
        acquisition = {"RS": "random", "EA": "evolution"}[maximiser]
        method = f"EI by {'random sampling' if maximiser == 'RS' else 'evolution'}, K = {kernels}"
        same = {"operators": FULL, **_esnac(), "acquisition": acquisition, "K": int(kernels)}
        yield _row(esnac, "cifar100", "resnet34", method, row, same)


def _table7(esnac: Values) -> Iterator[PaperRow]:
    for teacher in ("resnet18", "resnet34"):
        rows = esnac["table7"][teacher]
        for key, method, operators in _WITH_AND_WITHOUT_SKIPS:
            classic = {"sampler": "tpe", "operators": operators}
            yield _row(esnac, "cifar100", teacher, f"TPE, {method}", rows[f"tpe_{key}"], classic)
            same = {"operators": operators, **_esnac()}
            yield _row(esnac, "cifar100", teacher, f"ESNAC, {method}", rows[f"esnac_{key}"], same)


def _table8(esnac: Values) -> Iterator[PaperRow]:
    for teacher, rows in esnac["table8"].items():
        for objective_name, row in rows.items():
            same = {"operators": FULL, **_esnac(), "kernel_loss": objective_name}
            yield _row(esnac, "cifar100", teacher, objective_name, row, same)


_WITH_AND_WITHOUT_SKIPS = (("removal_shrink", "without skips", SHRINK), ("full", "with skips", FULL))


def _esnac() -> dict[str, Any]:
    return {"sampler": "esnac", "K": 8, **PLAIN}


def _teacher_row(esnac: Values, dataset: str, teacher: str, method: str) -> PaperRow:
    printed = esnac["table1"][dataset][teacher]["teacher"]
    accuracy, params = Stat(printed["accuracy"]), Stat(printed["params"] * MILLION)
    return PaperRow(_setting(dataset, teacher), method, accuracy, params, _of(dataset, teacher), "teacher")


def _row(
    esnac: Values,
    dataset: str,
    teacher: str,
    method: str,
    printed: Values | Sequence[Any] | None,
    same: Values,
    program: Sequence[float] | None = None,
) -> PaperRow:
    """A row of a student; `printed` by name, or as a list of accuracy, params, ratio, times, f; None: no result."""
    values: Values = dict(zip(NUMBERS, printed, strict=True)) if isinstance(printed, Sequence) else printed or {}
    accuracy, params, ratio, times, f = (_stat(values.get(name)) for name in NUMBERS)
    own = dict(zip(NUMBERS, program or (), strict=bool(program)))
    if own:
        own["params"] *= MILLION
    return PaperRow(
        setting=_setting(dataset, teacher),
        method=method,
        accuracy=accuracy,
        params=Stat(*(None if x is None else x * MILLION for x in params)),
        ratio=ratio,
        times=times,
        f=f,
        same={**_of(dataset, teacher), **AS_PUBLISHED, **same},
        teacher_accuracy=esnac["table1"][dataset][teacher]["teacher"]["accuracy"],
        program=own,
    )


def _stat(value: float | Sequence[float] | None) -> Stat:
    if value is None or not isinstance(value, Sequence):
        return Stat(value)
    return Stat(*value)


def _of(dataset: str, teacher: str) -> dict[str, str]:
    return {"dataset": dataset, "teacher": teacher}


def _setting(dataset: str, teacher: str) -> str:
    return f"{TEACHERS[teacher].label} on {DATASETS[dataset].label}"


# -- Architecture Compression ------------------------------------------------------------------------------------------


def _compression1(paper: Values) -> Iterator[PaperRow]:
    for dataset, row in paper["table1"].items():
        same = _of(dataset, row["model"].replace("-", "").lower())
        setting, teacher_params = f"{row['model']} on {DATASETS[dataset].label}", row["params"] * MILLION
        yield PaperRow(setting, "teacher", Stat(row["accuracy"]), Stat(teacher_params), same, "teacher")
        accuracy = round(row["accuracy"] + row["delta_accuracy"], 2)
        printed = (accuracy, teacher_params / row["times"])
        yield _compressed(
            setting, "Architecture Compression", printed, same, row["accuracy"], teacher_params, "compression"
        )


def _compression2(paper: Values) -> Iterator[PaperRow]:
    keys = {"FitNet": "fitnet", "pruning": "pruning", "N2N": "n2n"}
    printed = paper["table1"]["cifar10"]
    same = _of("cifar10", "conv10")
    for method, (accuracy, millions) in paper["table2"].items():
        key = keys.get(method.split()[0], "")
        what: What = "baseline" if key else "compression"
        numbers = (accuracy, millions * MILLION)
        yield _compressed(
            "CONV-10 on CIFAR-10", method, numbers, same, printed["accuracy"], printed["params"] * MILLION, what, key
        )


def _compressed(
    setting: str,
    method: str,
    printed: tuple[float, float],
    same: Values,
    teacher_accuracy: float,
    teacher_params: float,
    what: What,
    key: str = "",
) -> PaperRow:
    """A row whose ratio, times and f follow from what is printed."""
    accuracy, params = printed
    return PaperRow(
        setting,
        method,
        Stat(accuracy),
        Stat(params),
        same,
        what,
        Stat(compression_ratio(params, teacher_params)),
        Stat(teacher_params / params),
        Stat(PAPERS.value(Measurement(accuracy, params), Measurement(teacher_accuracy, teacher_params))),
        teacher_accuracy,
        key,
    )
