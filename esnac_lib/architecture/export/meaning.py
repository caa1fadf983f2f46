"""What an export says besides the network: how images were normalised for it, and what its outputs are called."""

from __future__ import annotations

import math
from collections.abc import Sequence

from esnac_lib.architecture.graph import Architecture
from esnac_lib.errors import EsnacError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""(mean, std) of each channel: the student reads (value / 255 - mean) / std."""


def checked_classes(classes: Sequence[str] | None, architecture: Architecture) -> tuple[str, ...] | None:
    """Return the name of each output, None if there are none given. Raises EsnacError where they do not fit."""
    if classes is None:
        return None
    outputs = architecture.output_shape[0]
    listed = isinstance(classes, list | tuple)
    if not listed or len(classes) != outputs or not all(isinstance(name, str) for name in classes):
        raise EsnacError(f"classes = {classes!r}: it must be a list of {outputs} names, one for each output")
    return tuple(classes)


def checked_normalisation(
    normalisation: tuple[Sequence[float], Sequence[float]] | None, architecture: Architecture
) -> Normalisation | None:
    """Return (mean, std) as numbers, None if they are not given. Raises EsnacError where they do not fit."""
    if normalisation is None:
        return None
    channels = architecture.input_shape[0]
    try:
        mean, std = (tuple(map(float, part)) for part in normalisation)
    except (TypeError, ValueError):
        mean = std = ()
    if not len(mean) == len(std) == channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        form = f"(mean, std), each with {channels} numbers, one for each channel of the input, std above 0"
        raise EsnacError(f"normalisation = {normalisation!r}: it must be {form}")
    return mean, std
