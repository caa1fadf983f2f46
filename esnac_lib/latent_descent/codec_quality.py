"""Measure how well a codec reconstructs sequences and predicts accuracy and size, next to trivial baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from esnac_lib.latent_descent.examples import Example
from esnac_lib.latent_descent.sequence import AVG_POOL, CONV, DROPOUT, LINEAR, MAX_POOL, Item

FREE = {CONV: "tkosp", MAX_POOL: "tksp", AVG_POOL: "tksp", LINEAR: "to", DROPOUT: "tp"}


def free_numbers(item: Item, *, last: bool = False) -> tuple[int, ...]:
    """Return a layer's type and those of its numbers that it can choose (the classifier's width is the task's).

    >>> free_numbers(Item(CONV, 3, 64, 1, 1)), free_numbers(Item(4, 0, 64, 0, 0))
    ((1, 3, 64, 1, 1), (4,))
    """
    names = "t" if last and item.t == LINEAR else FREE.get(item.t, "t")
    return tuple(getattr(item, name) for name in names)


def reconstruction(true: Sequence[Sequence[Item]], decoded: Sequence[Sequence[Item]]) -> dict[str, Any]:
    """Compare decoded sequences, before any repair, with the true ones.

    The result has the numbers of sequences and of layers, then shares: layers_exact (type and all free numbers are
    right), types, widths_near (of convolutions and inner linear layers, within a tenth), lengths and sequences_exact.
    """
    hits: dict[str, list[bool]] = {
        name: [] for name in ("layers_exact", "types", "widths_near", "lengths", "sequences_exact")
    }
    for wanted, got in zip(true, decoded, strict=True):
        right = []
        for index, item in enumerate(wanted):
            other = got[index] if index < len(got) else Item(0, 0, 0, 0, 0)
            last = index == len(wanted) - 1
            right.append(free_numbers(item, last=last) == free_numbers(other, last=last))
            hits["types"].append(item.t == other.t)
            if item.t in (CONV, LINEAR) and not last:
                hits["widths_near"].append(abs(item.o - other.o) <= 0.1 * item.o)
        hits["layers_exact"] += right
        hits["lengths"].append(len(wanted) == len(got))
        hits["sequences_exact"].append(all(right) and len(wanted) == len(got))
    counts = {"sequences": len(true), "layers": len(hits["layers_exact"])}
    return counts | {name: sum(found) / len(found) if found else None for name, found in hits.items()}


def regression(true: Sequence[float], predicted: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Return Spearman's rank correlation (None where undefined) and the errors of a regressor and its baseline."""
    a, b, c = (np.asarray(values, dtype=np.float64) for values in (true, predicted, baseline))
    defined = len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0
    return {
        "architectures": len(a),
        "rank_correlation": float(spearmanr(a, b).statistic) if defined else None,
        "mean_absolute_error": float(np.abs(a - b).mean()) if len(a) else None,
        "baseline_error": float(np.abs(a - c).mean()) if len(a) else None,
    }


def linear_baseline(train: Sequence[Example], test: Sequence[Example]) -> list[float]:
    """Predict parameters by least squares on the sums of each of the five numbers, the length and the convolutions."""
    matrix = np.array([_sums(example) for example in train])
    weights, *_ = np.linalg.lstsq(matrix, np.array([example.params for example in train], dtype=np.float64), rcond=None)
    return [float(_sums(example) @ weights) for example in test]


def _sums(example: Example) -> np.ndarray:
    table = np.array(example.items, dtype=np.float64)  # (T, 5)
    return np.array([1.0, len(table), (table[:, 0] == CONV).sum(), *table.sum(0)])
