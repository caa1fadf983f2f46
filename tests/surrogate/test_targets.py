"""What kernels are learned on, and the f that follows, against values by hand and a kernel that knows the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from esnac_lib.objective import PAPERS, Measurement
from esnac_lib.surrogate.maximisers import scorer
from esnac_lib.surrogate.targets import TARGETS, AccuracyTarget, ObjectiveTarget


def sized(params: int) -> Any:
    """Stands in for a candidate: its sizes are all that is asked for, and its encoding names it."""
    return SimpleNamespace(num_params=params, encode=lambda max_edge: params)


class Predicts:
    """Stands in for a kernel: what it predicts is given."""

    settings = SimpleNamespace(max_edge=128)
    best = 0.4

    def __init__(self, moments: dict[int, tuple[float, float]]) -> None:
        self._moments = moments

    def predict(self, encodings: list[int]) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = np.array([self._moments[encoding] for encoding in encodings]).T
        return mean, variance


TEACHER, HALF, TENTH = sized(1000), sized(500), sized(100)
ACCURACIES = 0.8, 0.6  # of HALF and TENTH, the teacher's being 0.9
F = [
    PAPERS.value(Measurement(a, o.num_params), Measurement(0.9, 1000))
    for o, a in zip((HALF, TENTH), ACCURACIES, strict=True)
]


def test_the_paper_s_learns_f() -> None:
    target = ObjectiveTarget([TEACHER, HALF], [0.0, 0.4])
    kernel: Any = Predicts({100: (0.3, 0.01)})
    np.testing.assert_array_equal(target.targets, [0.0, 0.4])
    assert target.observed == (TEACHER, HALF) and target.best(kernel) == 0.4
    assert [list(moment) for moment in target.moments(kernel, [TENTH])] == [[0.3], [0.01]]


def test_accuracies_are_read_out_of_f_and_standardised() -> None:
    target = AccuracyTarget([TEACHER, HALF, TENTH], [0.0, *F])
    relative = np.array([1.0, 0.8 / 0.9, 0.6 / 0.9])
    np.testing.assert_allclose(target.targets, (relative - relative.mean()) / relative.std(), rtol=1e-12)
    assert target.observed == (TEACHER, HALF, TENTH)


def test_f_is_put_together_again_with_the_exact_size() -> None:
    target = AccuracyTarget([TEACHER, HALF, TENTH], [0.0, *F])
    a, b, c = target.targets
    knows: Any = Predicts({1000: (a, 0.04), 500: (b, 0.04), 100: (c, 0.04)})
    mean, variance = target.moments(knows, [TEACHER, HALF, TENTH])
    np.testing.assert_allclose(mean, [0.0, *F], atol=1e-12)
    spread = np.std([1.0, 0.8 / 0.9, 0.6 / 0.9])
    np.testing.assert_allclose(variance, [0.0, (0.75 * spread * 0.2) ** 2, (0.99 * spread * 0.2) ** 2], rtol=1e-12)
    assert target.best(knows) == max(F)


def test_who_is_no_smaller_than_the_teacher_tells_nothing_and_is_not_proposed() -> None:
    as_large, larger = sized(1000), sized(1200)
    target = AccuracyTarget([TEACHER, as_large, HALF, larger], [0.0, 0.0, F[0], 0.0])
    assert target.observed == (TEACHER, HALF) and len(target.targets) == 2
    kernel: Any = Predicts({1000: (5.0, 1.0), 1200: (5.0, 1.0), 100: (0.0, 1.0)})
    mean, variance, log_ei = scorer(kernel, target)([as_large, larger, TENTH])
    assert list(mean[:2]) == list(variance[:2]) == [0.0, 0.0]
    assert list(log_ei[:2]) == [-np.inf, -np.inf] and np.isfinite(log_ei[2])


def test_a_diverged_student_counts_with_accuracy_0() -> None:
    target = AccuracyTarget([TEACHER, HALF], [0.0, 0.0])
    np.testing.assert_allclose(target.targets, [1.0, -1.0])


@pytest.mark.parametrize("name", TARGETS)
def test_the_teacher_alone(name: str) -> None:
    """Before anything was observed but faults."""
    target = TARGETS[name]([TEACHER], [0.0])
    assert target.observed == (TEACHER,) and np.isfinite(target.targets).all()
