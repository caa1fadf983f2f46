"""What a study claims, in a sentence that its ledger supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esnac_lib.report.papers.published import published
from esnac_lib.report.records.experiment import ExperimentRecord
from esnac_lib.report.records.study import Measured, StudyRecord
from esnac_lib.report.statistics import mean_and_band
from esnac_lib.report.tables.formatting import headline
from esnac_lib.report.tables.study import THE_SAME


def claim(record: StudyRecord) -> str:
    """Return the result in Markdown; for a study that has none yet, how far it is."""
    teacher, student = record.teacher, record.student
    if teacher is None or student is None:
        why = "The teacher is not trained" if teacher is None else "No student could be trained so far"
        return f"**No result yet.** {why}; {record.status}."
    gain = (
        f"{teacher.params / student.params:.2f} times fewer parameters than {record.config.teacher} "
        f"({student.params:,} instead of {teacher.params:,}) and {_gap(student, teacher)}"
    )
    if record.solution is None:
        return (
            f"{headline(f'The best student so far has {gain}.', teacher.guesses)} It was trained by search training "
            f"alone and evaluated on the validation images: {record.status}."
        )
    first = f"best of the first {record.finished_after} architectures"
    which = f"student that {record.name} found" if record.is_final else first
    text = headline(f"The {which} has {gain}.", teacher.guesses) + " It is not final." * (not record.is_final)
    if record.narrowed is not None:
        text += f" {_beside_narrowed(record, student, record.narrowed)}"
    if (printed := published(record.config)) is not None:
        text += f" Published ({printed.label}): {printed.claim}"
    return f"{text} One run, seed {record.config.seed}; {record.status}."


def _gap(student: Measured, teacher: Measured) -> str:
    difference = student.minus(teacher)
    verb, which = "loses" if difference.points < 0 else "gains", f"{student.evaluated_on} accuracy"
    accuracies = f"({student.accuracy:.2%} instead of {teacher.accuracy:.2%})"
    return f"{verb} {difference.amount} of {which}{difference.caveat} {accuracies}"


def _beside_narrowed(record: StudyRecord, student: Measured, narrowed: Measured) -> str:
    if record.narrowed_is_solution:
        return f"{THE_SAME[0].upper()}{THE_SAME[1:]}."
    ahead = student.minus(narrowed)
    return (
        f"That is {ahead.amount} {'more' if ahead.points >= 0 else 'less'} than the teacher uniformly narrowed to that "
        f"size and trained alike ({narrowed.accuracy:.2%} with {narrowed.params:,} parameters){ahead.caveat}."
    )


def ranking(experiment: ExperimentRecord, rows: Mapping[str, str]) -> str:
    """Return the variants by mean f, in Markdown, and the lead of the first over the second, paired by seed.

    rows: by label, the variant. The lead's ± is half of its 95 % confidence interval (Student's t over the seeds that
    both have finished); with one seed there is none, and the sentence says that the order may be chance.
    """
    found = {label: records for label, variant in rows.items() if (records := experiment.finished(variant))}
    if not rows:
        return "**Not part of this experiment** (its parameters leave it out)."
    if not found:
        return "**No result yet:** none of these studies is finished."
    means = {label: float(np.mean(list(f_by_seed(records).values()))) for label, records in found.items()}
    order = sorted(means, key=lambda label: -means[label])
    student = found[order[0]][0].student
    tested = student is not None and student.evaluated_on == "test"
    images = "after final training, on the test images" if tested else "of the search"
    listed = ", ".join(f"{label} {means[label]:.4f}" for label in order)
    equal = [label for label in order if means[label] == means[order[0]]]
    verb = "ends" if len(equal) == 1 else "end"
    text = f"**{' and '.join(equal)} {verb} highest** in f {images}: {listed}."
    if len(order) > 1 and len(equal) == 1:
        text += f" {_lead(found, order[0], order[1])}"
    if missing := [label for label in rows if label not in found]:
        text += f" Not finished: {', '.join(missing)}."
    return text


def f_by_seed(records: Sequence[StudyRecord]) -> dict[int, float]:
    """Return f of each run's student: its solution, or the best of the search where there was no final training."""
    return {record.config.seed: record.student.f for record in records if record.student is not None}


def _lead(found: Mapping[str, Sequence[StudyRecord]], first: str, second: str) -> str:
    mine, theirs = f_by_seed(found[first]), f_by_seed(found[second])
    gaps = np.array([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])
    if len(gaps) < 2:
        return f"One seed each, so the lead of {gaps.sum():.4f} over {second} may be chance."
    mean, half = mean_and_band(gaps)
    verdict = "more than chance" if mean > half else "within what chance gives"
    lead = f"Its lead over {second} is {mean:+.4f} ± {half:.4f} (95 %, {len(gaps)} seeds, paired)"
    return f"{lead}: {verdict}."
