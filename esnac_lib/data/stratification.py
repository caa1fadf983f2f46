"""Stratified subsets: each class keeps its share."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator, leave: int = 0) -> np.ndarray:
    """Return `count` sorted positions in `labels` (N,), each class in proportion, rounded by largest remainder.

    Ties go to the lower label. At least `leave` of every class are not taken; what a class then lacks is taken from the
    classes with the next largest remainders. A `count` that the classes cannot give is a ValueError.
    """
    present, sizes = np.unique(labels, return_counts=True)
    limit = np.maximum(sizes - leave, 0)
    if not 0 <= count <= limit.sum():
        raise ValueError(f"cannot take {count} of {len(labels)} labels and leave {leave} a class")
    share, remainder = np.divmod(sizes * count, len(labels))  # exact: integers
    quota = np.minimum(share, limit)
    order = np.argsort(-remainder, kind="stable")
    while (short := count - int(quota.sum())) > 0:  # each round adds at least one
        open_classes = order[quota[order] < limit[order]][:short]
        quota[open_classes] += 1
    picked = [rng.permutation(np.flatnonzero(labels == label))[:n] for label, n in zip(present, quota, strict=True)]
    return np.sort(np.concatenate(picked))
