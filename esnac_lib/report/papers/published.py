"""What the two papers print for a study's setting: the row of `printed_tables` that a study is compared with.

>>> published(StudyConfig(teacher="resnet34", dataset="cifar100"))
Published(label='ESNAC, Table 1', accuracy=73.68, ...)
"""

from __future__ import annotations

from dataclasses import dataclass

from esnac_lib.config.study import AS_PUBLISHED, StudyConfig
from esnac_lib.data.registry import DATASETS
from esnac_lib.report.papers.printed_tables import FULL, NUMBERS, PLAIN, PaperRow, paper_tables
from esnac_lib.report.records.runs import is_same
from esnac_lib.report.statistics import Difference


@dataclass(frozen=True)
class Published:
    """A printed result next to its teacher. Accuracies are in %, on the test images; params as printed, so rounded."""

    label: str  # paper, table and row
    teacher_label: str
    teacher_accuracy: float
    teacher_params: float
    accuracy: float
    params: float
    ratio: float
    times: float
    f: float  # against the printed teacher
    note: str  # the printed spreads, or what is derived
    images: int | None  # test images of the data set

    @property
    def change(self) -> Difference:
        """What the student gains over its teacher; the printed digits are two."""
        exact = Difference.of(self.accuracy / 100, self.teacher_accuracy / 100, self.images)
        return exact._replace(points=round(exact.points, 2))

    @property
    def claim(self) -> str:
        """The result in words."""
        return (
            f"{self.change.signed} at {self.times:g} times fewer parameters, from a teacher of "
            f"{self.teacher_accuracy:.2f} %{self.change.caveat}."
        )


def published(config: StudyConfig) -> Published | None:
    """Return the printed result for this teacher, data set, sampler, operators, kernel loss and acquisition, or None.

    A search with anything beyond the ESNAC paper is compared with its method as a whole. CONV-7 and CONV-10 have
    Architecture Compression's Table 1, whatever the method.
    """
    setting = {"teacher": config.teacher, "dataset": config.dataset}
    rows = [(table, row) for table, rows in paper_tables().items() for row in rows if is_same(row.same, setting)]
    for table, row in rows:
        if _is_compared_with(config, table, row):
            return _with_teacher(table, row, next(other for _, other in rows if other.what == "teacher"))
    return None


def _is_compared_with(config: StudyConfig, table: str, row: PaperRow) -> bool:
    if row.what == "compression":
        return table == "Architecture Compression Table 1"
    if row.what != "solution" or row.f.mean is None:
        return False
    asked = config.to_dict()
    beyond = not is_same(asked, AS_PUBLISHED)
    asked |= AS_PUBLISHED
    if config.sampler != "random":
        asked |= {"sampler": "esnac"} | ({"operators": FULL, **PLAIN} if beyond else {})
    ignored = () if table == "ESNAC Table 6" else ("K",)  # its rows are the only ones of their acquisition
    return is_same(asked, {name: value for name, value in row.same.items() if name not in ignored})


def _with_teacher(table: str, row: PaperRow, teacher: PaperRow) -> Published:
    paper = table.partition(" Table")[0]
    label = table.replace(" Table", ", Table") + ("" if row.method == paper else f", {row.method}")
    values = {name: float(getattr(row, name).mean) for name in NUMBERS}
    reference, teacher_params = float(teacher.accuracy.mean or 0.0), float(teacher.params.mean or 0.0)
    if row.what == "compression":
        change = f"{values['accuracy'] - reference:+.2f} points at {values['times']:g} times"
        note = f"printed: {change}; the rest follows from that"
    else:
        spreads = [(heading, getattr(row, name).std) for name, heading in NUMBERS.items()]
        printed = [f"{heading} ± {std:,g}" for heading, std in spreads if std is not None]
        note = f"as printed; {', '.join(printed)}" if printed else "as printed"
    images = DATASETS[row.same["dataset"]].test_images
    return Published(label, f"{paper}, teacher", reference, teacher_params, **values, note=note, images=images)
