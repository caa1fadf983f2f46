"""The rows that the two papers print for a study's setting, from published.yaml.

>>> published(StudyConfig(teacher="resnet34", dataset="cifar100"))
Published(label='ESNAC, Table 1, Ours', accuracy=73.68, ...)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from esnac_lib.config.study import AS_PUBLISHED, StudyConfig
from esnac_lib.objective import PAPERS, Measurement, compression_ratio

FULL = "remove,shrink,skip"
COLUMNS = ("accuracy", "params", "ratio", "times", "f")  # of a row that is printed as a list
MILLION = 1e6


@dataclass(frozen=True)
class Published:
    """A printed result beside its teacher.

    label: paper, table and row. accuracy, teacher_accuracy: in %, on the test images. params, teacher_params: as
    printed, so rounded. f: against the printed teacher. note: the printed spreads, or what is derived.
    """

    label: str
    teacher_label: str
    teacher_accuracy: float
    teacher_params: float
    accuracy: float
    params: float
    ratio: float
    times: float
    f: float
    note: str


def published(config: StudyConfig) -> Published | None:
    """The printed result for this teacher, data set, sampler, operators, objective and acquisition; None if none is.

    A search with anything beyond the ESNAC paper is held against its method as a whole. CONV-7 and CONV-10 have
    Architecture Compression's Table 1, whatever the method.
    """
    if config.teacher in ("conv7", "conv10"):
        return _architecture_compression(config)
    papers = load_papers()["esnac"]
    setting = papers["table1"].get(config.dataset, {}).get(config.teacher)
    found = setting and _esnac_row(papers, setting, config)
    if not found:
        return None
    label, row = found
    printed = dict(zip(COLUMNS, row, strict=True)) if isinstance(row, Sequence) else row
    values = {name: _mean(printed[name]) for name in COLUMNS}
    return Published(
        f"ESNAC, {label}",
        "ESNAC, teacher",
        setting["teacher"]["accuracy"],
        setting["teacher"]["params"] * MILLION,
        **(values | {"params": values["params"] * MILLION}),
        note=_spreads(printed),
    )


def _esnac_row(papers: Mapping[str, Any], setting: Mapping[str, Any], config: StudyConfig) -> tuple[str, Any] | None:
    """Table and row of the ESNAC paper with the row's numbers, or None."""
    if config.sampler == "random":
        return ("Table 1, random search", setting["random_search"]) if config.operators == FULL else None
    if any(getattr(config, name) != value for name, value in AS_PUBLISHED.items()):
        return "Table 1, Ours", setting["esnac"]
    plain = (config.kernel_loss, config.acquisition) == ("posterior", "random")
    if config.operators == "remove" and plain and "esnac_removal" in setting:
        return "Table 1, removal only", setting["esnac_removal"]
    if config.dataset == "cifar100" and config.operators == "remove,shrink" and plain:
        table = papers["table5"].get(config.teacher)
        return ("Table 5, removal and shrinkage", table["removal_shrink"]) if table else None
    if config.operators != FULL:
        return None
    if plain:
        return "Table 1, Ours", setting["esnac"]
    if config.dataset == "cifar100" and config.acquisition == "random":
        table = papers["table8"].get(config.teacher, {})
        return (f"Table 8, {config.kernel_loss}", table[config.kernel_loss]) if config.kernel_loss in table else None
    evolved = papers["table6"].get(f"EA_K{config.K}")
    if (config.dataset, config.teacher, config.kernel_loss) == ("cifar100", "resnet34", "posterior") and evolved:
        return f"Table 6, evolution, K = {config.K}", evolved
    return None


def _architecture_compression(config: StudyConfig) -> Published | None:
    row = load_papers()["architecture_compression"]["table1"].get(config.dataset)
    if row is None or row["model"].replace("-", "").lower() != config.teacher:
        return None
    accuracy = row["accuracy"] + row["delta_accuracy"]
    teacher_params = row["params"] * MILLION
    params = teacher_params / row["times"]
    return Published(
        "Architecture Compression, Table 1",
        f"Architecture Compression, {row['model']}",
        row["accuracy"],
        teacher_params,
        round(accuracy, 2),
        params,
        compression_ratio(params, teacher_params),
        row["times"],
        PAPERS.value(Measurement(accuracy, params), Measurement(row["accuracy"], teacher_params)),
        f"printed: {row['delta_accuracy']:+.2f} points at {row['times']} times; the rest follows from that",
    )


@lru_cache(maxsize=1)
def load_papers() -> dict[str, Any]:
    """All that published.yaml holds."""
    with open(Path(__file__).with_name("published.yaml"), encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


def _mean(value: float | list[float]) -> float:
    return float(value[0] if isinstance(value, list) else value)


def _spreads(printed: Mapping[str, Any]) -> str:
    """The standard deviations that are printed, in the order of the columns."""
    units = {"accuracy": "accuracy", "params": "parameters (M)", "ratio": "ratio", "times": "times", "f": "f"}
    parts = [f"{units[name]} ± {printed[name][1]:g}" for name in COLUMNS if isinstance(printed[name], list)]
    return f"as printed; {', '.join(parts)}" if parts else "as printed"
