"""Learning kernels: K embeddings, each trained afresh on its own subset of the observations (ESNAC §3.1, §3.3).

An observation is an encoding with its f. The teacher, f = 0, is the first observation and belongs to every subset D^k,
as in the authors' code. All draws are made on the CPU, so that kernels start from the same weights on any device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esnac_lib.architecture.encoding import KINDS, encoding_size
from esnac_lib.errors import DataError, EsnacError, TrainingError, one_line
from esnac_lib.surrogate import gp
from esnac_lib.surrogate.embedding import Embedding, Encodings, misshapen
from esnac_lib.surrogate.fitting import KernelSettings, Learner, learn

Values = Sequence[float] | np.ndarray
ROWS = {"cpu": 6_000, "cuda": 400_000}
"""Layers of all observations of the kernels that are learned in one pass: on a CPU what its caches hold, on a GPU what
its memory does (23 KB each). A kernel with more is learned by itself."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A learned embedding, and the observations that its posterior is conditioned on."""

    embedding: Embedding  # frozen weights
    encodings: tuple[np.ndarray, ...]  # of D^k, and their f (n,) float64
    f: np.ndarray
    settings: KernelSettings
    steps: int  # made by Adam
    loss: float  # the objective at the weights as they are; nan where nothing was learned
    device: str = "cpu"  # on which it predicts

    @property
    def best(self) -> float:
        """The largest f in D^k, over which expected improvement is computed."""
        return float(self.f.max())

    def embed(self, encodings: Encodings) -> Tensor:
        """Return embeddings (n, 128) float32, on the kernel's device."""
        return self.embedding.embed(encodings, self.device)

    def predict(self, encodings: Encodings) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance (including observation noise) of f for each encoding, both (n,) float64."""
        f = torch.from_numpy(self.f).to(self.device)
        moments = gp.posterior(self._observed, f, self.embed(encodings), self.settings.sigma2, self.settings.noise)
        mean, variance = (moment.cpu().numpy() for moment in moments)
        return mean, variance

    @cached_property
    def _observed(self) -> Tensor:
        return self.embed(self.encodings)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `from_state` needs, with D^k: tensors by name (for safetensors), and a dict for JSON."""
        tensors = {f"embedding.{name}": weight.clone() for name, weight in self.embedding.state_dict().items()}
        tensors["encodings"] = torch.from_numpy(np.concatenate(self.encodings))  # (sum of L, d)
        tensors["lengths"] = torch.tensor([len(encoding) for encoding in self.encodings])
        tensors["f"] = torch.from_numpy(self.f.copy())
        loss = self.loss if math.isfinite(self.loss) else None
        return tensors, {"settings": asdict(self.settings), "kinds": list(KINDS), "steps": self.steps, "loss": loss}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Kernel:
        """Invert `state`. Raises DataError if a part is missing or does not fit."""
        try:
            if info["kinds"] != list(KINDS):
                raise ValueError(f"its kinds of layers are {', '.join(info['kinds'])}, not {', '.join(KINDS)}")
            rows, ends = tensors["encodings"].numpy(), np.cumsum(tensors["lengths"].numpy())
            if ends[-1] != len(rows):
                raise ValueError(f"{len(rows)} rows of encodings where the lengths add up to {ends[-1]}")
            parts = np.split(rows, ends[:-1])
            embedding = Embedding(rows.shape[1], generator=torch.Generator())
            prefix = "embedding."
            weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            embedding.load_state_dict(weights)
            settings = KernelSettings(**info["settings"])
            loss = math.nan if info["loss"] is None else float(info["loss"])
            encodings, f = _checked(parts, tensors["f"].numpy(), settings)
            return cls(embedding, encodings, f, settings, int(info["steps"]), loss)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, EsnacError) as error:
            raise DataError(f"not a saved kernel: {one_line(error)}") from None


