"""Train encoder, decoder and regressors jointly: L = L_d + λ₁ L_a + λ₂ L_p (§4.3 and 5.2.2, Eq. 15)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esnac_lib.latent_descent.examples import Examples
from esnac_lib.latent_descent.networks import Autoencoder
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.training.checkpoints import Checkpoint, optimizer_tensors, read_checkpoint, restore, write_checkpoint
from esnac_lib.training.recipes import Recipe

MOMENTUM = 0.5  # of the paper's Nesterov SGD (§5.2.2)
DECAY = 0.2  # factor of the paper's learning-rate decay (§5.2.2)
CHECKPOINT_EVERY = 500  # steps
RECORDS = 100  # how often a training reports its losses, about


@dataclass(frozen=True)
class JointSettings:
    """Settings of the joint training (§5.2.2).

    `decay` is the number of steps after which the learning rate falls to a fifth, again and again (the paper's "period
    30", whose unit it does not give); 0 is one cycle. The lambdas are λ₁ and λ₂ of Eq. 15.
    """

    iterations: int
    batch_size: int
    optimizer: Literal["adam", "sgd"]
    lr: float
    decay: int
    lambda_accuracy: float
    lambda_params: float

    @property
    def recipe(self) -> Recipe:
        """The optimiser (SGD with Nesterov momentum) and the one-cycle schedule."""
        return Recipe(1, self.lr, self.batch_size, self.optimizer, 0.0, MOMENTUM, "one_cycle")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step 0 … iterations − 1."""
        one_cycle = self.recipe.lr_at((step + 0.5) / self.iterations)
        return self.lr * DECAY ** (step // self.decay) if self.decay else one_cycle


@dataclass(frozen=True)
class Losses:
    """The terms of Eq. 15 for one batch as scalars; total is their weighted sum."""

    total: Tensor
    decoder: Tensor
    accuracy: Tensor
    params: Tensor

    def numbers(self) -> dict[str, float]:
        """Return the losses by name as Python numbers."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


def losses_of(autoencoder: Autoencoder, batch: Examples, lambda_accuracy: float, lambda_params: float) -> Losses:
    """Return Eqs. 12 to 15 as means over the batch; L_a is the mean over those whose accuracy is known."""
    _, decoded, accuracy, params = autoencoder(batch.x)
    squares = ((decoded - batch.x) ** 2).sum(1)  # (B, length)
    decoder = ((squares * batch.inside).sum(1) / batch.lengths).mean()  # Eq. 12, squared as the text says
    known = ~batch.accuracy.isnan()
    error = torch.where(known, (accuracy - batch.accuracy.nan_to_num()).abs(), 0.0)  # Eq. 13
    loss_accuracy = error.sum() / known.sum().clamp(min=1)
    loss_params = F.huber_loss(params, batch.params)  # Eq. 14, δ = 1
    total = decoder + lambda_accuracy * loss_accuracy + lambda_params * loss_params  # Eq. 15
    return Losses(total, decoder, loss_accuracy, loss_params)


def new_autoencoder(features: int, length: int, embedding: int, seed: int) -> Autoencoder:
    """Return an autoencoder whose initial weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "codec-weights"))
        return Autoencoder(features, length, embedding)


def train_autoencoder(
    autoencoder: Autoencoder,
    labelled: Examples,
    unlabelled: Examples | None,
    settings: JointSettings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_record: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Train an autoencoder and its regressors in place.

    The deepest batch norms see one position of each sequence. With fewer than about 16 sequences a step, evaluation
    with their running statistics differs visibly from training, and sequences learned by heart decode with errors.

    Unlabelled examples, if any, make half of each batch. With `checkpoint` (a file) the same call resumes after a kill.
    `on_record` is called with (steps done, mean losses since the last call); `check_stop` may raise after a checkpoint.
    """
    optimizer = settings.recipe.make_optimizer(autoencoder.parameters())
    done = _resume(autoencoder, optimizer, checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    autoencoder.train()
    sums: dict[str, float] = {}
    since, every = 0, max(1, settings.iterations // RECORDS)
    for step in range(done, settings.iterations):
        batch = _batch(labelled, unlabelled, settings.batch_size, make_rng(seed, "codec-batch", step))
        numbers = _step(autoencoder, optimizer, batch, settings, settings.lr_at(step))
        sums, since = {name: sums.get(name, 0.0) + value for name, value in numbers.items()}, since + 1
        if (step + 1) % every == 0 or step + 1 == settings.iterations:
            on_record(step + 1, {name: value / since for name, value in sums.items()})
            sums, since = {}, 0
        if (step + 1) % CHECKPOINT_EVERY == 0 and checkpoint is not None:
            tensors = autoencoder.state_dict(), optimizer_tensors(optimizer)
            write_checkpoint(checkpoint, Checkpoint({"step": step + 1}, *tensors, {}))
            check_stop()
    autoencoder.eval()


def refresh(
    autoencoder: Autoencoder, labelled: Examples, settings: JointSettings, steps: int, lr: float, seed: int
) -> None:
    """Finetune in place by some supervised steps at a small learning rate (§5.3).

    Batch norms keep their statistics: a few steps on a few architectures would spoil those of the joint training.
    """
    optimizer = settings.recipe.make_optimizer(autoencoder.parameters())
    autoencoder.eval()
    for step in range(steps):
        batch = _batch(labelled, None, settings.batch_size, make_rng(seed, "refresh-batch", step))
        _step(autoencoder, optimizer, batch, settings, lr)


def _step(
    autoencoder: Autoencoder, optimizer: torch.optim.Optimizer, batch: Examples, settings: JointSettings, lr: float
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = lr
    losses = losses_of(autoencoder, batch, settings.lambda_accuracy, settings.lambda_params)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    optimizer.step()
    return losses.numbers()


def _batch(labelled: Examples, unlabelled: Examples | None, size: int, rng: np.random.Generator) -> Examples:
    """Draw rows with replacement."""
    if unlabelled is None or len(unlabelled) == 0:
        return labelled.take(rng.integers(len(labelled), size=size))
    known = labelled.take(rng.integers(len(labelled), size=size // 2))
    unknown = unlabelled.take(rng.integers(len(unlabelled), size=size - size // 2))
    return Examples(*(torch.cat(pair) for pair in zip(vars(known).values(), vars(unknown).values(), strict=True)))


def _resume(autoencoder: Autoencoder, optimizer: torch.optim.Optimizer, path: Path) -> int:
    try:
        saved = read_checkpoint(path)
        restore(saved, autoencoder, optimizer)
        return int(saved.progress["step"])
    except Exception as error:  # whatever is wrong with the file: it can be trained from the start
        warnings.warn(f"the codec's checkpoint cannot be used, so it is trained from the start: {error}", stacklevel=3)
        return 0
