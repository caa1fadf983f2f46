"""Learning embeddings: Adam on the objectives of ESNAC §3.1 and §6.7, several kernels in one pass.

The embeddings of all kernels of a group go through one `BiLstm`; each kernel's objective, a function of few numbers,
gives the gradient that is sent back. A kernel that has settled leaves, and the others go on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.errors import ConfigError, TrainingError
from esnac_lib.surrogate import gp
from esnac_lib.surrogate.embedding import Embedding, used_columns
from esnac_lib.surrogate.lstm import BiLstm, Weights
from esnac_lib.surrogate.packing import Packing

OBJECTIVES = ("posterior", "marginal", "euclidean")
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True)
class KernelSettings:
    """How a kernel is learned; the defaults are those of the authors' code. For the early stop see `learn_kernel`."""

    objective: str = "posterior"  # (ESNAC Eq. 5), "marginal" or "euclidean" (§6.7)
    sigma2: float = 0.01  # of the Gaussian process (ESNAC Eq. 4)
    noise: float = 0.05  # variance of f
    lr: float = 1e-3  # of Adam, as the next two
    weight_decay: float = 5e-4
    max_steps: int = 100
    min_steps: int = 5  # of the early stop, as the next two
    tolerance: float = 1e-3  # of the log likelihood, compared with its moving average
    average: float = 0.5  # share that the moving average keeps of its last value
    subset_probability: float = 0.5  # with which every observation belongs to D^k
    max_edge: int = 128  # the longest edge of the encodings

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective = {self.objective!r}: choose one of {', '.join(OBJECTIVES)}")
        for names, fits, needed in _LIMITS:
            for name in names.split():
                if not fits(value := getattr(self, name)):
                    raise ConfigError(f"{name} = {value!r}: {needed} is needed")


_LIMITS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("sigma2 noise lr", lambda value: 0 < value < math.inf, "a positive number"),
    ("weight_decay tolerance max_steps min_steps", lambda value: 0 <= value < math.inf, "zero or a positive number"),
    ("average subset_probability", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    ("max_edge", lambda value: value >= 1, "a positive whole number"),
)


class Learner:
    """An embedding, drawn with `generator`, and the observations that it is to be learned on.

    observed: their encodings. encodings: those that differ; equal ones are embedded once. f (n,) float64.
    steps, loss: Adam steps made, and the objective after them.
    """

    def __init__(
        self, observed: Sequence[np.ndarray], f: np.ndarray, settings: KernelSettings, generator: torch.Generator
    ) -> None:
        self.observed, self.f, self.settings = tuple(observed), f, settings
        first: dict[bytes, int] = {}
        self.places = np.array([first.setdefault(item.tobytes(), len(first)) for item in self.observed])  # (n,)
        self.encodings = [self.observed[index] for index in np.unique(self.places, return_index=True)[1]]
        self.embedding = Embedding(self.observed[0].shape[1], generator=generator)
        bound = 1 / math.sqrt(self.embedding.size)
        self.head: list[Tensor] = []  # of the euclidean objective: a linear layer on the embedding
        if settings.objective == "euclidean":
            shapes = (self.embedding.size,), (1,)
            self.head = [torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes]
        self.steps, self.loss = 0, math.nan
        self._average = 0.0

    @property
    def rows(self) -> int:
        """Layers of all encodings together: what a pass costs."""
        return sum(map(len, self.encodings))

    def objective(self, h: Tensor, head: Sequence[Tensor]) -> Tensor:
        """Return the loss at the embeddings (n, 128) of the observations; nan where it cannot be computed."""
        settings, f = self.settings, torch.from_numpy(self.f).to(h.device)
        if head:
            weight, bias = head
            return (h @ weight + bias - f).square().mean()
        function = gp.posterior_objective if settings.objective == "posterior" else gp.marginal_objective
        try:
            return function(h, f, settings.sigma2, settings.noise)
        except torch.linalg.LinAlgError:  # what a Cholesky factorisation makes of nan
            return h.sum() * math.nan

    def settles(self, loss: float) -> bool:
        """Whether learning ends here, `self.steps` steps made. Raises TrainingError if the loss is no number."""
        settings, value = self.settings, -loss
        if not math.isfinite(value):
            advice = f"use a learning rate below {settings.lr}"
            raise TrainingError(f"the objective diverged after {self.steps} steps: {advice}")
        near = abs(self._average - value) < settings.tolerance
        share = settings.average if self.steps else 0.0
        self.loss, self._average = loss, share * self._average + (1 - share) * value
        return (near and self.steps >= max(1, settings.min_steps)) or self.steps == settings.max_steps