def choose_subset(n: int, rng: np.random.Generator, p: float = 0.5) -> np.ndarray:
    """Return the ascending indices of one D^k: of n observations the teacher (the first), others with probability p."""
    keep = rng.random(n) < p
    keep[:1] = True
    return np.flatnonzero(keep)


def learn_kernel(
    encodings: Encodings, f: Values, settings: KernelSettings, generator: torch.Generator, device: str = "cpu"
) -> Kernel:
    """Draw an embedding from `generator` and learn it on D^k, given as encodings and their f.

    Adam on the objective. The early stop reads the objective's negative as the log likelihood v₁, v₂, … before each
    step (for "euclidean" it is the negative squared error) and keeps a₁ = v₁, aₜ = average·aₜ₋₁ + (1 - average)·vₜ.
    Once `min_steps` steps are made, it stops at the first t where |aₜ₋₁ - vₜ| < tolerance: vₜ is no news. With fewer
    than two observations nothing is learned, as in the authors' code.

    Raises TrainingError if D^k is empty, has unequal numbers of encodings and f, holds an f that is not finite or
    encodings of another width than the settings' `max_edge` gives, or if the objective is no longer finite.
    """
    return _learned([Learner(*_checked(encodings, f, settings), settings, generator)], device)[0]


def learn_kernels(
    encodings: Encodings,
    f: Values,
    subsets: Sequence[Sequence[int] | np.ndarray],
    settings: KernelSettings,
    seeds: Sequence[int],
    device: str = "cpu",
) -> list[Kernel]:
    """Return K kernels, the k-th learned on the observations subsets[k] from weights drawn with seeds[k] (Algorithm 1).

    Small ones are learned together in one pass (`ROWS`); on a CPU the passes run side by side, each on one thread, as
    many as PyTorch has threads. Which kernels share a pass, and so the result, does not depend on that number.
    """
    learners = []
    for subset, seed in zip(subsets, seeds, strict=True):
        own = _checked([encodings[i] for i in subset], [f[i] for i in subset], settings)
        learners.append(Learner(*own, settings, torch.Generator().manual_seed(seed)))
    groups = _groups(learners, ROWS["cuda" if torch.device(device).type == "cuda" else "cpu"])
    threads = torch.get_num_threads()
    if torch.device(device).type != "cpu" or min(threads, len(groups)) == 1:
        kernels = [_learned(group, device) for group in groups]
    else:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            kernels = list(pool.map(_learned, groups))
        torch.set_num_threads(threads)  # for threads that start later
    return [kernel for group in kernels for kernel in group]


def _groups(learners: Sequence[Learner], rows: int) -> list[list[Learner]]:
    """Return the learners in their order, as many together as have at most so many rows."""
    groups: list[list[Learner]] = [[]]
    for learner in learners:
        if groups[-1] and sum(other.rows for other in groups[-1]) + learner.rows > rows:
            groups.append([])
        groups[-1].append(learner)
    return groups


def _learned(learners: Sequence[Learner], device: str = "cpu") -> list[Kernel]:
    """Return the kernels, learned where there are two observations or more."""
    if able := [learner for learner in learners if len(learner.f) >= 2]:
        learn(able, device)
    return [Kernel(own.embedding, own.observed, own.f, own.settings, own.steps, own.loss, device) for own in learners]


def _checked(encodings: Encodings, f: Values, settings: KernelSettings) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    values = np.array(f, np.float64)
    if not len(encodings) or values.shape != (len(encodings),):
        raise TrainingError(f"{len(encodings)} encodings with {values.size} values of f: one each, and at least one")
    if not np.isfinite(values).all():
        raise TrainingError(f"f = {values[~np.isfinite(values)][0]}: a failed trial counts as f = 0")
    width = encoding_size(settings.max_edge)
    if wrong := misshapen(encodings, width):
        raise TrainingError(f"an encoding of shape {wrong[0]}: max_edge = {settings.max_edge} needs (layers, {width})")
    return tuple(np.asarray(encoding, np.float32) for encoding in encodings), values
