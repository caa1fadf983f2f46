"""Which variant ends ahead, in a sentence, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esnac_lib.report.read import StudyRecord
from esnac_lib.report.variants import ExperimentRecord


def ranking(experiment: ExperimentRecord, rows: Mapping[str, str]) -> str:
    """The variants by mean f, in Markdown, and the lead of the first over the second, paired by seed.

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
    judged = "after final training, on the test images" if student and student.judged == "test" else "of the search"
    listed = ", ".join(f"{label} {means[label]:.4f}" for label in order)
    equal = [label for label in order if means[label] == means[order[0]]]
    verb = "ends" if len(equal) == 1 else "end"
    text = f"**{' and '.join(equal)} {verb} highest** in f {judged}: {listed}."
    if len(order) > 1 and len(equal) == 1:
        text += f" {_lead(found, order[0], order[1])}"
    if missing := [label for label in rows if label not in found]:
        text += f" Not finished: {', '.join(missing)}."
    return text


def f_by_seed(records: Sequence[StudyRecord]) -> dict[int, float]:
    """f of each run's student: its solution, or the best of the search where there was no final training."""
    return {record.config.seed: record.student.f for record in records if record.student is not None}


def _lead(found: Mapping[str, Sequence[StudyRecord]], first: str, second: str) -> str:
    mine, theirs = f_by_seed(found[first]), f_by_seed(found[second])
    gaps = np.array([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])
    if len(gaps) < 2:
        return f"One seed each, so the lead of {gaps.sum():.4f} over {second} may be chance."
    from scipy.stats import t as student_t

    half = student_t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    verdict = "more than chance" if gaps.mean() > half else "within what chance gives"
    lead = f"Its lead over {second} is {gaps.mean():+.4f} ± {half:.4f} (95 %, {len(gaps)} seeds, paired)"
    return f"{lead}: {verdict}."
