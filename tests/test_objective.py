"""The objective against values worked out by hand, and against a published row."""

from __future__ import annotations

import pytest

from esnac_lib.objective import compression_ratio, objective


def test_by_hand() -> None:
    assert objective(250, 1000, 0.8, 0.9) == pytest.approx(0.75 * 1.25 * 0.8 / 0.9)
    assert compression_ratio(250, 1000) == 0.75


def test_the_teacher_has_f_zero() -> None:
    assert objective(1000, 1000, 0.9, 0.9) == 0


def test_published_n2n_row() -> None:
    """ESNAC Table 1, N2N for ResNet-18 on CIFAR-100: ratio 0.7845, 68.01 % of 78.68 %, f 0.8242."""
    assert objective(2155, 10000, 68.01, 78.68) == pytest.approx(0.8242, abs=2e-4)
