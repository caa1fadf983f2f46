"""Chains of convolution, batch norm and ReLU: VGG-19, Architecture Compression's CONV-7 and CONV-10, a small CNN."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

Plan = tuple[int | str, ...]  # the filters of each convolution, and "M" for a 2 × 2 max-pool


class PlainNet(nn.Sequential):
    """A chain of 3 × 3 convolutions, each with batch norm and ReLU, with max-pools between, and one linear layer.

    `bias` gives the convolutions one although a batch norm follows. With `average` the last feature map is averaged
    before the linear layer, else it is flattened as it is.
    """

    def __init__(
        self, plan: Plan, num_classes: int, in_channels: int, image_size: int, bias: bool = True, average: bool = False
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
            layers["average"], size = nn.AvgPool2d(size), 1
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels * size * size, num_classes)
        super().__init__(layers)
