"""Chains of convolution, batch norm and ReLU: VGG-19, Architecture Compression's CONV-7 and CONV-10, a small CNN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


class PlainNet(nn.Sequential):
    """A chain of 3 × 3 convolutions, each with batch norm and ReLU, with max-pools between, and one linear layer.

    Args:
        plan: The filters of each convolution, and "M" for a 2 × 2 max-pool.
        num_classes: Features of the linear layer.
        in_channels: Channels of the input.
        image_size: Height and width of the input in pixels.
        bias: Whether convolutions have a bias although a batch norm follows.
        average: Whether the last feature map is averaged before the linear layer (else it is flattened as it is).

    Shape:
        (B, in_channels, image_size, image_size) to logits (B, num_classes).
    """

    def __init__(
        self,
        plan: Sequence[int | str],
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
            if isinstance(filters, str):
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
