"""Build and train a FitNet, a student thinner and deeper than its teacher (Romero et al., 2014; Table 2).

1. Hint training: the student up to its guided layer, with a 1×1 convolution as regressor, learns the teacher's
   features at its hint layer, here the middle block of both (mean squared error).
2. Knowledge distillation: the student minimises H(y, P_S) + λ H(P_T^τ, P_S^τ) (FitNets, Eq. 2), λ falling from 4 to 1.

The second loss is written as one cross entropy, so that the ordinary trainer takes it: in training mode the student
returns log P_S and log P_S^τ side by side (`SoftenedStudent`). Their exponentials add up to 2, so a softmax over them
all only halves them, and the cross entropy against (y, λ P_T^τ) is Eq. 2 plus (1 + λ) log 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture, Layer, slot
from esnac_lib.architecture.network import Network, build
from esnac_lib.data.batches import DeviceData
from esnac_lib.errors import SpaceError
from esnac_lib.latent_descent.random_architectures import blocks_of, with_channels
from esnac_lib.latent_descent.sequence import CONV, LINEAR, Items, SequenceSpace, convolution_blocks
from esnac_lib.seeding import derive_seed

TEMPERATURE = 3.0  # τ of the FitNets paper
FIRST_WEIGHT, LAST_WEIGHT = 4.0, 1.0  # λ in the first and in the last epoch
HINT_REGRESSOR = "hint-regressor"


def fitnet_sequence(space: SequenceSpace, teacher: Items, most_params: int) -> Items:
    """Return the largest FitNet of at most so many parameters, or raise SpaceError if one filter a layer is too many.

    It has every convolution of the teacher twice, with all widths scaled by one factor.
    """
    widest, best = max(item.o for item in teacher), None
    wide = replace(space, width_step=1, max_length=2 * space.max_length, max_macs=0)
    for filters in range(1, widest + 1):
        items = _deeper(space, teacher, filters / widest)
        if wide.to_architecture(items).num_params > most_params:
            break
        best = items
    if best is None:
        raise SpaceError(f"a FitNet of this teacher has more than {most_params:,} parameters with one filter a layer")
    return best


def _deeper(space: SequenceSpace, teacher: Items, factor: float) -> Items:
    items = []
    for block in blocks_of(teacher[:-1]):
        first = block[0]
        if first.t not in (CONV, LINEAR):
            items += block
            continue
        first = first._replace(o=max(1, round(first.o * factor)))
        items += [first, *block[1:]]
        if first.t == CONV:
            items += [first._replace(k=3, s=1, p=1), *block[1:]]
    return with_channels([*items, teacher[-1]], space.input_shape[0])


def middle_layer(architecture: Architecture, copies: int) -> int:
    """Return the last layer of the middle block: of the teacher (1 copy of each block) or of its FitNet (2 copies)."""
    ends = list(convolution_blocks(architecture).values())
    return ends[ceil(len(ends) / copies / 2) * copies - 1]


def truncate(architecture: Architecture, last: int) -> Architecture:
    """Return the chain's first layers, up to and with layer `last`."""
    return Architecture(architecture.layers[: last + 1], architecture.input_shape, slot(last))


def guided_network(student: Architecture, hint_channels: int) -> Architecture:
    """Return the student up to its guided layer, with the regressor that maps its features to the teacher's."""
    part = truncate(student, middle_layer(student, 2))
    regressor = Layer(HINT_REGRESSOR, "conv", (slot(len(part.layers) - 1),), hint_channels, {"kernel_size": 1})
    return Architecture((*part.layers, regressor), part.input_shape, slot(len(part.layers)))


def hint_network(teacher: Architecture, weights: dict[str, Tensor]) -> Network:
    """Return the trained teacher up to its hint layer."""
    part = truncate(teacher, middle_layer(teacher, 1))
    return build(part, {name: weights[name] for name in build(part).weights()})


class SoftenedStudent(nn.Module):
    """A student in the second stage: images to logits (B, classes); in training mode to log P_S and log P_S^τ."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or both log-probabilities in training mode."""
        logits = self.network(x)
        if not self.training:
            return logits
        return torch.cat([F.log_softmax(logits, 1), F.log_softmax(logits / TEMPERATURE, 1)], 1)


class SoftTargets:
    """Images with the soft targets (y, λ P_T^τ): (B, 2 · classes).

    λ depends on the epoch e, known from the generator's seed, which `trainer.train` derives from (seed, purpose, 0, e).
    """

    def __init__(
        self, images: DeviceData, teacher: nn.Module, classes: int, seed: int, purpose: str, epochs: int
    ) -> None:
        self.images, self.classes = images, classes
        self.teacher = teacher.to(images.device).to(memory_format=torch.channels_last).eval()
        weights = [FIRST_WEIGHT + (LAST_WEIGHT - FIRST_WEIGHT) * epoch / max(1, epochs - 1) for epoch in range(epochs)]
        self._weights = {derive_seed(seed, purpose, 0, epoch): weight for epoch, weight in enumerate(weights)}

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, generator: torch.Generator, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled (images, targets)."""
        weight = self._weights[generator.initial_seed()]
        for x, y in self.images.batches(batch_size, generator, augment):
            with torch.no_grad():
                soft = F.softmax(self.teacher(x) / TEMPERATURE, 1)  # (B, classes)
            yield x, torch.cat([F.one_hot(y, self.classes).to(soft), weight * soft], 1)

    def evaluation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the images with their labels."""
        return self.images.evaluation_batches(batch_size)
