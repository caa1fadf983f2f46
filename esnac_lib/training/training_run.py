"""The training of one trainee: its optimiser, its random state, its failure, what it has reached so far.

Nothing here knows of other trainees. The loop that leads a group through the epochs is in `trainer`.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.errors import TrainingError, one_line
from esnac_lib.files import shown
from esnac_lib.seeding import derive_seed
from esnac_lib.training import checkpoints
from esnac_lib.training.callbacks import EpochResult
from esnac_lib.training.checkpoints import Checkpoint, cpu_copy
from esnac_lib.training.cuda_graphs import Batch, Stream, capture_on, captured
from esnac_lib.training.device import RandomState, compute_logits
from esnac_lib.training.faults import is_machine_fault, time_limit
from esnac_lib.training.job import Outcome, Trainee, TrainingJob


class TrainingRun:
    """One trainee on its way through a job."""

    def __init__(self, trainee: Trainee, job: TrainingJob) -> None:
        self.key, self.network, self.job, self.device = trainee.key, trainee.network, job, torch.device(job.device)
        self.error: str | None = None
        self.retry, self.best_epoch = False, 0
        self.curve: list[EpochResult] = []
        self.best: dict[str, Tensor] = {}  # stays empty without accuracies: then the last epoch is the best
        self.seconds, self.spent = 0.0, 0.0  # spent: in work of its own, this time
        self.stream = Stream(self.device)
        self.optimizer: torch.optim.Optimizer
        self.step: Callable[[Batch], None]
        self.random_state: RandomState
        self.images = 0
        self.loss: Tensor  # () float64, summed over the images of the epoch; at a fixed address, like the next two
        self.correct: Tensor  # () int64
        self.finite: Tensor  # () bool

    def attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work`; an exception fails this trainee and no other."""
        began = time.perf_counter()
        try:
            with time_limit(self.job.time_limit - self.spent, f"the training of {self.key}"):
                work(*arguments)
        except Exception as error:
            self.error, self.retry = one_line(error), is_machine_fault(error)
        self.spent += time.perf_counter() - began
        if self.error is not None:
            self.release()  # here, where the exception no longer holds the tensors of the frames it came through

    def start(self) -> None:
        """Move the network to the device, and go on from its checkpoint where there is a sound one."""
        recipe, device = self.job.recipe, self.device
        self.network.to(device).to(memory_format=torch.channels_last)
        capture = capture_on(device)
        self.optimizer = recipe.make_optimizer(self.network.parameters(), captured=capture is not None)
        self.step = captured(self._step, self.network, capture, self.key)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        if not self._resume() and recipe.reset_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.reset_running_stats()

    @property
    def _checkpoint_path(self) -> Path | None:
        return None if self.job.checkpoint is None else self.job.checkpoint / f"{self.key}.safetensors"

    def _resume(self) -> bool:
        """Go on from the checkpoint; return whether there is a sound one."""
        path = self._checkpoint_path
        if path is None or not path.exists():
            return False
        try:
            self._restore(checkpoints.read_checkpoint(path))
        except Exception as error:  # whatever is wrong with a file: the network can be trained from the start
            if is_machine_fault(error):
                raise
            text = f"checkpoint {shown(path)} is ignored and {self.key} trained from the start: {one_line(error)}"
            warnings.warn(text, stacklevel=5)
            return False
        return True

    def _restore(self, checkpoint: Checkpoint) -> None:
        progress = checkpoint.progress
        if progress["identity"] != self.job.identity():
            raise ValueError("it belongs to another training")
        curve = [EpochResult(**row) for row in progress["curve"]]
        best_epoch, seconds, error = progress["best_epoch"], progress["seconds"], progress["error"]
        if error is None:
            checkpoints.restore(checkpoint, self.network, self.optimizer)
        self.curve, self.best_epoch, self.seconds, self.error = curve, best_epoch, seconds, error
        if self.job.evaluation_data is not None:
            self.best = checkpoint.best or checkpoint.network

    def save(self) -> None:
        """Store the epoch. A fault of the machine stores nothing, so that a retry goes on from the last epoch."""
        path = self._checkpoint_path
        if path is None or self.retry:
            return
        progress: dict[str, Any] = {"identity": self.job.identity(), "curve": list(map(asdict, self.curve))}
        progress |= {"best_epoch": self.best_epoch, "error": self.error, "seconds": self.seconds}
        checkpoint = Checkpoint(progress, {}, {}, {})
        if self.error is None:
            best = self.best if self.best_epoch < len(self.curve) else {}
            state = checkpoints.optimizer_tensors(self.optimizer)
            checkpoint = Checkpoint(progress, self.network.state_dict(), state, best)
        checkpoints.write_checkpoint(path, checkpoint)

    def begin_epoch(self, epoch: int) -> None:
        """Set the sums to zero and the random state to the epoch's."""
        job = self.job
        self.network.train()
        purpose = f"{job.purpose}/dropout/{self.key}"
        self.random_state = RandomState(self.device, derive_seed(job.seed, purpose, job.index, epoch - 1))
        self.images = 0
        self.loss.zero_()
        self.correct.zero_()
        self.finite.fill_(True)

    def train_step(self, batch: Batch, lr: float) -> None:
        """Take one step, towards the teacher's logits where the batch has them, else towards its labels."""
        with self.stream, self.random_state:
            for settings in self.optimizer.param_groups:
                if isinstance(settings["lr"], Tensor):
                    settings["lr"].fill_(lr)
                else:
                    settings["lr"] = lr
            self.step(batch)
        self.images += len(batch.y)

    def _step(self, batch: Batch) -> None:
        """Return what may be captured: it reads tensors only, and leaves nothing behind but in tensors."""
        recipe, target = self.job.recipe, batch.target
        self.optimizer.zero_grad(set_to_none=True)
        logits = compute_logits(self.network, batch.x)  # (B, classes)
        if target is None:
            loss = F.cross_entropy(logits, batch.y, label_smoothing=recipe.label_smoothing)
        elif logits.shape == target.shape:
            loss = F.mse_loss(logits, target)
        else:
            raise TrainingError(f"logits {tuple(logits.shape)} do not have the teacher's form {tuple(target.shape)}")
        loss.backward()
        if recipe.clip_norm < math.inf:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm, foreach=True)
        self.optimizer.step()
        self.loss += loss.detach().double() * len(batch.y)

    def evaluate_batch(self, batch: Batch) -> None:
        """Count the correct predictions, without looking at the numbers: that would wait for the device."""
        with torch.inference_mode():
            logits = compute_logits(self.network, batch.x)
            self.correct += (logits.argmax(1) == batch.y).sum()
            self.finite &= logits.isfinite().all()

    def end_training(self, epoch: int) -> None:
        """Look at the loss of an epoch, once: a loss that was not finite leaves a sum that is not."""
        self.network.eval()
        loss = self.loss.item() / self.images
        if not math.isfinite(loss):
            self.error = f"diverged: loss is {loss} in epoch {epoch}"

    def check_finite(self, epoch: int) -> None:
        """Look at the logits, or else at the weights: the last step of an epoch shows in no loss of that epoch."""
        if self.job.evaluation_data is not None:
            if not self.finite.item():
                self.error = f"diverged: logits are not finite in epoch {epoch}"
        elif not all(t.isfinite().all().item() for t in self.network.state_dict().values()):
            self.error = f"diverged: weights are not finite in epoch {epoch}"

    def end_epoch(self, epoch: int, seconds: float, fault: str | None) -> None:
        """Record the epoch, or the time spent on it where it failed."""
        self.seconds += seconds
        if fault is not None and self.error is None:
            self.error, self.retry = fault, True
            self.release()
        if self.error is not None:
            return
        data = self.job.evaluation_data
        accuracy = None if data is None else self.correct.item() / len(data)
        highest = max((row.accuracy for row in self.curve if row.accuracy is not None), default=-1.0)
        self.curve.append(EpochResult(epoch, self.loss.item() / self.images, accuracy, seconds))
        if accuracy is None:
            self.best_epoch = epoch
        elif accuracy > highest:
            self.best_epoch, self.best = epoch, cpu_copy(self.network.state_dict())

    def release(self) -> None:
        """Free the memory of a failed trainee: optimiser state, gradients, weights on the device."""
        for name in ("optimizer", "step"):
            vars(self).pop(name, None)
        self.best = {}
        with contextlib.suppress(RuntimeError):  # of a device that no longer answers
            self.stream.finish()  # work still queued there must not meet memory that others have by then
            self.network.zero_grad(set_to_none=True)
            self.network.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def outcome(self) -> Outcome:
        """Return what became of it, with the weights where it is complete."""
        failed = self.error is not None
        last = {} if failed else cpu_copy(self.network.state_dict())
        found = self.curve[self.best_epoch - 1].accuracy if self.curve else None
        accuracies = found, self.curve[-1].accuracy if self.curve else None
        weights = self.best or cpu_copy(last), last
        state: Literal["complete", "failed"] = "failed" if failed else "complete"
        reached = tuple(self.curve), self.best_epoch
        return Outcome(self.key, state, self.error, self.retry, *reached, *accuracies, *weights, self.seconds)
