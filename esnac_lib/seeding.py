"""Random draws that depend on nothing but (seed, purpose, index …).

A study that was killed and resumed must draw what it would have drawn. So no draw comes from global state, and none
from a generator that outlives its one purpose.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed, the same in every process, that is independent for each (seed, purpose, index …)."""
    text = "\x1f".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, purpose, *index))


def make_generator(seed: int, purpose: str, *index: int, device: str = "cpu") -> torch.Generator:
    """Return a PyTorch generator for one purpose."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *index))
