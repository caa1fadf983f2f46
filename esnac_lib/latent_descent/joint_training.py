"""The joint training of encoder, decoder and regressors (§4.3, 5.2.2): L = L_d + λ₁ L_a + λ₂ L_p (Eq. 15)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esnac_lib.latent_descent.examples import Examples
from esnac_lib.latent_descent.networks import Codec
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.training.checkpoints import Checkpoint, optimizer_tensors, read_checkpoint, restore, write_checkpoint
from esnac_lib.training.recipes import WARM_UP

MOMENTUM = 0.5
"""Of the paper's Nesterov SGD."""
DECAY = 0.2
"""The factor of its learning rate decay."""
CHECKPOINT_EVERY = 500
RECORDS = 100
"""How often a training tells its losses, about."""


@dataclass(frozen=True)
class JointSettings:
    """How the codec is trained.

    decay: steps after which the learning rate falls to a fifth, again and again (the paper's "period 30", whose unit
    it does not give); 0 is one cycle: up over the first quarter, then down to 0.
    """

    iterations: int
    batch_size: int
    optimizer: str
    lr: float
    decay: int
    lambda_accuracy: float
    lambda_params: float

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0 … iterations − 1."""
        if self.decay:
            return self.lr * DECAY ** (step // self.decay)
        progress = (step + 0.5) / self.iterations
        return self.lr * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))


@dataclass(frozen=True)
class Losses:
    """The parts of Eq. 15 for one batch, scalars; total is their weighted sum."""

    total: Tensor
    decoder: Tensor
    accuracy: Tensor
    params: Tensor

    def numbers(self) -> dict[str, float]:
        """By name, as Python numbers."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


def losses_of(codec: Codec, batch: Examples, lambda_accuracy: float, lambda_params: float) -> Losses:
    """Eqs. 12 to 15, as means over the batch; L_a over those whose accuracy is known."""
    _, decoded, accuracy, params = codec(batch.x)
    squares = ((decoded - batch.x) ** 2).sum(1)  # (B, length)
    decoder = ((squares * batch.inside).sum(1) / batch.lengths).mean()  # Eq. 12, squared as the text says
    known = ~batch.accuracy.isnan()
    error = torch.where(known, (accuracy - batch.accuracy.nan_to_num()).abs(), 0.0)  # Eq. 13
    loss_accuracy = error.sum() / known.sum().clamp(min=1)
    loss_params = F.huber_loss(params, batch.params)  # Eq. 14, δ = 1
    total = decoder + lambda_accuracy * loss_accuracy + lambda_params * loss_params  # Eq. 15
    return Losses(total, decoder, loss_accuracy, loss_params)


def new_codec(features: int, length: int, embedding: int, seed: int) -> Codec:
    """A codec whose initial weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "codec-weights"))
        return Codec(features, length, embedding)


def train_codec(
    codec: Codec,
    labelled: Examples,
    unlabelled: Examples | None,
    settings: JointSettings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_record: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Train a codec in place; with `checkpoint` (a file) the same call goes on after a kill.

    Half of a batch is labelled and half is not, where there are both. on_record is told (steps done, mean losses since
    the last time). check_stop may raise.
    """
    optimizer = _optimizer(codec, settings)
    done = _resume(codec, optimizer, checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    codec.train()
    sums: dict[str, float] = {}
    since, every = 0, max(1, settings.iterations // RECORDS)
    for step in range(done, settings.iterations):
        batch = _batch(labelled, unlabelled, settings.batch_size, make_rng(seed, "codec-batch", step))
        numbers = _learn(codec, optimizer, batch, settings, settings.lr_at(step))
        sums = {name: sums.get(name, 0.0) + value for name, value in numbers.items()}
        since += 1
        if (step + 1) % every == 0 or step + 1 == settings.iterations:
            on_record(step + 1, {name: value / since for name, value in sums.items()})
            sums, since = {}, 0
        if (step + 1) % CHECKPOINT_EVERY == 0 and checkpoint is not None:
            write_checkpoint(
                checkpoint, Checkpoint({"step": step + 1}, codec.state_dict(), optimizer_tensors(optimizer), {})
            )
            check_stop()
    codec.eval()


def refresh(codec: Codec, labelled: Examples, settings: JointSettings, steps: int, lr: float, seed: int) -> None:
    """Some supervised steps at a small learning rate (§5.3), in place.

    Batch norms keep their statistics: a few steps on a few architectures would spoil those of the whole training.
    """
    optimizer = _optimizer(codec, settings)
    codec.eval()
    for step in range(steps):
        batch = _batch(labelled, None, settings.batch_size, make_rng(seed, "refresh-batch", step))
        _learn(codec, optimizer, batch, settings, lr)


def _optimizer(codec: Codec, settings: JointSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(codec.parameters(), lr=settings.lr, fused=True)
    return torch.optim.SGD(codec.parameters(), lr=settings.lr, momentum=MOMENTUM, nesterov=True, fused=True)


def _learn(
    codec: Codec, optimizer: torch.optim.Optimizer, batch: Examples, settings: JointSettings, lr: float
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = lr
    losses = losses_of(codec, batch, settings.lambda_accuracy, settings.lambda_params)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    optimizer.step()
    return losses.numbers()


def _batch(labelled: Examples, unlabelled: Examples | None, size: int, rng: np.random.Generator) -> Examples:
    """Rows drawn with replacement."""
    if unlabelled is None or len(unlabelled) == 0:
        return labelled.take(rng.integers(len(labelled), size=size))
    known = labelled.take(rng.integers(len(labelled), size=size // 2))
    unknown = unlabelled.take(rng.integers(len(unlabelled), size=size - size // 2))
    return Examples(*(torch.cat(pair) for pair in zip(vars(known).values(), vars(unknown).values(), strict=True)))


def _resume(codec: Codec, optimizer: torch.optim.Optimizer, path: Path) -> int:
    try:
        saved = read_checkpoint(path)
        restore(saved, codec, optimizer)
        return int(saved.progress["step"])
    except Exception as error:  # whatever is wrong with the file: the codec can be trained from the start
        text = f"the codec's checkpoint is left aside and it is trained from the start: {error}"
        warnings.warn(text, stacklevel=3)
        return 0
