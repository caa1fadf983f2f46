"""Whether a teacher that comes with weights knows these images, and was trained on images normalised like them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights, build
from esnac_lib.data.batches import DeviceData
from esnac_lib.data.noise import commonest_share, is_near_chance, near_chance, noise_band
from esnac_lib.data.splits import StudyData
from esnac_lib.training.trainer import evaluate

MOST_IMAGES = 5_000  # of the training split, to estimate statistics on
BATCH = 256


@dataclass(frozen=True)
class TeacherCheck:
    """What a teacher's accuracy (a fraction) on the validation images says."""

    accuracy: float
    images: int
    chance: float  # of always naming the commonest class
    reestimated: float | None  # the accuracy with batch-norm statistics of these images; None without batch norm

    @classmethod
    def of(cls, architecture: Architecture, weights: Weights, data: StudyData) -> TeacherCheck:
        """Evaluate a teacher as it is, and with batch-norm statistics of the study's images; nothing is changed."""
        network = build(architecture, weights).to(data.device)
        accuracy = evaluate(network, data.validation, device=data.device)
        again = None
        if reestimate_batch_norm(network, data.part(data.splits.train[:MOST_IMAGES])):
            again = evaluate(network, data.validation, device=data.device)
        labels = data.dataset.train_labels[data.splits.validation]
        return cls(accuracy, len(labels), commonest_share(labels), again)

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.2%} on {self.images:,} validation images; always the commonest class: {self.chance:.2%}"
        )

    @property
    def warnings(self) -> list[str]:
        """What speaks against this teacher, a paragraph in Markdown each."""
        found = []
        if is_near_chance(self.accuracy, self.chance, self.images):
            found.append(f"**Warning.** {near_chance('The teacher', self.accuracy, self.chance)}.")
        again = self.reestimated
        if again is not None and abs(again - self.accuracy) > noise_band(again, self.accuracy, self.images):
            found.append(
                f"**Warning.** With batch-norm statistics of these images the teacher has {again:.2%} instead of "
                f"{self.accuracy:.2%}, which is more than the noise: it was probably trained with another "
                "normalisation. Give `normalise` the mean/std that it was trained with."
            )
        return found


def reestimate_batch_norm(network: nn.Module, images: DeviceData, batch_size: int = BATCH) -> bool:
    """Set all batch-norm statistics of a network to their averages over batches of images; False if it has none.

    Weights stay as they are. With momentum 1 the running statistics are those of the last batch: these are averaged.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    statistics = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
    if not statistics:
        return False
    momenta, count = [norm.momentum for norm in norms], 0
    sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in statistics]
    network.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        for x, _ in images.evaluation_batches(batch_size):
            if len(x) > 1:
                network(x)
                sums, count = [total + now for total, now in zip(sums, statistics, strict=True)], count + 1
        for tensor, total in zip(statistics, sums, strict=True):
            tensor.copy_(total / count)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return True
