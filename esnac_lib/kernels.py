"""Learning kernels: K embeddings, each trained afresh on its own subset of the observations (ESNAC §3.1, §3.3).

An observation is an encoding with its f. The teacher, f = 0, is the first observation and belongs to every subset D^k
[code]. Everything runs on the CPU, so that the same study proposes the same architectures whatever device trains them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib import gp
from esnac_lib.embedding import Embedding, pad
from esnac_lib.encoding import KINDS, encoding_size
from esnac_lib.errors import ConfigError, DataError, EsnacError, TrainingError

Encodings = Sequence[np.ndarray]  # each (L, d) float32

OBJECTIVES = ("posterior", "marginal", "euclidean")
CHUNK = 64  # encodings embedded at once: bounds the memory of a prediction


@dataclass(frozen=True)
class KernelSettings:
    """How a kernel is learned; the defaults are the published program's [code].

    objective: "posterior" (ESNAC Eq. 5), "marginal" or "euclidean" (§6.7).
    sigma2, noise: of the Gaussian process (ESNAC Eq. 4; the noise variance of f).
    lr, weight_decay, max_steps: of Adam. min_steps, tolerance, average: of the early stop, see `learn_kernel`.
    subset_probability: with which every observation belongs to D^k.
    max_edge: the longest edge of the encodings.
    """

    objective: str = "posterior"
    sigma2: float = 0.01
    noise: float = 0.05
    lr: float = 1e-3
    weight_decay: float = 5e-4
    max_steps: int = 100
    min_steps: int = 5
    tolerance: float = 1e-3
    average: float = 0.5
    subset_probability: float = 0.5
    max_edge: int = 128

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective = {self.objective!r}: choose one of {', '.join(OBJECTIVES)}")
        for name in ("sigma2", "noise", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: a positive number is needed")
        for name in ("weight_decay", "tolerance", "max_steps", "min_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: zero or a positive number is needed")
        for name in ("average", "subset_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: a number from 0 to 1 is needed")
        if self.max_edge < 1:
            raise ConfigError(f"max_edge = {self.max_edge!r}: a positive whole number is needed")


@dataclass(frozen=True, eq=False)
class Kernel:
    """A learned embedding, and the observations that its posterior is conditioned on.

    embedding: frozen weights. encodings, f (n,) float64: D^k. steps: Adam steps made. loss: the objective at the
    weights as they are; nan where nothing was learned.
    """

    embedding: Embedding
    encodings: tuple[np.ndarray, ...]
    f: np.ndarray
    settings: KernelSettings
    steps: int
    loss: float

    @property
    def best(self) -> float:
        """The largest f in D^k, over which expected improvement is counted."""
        return float(self.f.max())

    def embed(self, encodings: Encodings) -> Tensor:
        """Embeddings (n, 128) float32; equal encodings are embedded once, and long ones not beside short ones."""
        unique, inverse = _unique(encodings)
        by_length = sorted(range(len(unique)), key=lambda index: len(unique[index]))
        result = torch.empty(len(unique), self.embedding.size)
        with torch.no_grad():
            for start in range(0, len(unique), CHUNK):
                chunk = by_length[start : start + CHUNK]
                result[chunk] = self.embedding(*pad([unique[index] for index in chunk]))
        return result[inverse]

    def predict(self, encodings: Encodings) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (noise counted) of f for each encoding, both (n,) float64."""
        mean, variance = gp.posterior(
            self._observed, torch.from_numpy(self.f), self.embed(encodings), self.settings.sigma2, self.settings.noise
        )
        return mean.numpy(), variance.numpy()

    @cached_property
    def _observed(self) -> Tensor:
        return self.embed(self.encodings)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `from_state` needs, with D^k: tensors by name (for safetensors), and a dict for JSON."""
        tensors = {f"embedding.{name}": weight.clone() for name, weight in self.embedding.state_dict().items()}
        tensors["encodings"] = torch.from_numpy(np.concatenate(self.encodings))  # (sum of L, d)
        tensors["lengths"] = torch.tensor([len(encoding) for encoding in self.encodings])
        tensors["f"] = torch.from_numpy(self.f.copy())
        loss = self.loss if math.isfinite(self.loss) else None
        return tensors, {"settings": asdict(self.settings), "kinds": list(KINDS), "steps": self.steps, "loss": loss}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Kernel:
        """The inverse of `state`. Raises DataError if a part is missing or does not fit."""
        try:
            if info["kinds"] != list(KINDS):
                raise ValueError(f"its kinds of layers are {', '.join(info['kinds'])}, not {', '.join(KINDS)}")
            rows, ends = tensors["encodings"].numpy(), np.cumsum(tensors["lengths"].numpy())
            if ends[-1] != len(rows):
                raise ValueError(f"{len(rows)} rows of encodings where the lengths add up to {ends[-1]}")
            parts = np.split(rows, ends[:-1])
            embedding = Embedding(rows.shape[1], generator=torch.Generator())
            prefix = "embedding."
            weights = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            embedding.load_state_dict(weights)
            settings = KernelSettings(**info["settings"])
            loss = math.nan if info["loss"] is None else float(info["loss"])
            encodings, f = _checked(parts, tensors["f"].numpy(), settings)
            return cls(embedding.requires_grad_(False), encodings, f, settings, int(info["steps"]), loss)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, EsnacError) as error:
            raise DataError(f"not a saved kernel: {type(error).__name__}: {str(error).splitlines()[0]}") from None


def choose_subset(n: int, rng: np.random.Generator, p: float = 0.5) -> np.ndarray:
    """The indices, ascending, of one D^k among n observations, of which the first is the teacher.

    Every evaluated architecture is kept with probability p, the teacher always [code].
    """
    keep = rng.random(n) < p
    keep[:1] = True
    return np.flatnonzero(keep)


def learn_kernel(
    encodings: Encodings, f: Sequence[float] | np.ndarray, settings: KernelSettings, generator: torch.Generator
) -> Kernel:
    """Draw an embedding from `generator` and learn it on D^k, given as encodings and their f.

    Adam on the objective. The early stop reads the objective's negative as the log likelihood v₁, v₂, … before each
    step (for "euclidean" it is the negative squared error) and keeps a₁ = v₁, aₜ = average·aₜ₋₁ + (1 - average)·vₜ.
    Once `min_steps` steps are made, it stops at the first t where |aₜ₋₁ - vₜ| < tolerance: vₜ is no news. With fewer
    than two observations nothing is learned [code].

    Raises TrainingError if D^k is empty, has unequal numbers of encodings and f, holds an f that is not finite or
    encodings of another width than the settings' `max_edge` gives, or if the objective is no longer finite.
    """
    known, values = _checked(encodings, f, settings)
    embedding = Embedding(encoding_size(settings.max_edge), generator=generator)
    steps, loss = 0, math.nan
    if len(known) >= 2:
        steps, loss = _optimise(embedding, known, values, settings, generator)
    return Kernel(embedding.requires_grad_(False).eval(), known, values, settings, steps, loss)


def learn_kernels(
    encodings: Encodings,
    f: Sequence[float] | np.ndarray,
    subsets: Sequence[Sequence[int] | np.ndarray],
    settings: KernelSettings,
    seeds: Sequence[int],
) -> list[Kernel]:
    """K kernels, the k-th learned on the observations in subsets[k] from weights drawn with seeds[k] (Algorithm 1)."""
    kernels = []
    for subset, seed in zip(subsets, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        kernels.append(learn_kernel([encodings[i] for i in subset], [f[i] for i in subset], settings, generator))
    return kernels


def _optimise(
    embedding: Embedding, encodings: Encodings, f: np.ndarray, settings: KernelSettings, generator: torch.Generator
) -> tuple[int, float]:
    """Learn in place; the number of steps made and the objective after them."""
    unique, inverse = _unique(encodings)
    batch, lengths = pad(unique)
    target = torch.from_numpy(f)
    head = nn.Linear(embedding.size, 1, device="meta").to_empty(device="cpu")
    parameters = list(embedding.parameters())
    if settings.objective == "euclidean":
        bound = 1 / math.sqrt(embedding.size)
        with torch.no_grad():
            for weight in head.parameters():
                weight.uniform_(-bound, bound, generator=generator)
        parameters += head.parameters()

    def objective() -> Tensor:
        h = embedding(batch, lengths)[inverse]  # (n, 128)
        if settings.objective == "euclidean":
            return (head(h).squeeze(1) - target).square().mean()
        function = gp.posterior_objective if settings.objective == "posterior" else gp.marginal_objective
        return function(h, target, settings.sigma2, settings.noise)

    optimiser = torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)
    average = 0.0
    for step in range(settings.max_steps + 1):
        try:
            loss = objective()
        except torch.linalg.LinAlgError:  # what a Cholesky factorisation makes of nan
            loss = torch.tensor(math.nan)
        value = -loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the objective diverged after {step} steps: use a learning rate below {settings.lr}")
        settled = step > 0 and step >= settings.min_steps and abs(average - value) < settings.tolerance
        if settled or step == settings.max_steps:
            break
        average = value if step == 0 else settings.average * average + (1 - settings.average) * value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return step, -value


def _checked(
    encodings: Encodings, f: Sequence[float] | np.ndarray, settings: KernelSettings
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    values = np.array(f, np.float64)
    if not len(encodings) or values.shape != (len(encodings),):
        raise TrainingError(f"{len(encodings)} encodings with {values.size} values of f: one each, and at least one")
    if not np.isfinite(values).all():
        raise TrainingError(f"f = {values[~np.isfinite(values)][0]}: a failed trial counts as f = 0")
    width = encoding_size(settings.max_edge)
    if wrong := [item.shape for item in encodings if item.ndim != 2 or len(item) < 1 or item.shape[1] != width]:
        raise TrainingError(f"an encoding of shape {wrong[0]}: max_edge = {settings.max_edge} needs (layers, {width})")
    return tuple(np.asarray(encoding, np.float32) for encoding in encodings), values


def _unique(encodings: Encodings) -> tuple[list[np.ndarray], Tensor]:
    """The encodings that differ, in order of appearance, and for each given one its place among them, (n,)."""
    places: dict[bytes, int] = {}
    unique: list[np.ndarray] = []
    inverse = []
    for encoding in encodings:
        place = places.setdefault(encoding.tobytes(), len(unique))
        if place == len(unique):
            unique.append(encoding)
        inverse.append(place)
    return unique, torch.tensor(inverse, dtype=torch.long)
