"""What a study claims, in one sentence that its ledger holds up."""

from __future__ import annotations

from esnac_lib.report.published import published
from esnac_lib.report.read import Measured, StudyRecord


def claim(record: StudyRecord) -> str:
    """The result in Markdown; for a study that has none yet, how far it is."""
    teacher, student = record.teacher, record.student
    if teacher is None:
        return f"**No result yet.** The teacher is not trained; {record.status}."
    if student is None:
        return f"**No result yet.** No student could be trained so far; {record.status}."
    size = (
        f"{teacher.params / student.params:.2f} times fewer parameters than {record.config.teacher} "
        f"({student.params:,} instead of {teacher.params:,})"
    )
    if record.solution is None:
        text = (
            f"**The best student so far has {size} and {_gap(student, teacher)}.** It was trained by search training "
            f"alone and judged on the validation images: {record.status}."
        )
        return text
    text = f"**The student that {record.name} found has {size} and {_gap(student, teacher)}.**"
    if record.narrowed is not None:
        ahead = 100 * (student.accuracy - record.narrowed.accuracy)
        which = "more" if ahead >= 0 else "less"
        text += (
            f" That is {abs(ahead):.2f} points {which} than the teacher uniformly narrowed to that size and trained "
            f"alike ({record.narrowed.accuracy:.2%} with {record.narrowed.params:,} parameters)."
        )
    printed = published(record.config)
    if printed is not None:
        text += (
            f" Published ({printed.label}): {printed.accuracy - printed.teacher_accuracy:+.2f} points at "
            f"{printed.times:g} times fewer parameters, from a teacher of {printed.teacher_accuracy:.2f} %."
        )
    return f"{text} One run, seed {record.config.seed}; {record.status}."


def _gap(student: Measured, teacher: Measured) -> str:
    points = 100 * (student.accuracy - teacher.accuracy)
    way = "loses" if points < 0 else "gains"
    return (
        f"{way} {abs(points):.2f} points of {student.judged} accuracy ({student.accuracy:.2%} instead of "
        f"{teacher.accuracy:.2%})"
    )