@torch.no_grad()
def learn(learners: Sequence[Learner], device: str | torch.device = "cpu") -> None:
    """Learn the embeddings of all learners, in place. Raises TrainingError where an objective diverges."""
    active = list(learners)
    parameters = [torch.cat(parts).to(device) for parts in zip(*map(_parameters, active), strict=True)]
    adam = Adam(parameters, active[0].settings)
    objectives = Objectives(active, device)
    while True:
        losses, gradients = objectives.losses(parameters)
        left = [k for k, (learner, loss) in enumerate(zip(active, losses, strict=True)) if not learner.settles(loss)]
        for k in set(range(len(active))) - set(left):
            active[k].embedding.set_weights(_layers([part[k : k + 1] for part in parameters]))
        if not left:
            return
        adam.step(objectives.backward(gradients))
        active = [active[k] for k in left]
        for learner in active:
            learner.steps += 1
        if len(left) < len(losses):
            parameters = adam.keep(left)
            objectives = Objectives(active, device)


def _parameters(learner: Learner) -> list[Tensor]:
    """Return the LSTM's weights, then the head's, each (1, ...)."""
    parts = [part for layer in learner.embedding.weights() for part in layer]
    return parts + [part.unsqueeze(0) for part in learner.head]


def _layers(parameters: Sequence[Tensor]) -> list[Weights]:
    """Return the LSTM's weights among the parameters, layer by layer."""
    size = len(Weights._fields)
    return [Weights(*parameters[start : start + size]) for start in range(0, len(parameters) - size + 1, size)]


class Objectives:
    """The embeddings of some learners on their encodings, and their objectives; all parameters are (G, ...)."""

    def __init__(self, learners: Sequence[Learner], device: str | torch.device) -> None:
        self._learners = learners
        used = used_columns([encoding for learner in learners for encoding in learner.encodings])
        self._used = torch.from_numpy(used).to(device)
        packing = Packing([list(map(len, learner.encodings)) for learner in learners], device)
        rows = [packing.arrange(k, [e[:, used] for e in learner.encodings]) for k, learner in enumerate(learners)]
        lstm = learners[0].embedding.lstm
        inputs = torch.from_numpy(np.stack(rows)).to(device)  # (G, T, columns in use)
        self._lstm = BiLstm(packing, inputs, lstm.hidden_size, lstm.num_layers)
        self._depth = lstm.num_layers
        places = [packing.ranks(k)[learner.places] for k, learner in enumerate(learners)]
        self._places = [torch.from_numpy(own).to(device) for own in places]

    def losses(self, parameters: Sequence[Tensor]) -> tuple[list[float], list[Tensor]]:
        """Return the losses, and their sum's gradients: of the averaged hidden states (G, n, 128) and of the heads."""
        first, *layers = _layers(parameters)
        means = self._lstm.forward([first._replace(ih=first.ih[..., self._used]), *layers])
        with torch.enable_grad():
            leaves = [part.clone().requires_grad_() for part in (means, *parameters[4 * self._depth :])]
            losses = []
            for k, (learner, places) in enumerate(zip(self._learners, self._places, strict=True)):
                averaged, *head = (leaf[k] for leaf in leaves)
                losses.append(learner.objective(nn.functional.normalize(averaged[places], dim=1), head))
            together = torch.stack(losses)
            gradients = torch.autograd.grad(together.sum(), leaves)
        self._first = first.ih
        return together.tolist(), list(gradients)

    def backward(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of all parameters, from those that `losses` gave."""
        means, *head = gradients
        first, *layers = self._lstm.backward(means)
        whole = torch.zeros_like(self._first).index_copy_(3, self._used, first.ih)
        return [part for layer in (first._replace(ih=whole), *layers) for part in layer] + head


class Adam:
    """Adam with L2 weight decay, as torch.optim has it, for parameters (G, ...) of which some may leave."""

    def __init__(self, parameters: list[Tensor], settings: KernelSettings) -> None:
        self._lists = [parameters, *([torch.zeros_like(part) for part in parameters] for _ in range(2))]
        self._settings, self._steps = settings, 0

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters, in place."""
        self._steps += 1
        settings = self._settings
        rate, root = (1 - beta**self._steps for beta in BETAS)
        for part, first, second, gradient in zip(*self._lists, gradients, strict=True):
            gradient = gradient.add(part, alpha=settings.weight_decay)
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            part.addcdiv_(first, second.sqrt().div_(math.sqrt(root)).add_(EPSILON), value=-settings.lr / rate)

    def keep(self, left: list[int]) -> list[Tensor]:
        """Go on with these of the G only; their parameters."""
        self._lists = [[part[left] for part in parts] for parts in self._lists]
        return self._lists[0]
