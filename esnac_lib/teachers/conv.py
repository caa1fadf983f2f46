"""Chains of convolution, batch norm and ReLU: CONV-7 and CONV-10 of Architecture Compression, and a small CNN.

A plan lists the blocks' filters in order, and `POOL` where a 2 × 2 max-pool stands.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import nn

POOL: Final = 0

CONV7: Final = (32, 32, POOL, 64, 64, POOL, 128, 128, 256)
CONV7_HALF: Final = tuple(width // 2 for width in CONV7)
# The paper gives CONV-10's widths and five pools but not where they stand: here after every second block, as in CONV-7.
CONV10: Final = (64, 256, POOL, 256, 256, POOL, 256, 256, POOL, 256, 1024, POOL, 1024, 1024, POOL)
CNN4: Final = (32, 32, POOL, 64, 64, POOL)


class PlainNet(nn.Sequential):
    """A chain of 3 × 3 convolutions, each with batch norm and ReLU, with max-pools between, and one linear layer.

    Args:
        plan: filters of each block, `POOL` for a 2 × 2 max-pool.
        num_classes: features of the linear layer.
        in_channels: channels of the input.
        image_size: height and width of the input in pixels.
        bias: whether convolutions have a bias although a batch norm follows.
        average: whether the last feature map is averaged before the linear layer (else it is flattened as it is).

    Maps (B, in_channels, image_size, image_size) to logits (B, num_classes).
    """

    def __init__(
        self,
        plan: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        bias: bool = True,
        average: bool = False,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, size = in_channels, image_size
        blocks = pools = 0
        for filters in plan:
            if filters == POOL:
                pools, size = pools + 1, size // 2
                layers[f"pool{pools}"] = nn.MaxPool2d(2)
                continue
            blocks += 1
            layers[f"conv{blocks}"] = nn.Conv2d(channels, filters, 3, padding=1, bias=bias)
            layers[f"bn{blocks}"] = nn.BatchNorm2d(filters)
            layers[f"relu{blocks}"] = nn.ReLU()
            channels = filters
        if average:
            layers["average"] = nn.AvgPool2d(size)
            size = 1
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels * size * size, num_classes)
        super().__init__(layers)


# Five stages, each ended by a max-pool: 16 convolutions.
VGG19: Final = (
    *(64, 64, POOL),
    *(128, 128, POOL),
    *(256, 256, 256, 256, POOL),
    *(512, 512, 512, 512, POOL),
    *(512, 512, 512, 512, POOL),
)
