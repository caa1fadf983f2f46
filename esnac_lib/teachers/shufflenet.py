"""ShuffleNet for 32 × 32 images (Zhang et al., 2018): grouped 1 × 1 convolutions with channel shuffles between.

ESNAC compresses the one of normal width with two groups, after inserting a 1 × 1 convolution before the average pool of
each stride-2 unit (ESNAC §6.5); the original ones are what Table 2 compares with.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn

from esnac_lib.teachers.resnet import StagedNet

STEM: Final = 24
UNITS: Final = (4, 8, 4)
# Channels of the three stages at normal width, for each number of groups.
WIDTHS: Final = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}


class ShuffleUnit(nn.Module):
    """A bottleneck with a depthwise convolution; with stride 2 its output is joined to the pooled input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; with stride 2 these include the pooled input's.
        stride: 1 (main path plus input) or 2 (main path concatenated with the pooled input).
        groups: Groups of both 1 × 1 convolutions and of the shuffle.
        first_groups: Groups of the first 1 × 1 convolution (1 right after the stem, which is too narrow to be split).
        inserted_groups: Groups of the 1 × 1 convolution inserted before the average pool; 0: none is inserted.

    The middle width is a quarter of what the main path itself puts out. Where that is no multiple of the groups it is
    rounded down, the only rounding that gives all ten parameter counts of ESNAC Table 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int, inserted_groups: int
    ) -> None:
        super().__init__()
        own = out_channels - in_channels if stride == 2 else out_channels
        middle = own // 4 // groups * groups
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(groups)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, own, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(own)
        self.joins = stride == 2
        self.shortcut: nn.Module = nn.Identity()
        if self.joins:
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            if inserted_groups:
                steps["inserted"] = nn.Conv2d(in_channels, in_channels, 1, groups=inserted_groups, bias=False)
            steps["pool"] = nn.AvgPool2d(3, 2, 1)
            self.shortcut = nn.Sequential(steps)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        main = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        main = self.bn3(self.conv3(self.bn2(self.conv2(main))))
        other = self.shortcut(x)
        return self.relu2(torch.cat([main, other], 1) if self.joins else main + other)


class ShuffleNet(StagedNet):
    """A 1 × 1 stem with 24 channels, three stages of 4, 8 and 4 `ShuffleUnit`s, average pool, one linear layer.

    `width` (0.5, 1.0, 1.5) is a factor on the stages' channels, `groups` 1, 2, 3, 4 or 8, `inserted_groups` are those
    of the convolutions inserted for compression; 0 gives the original network.
    """

    def __init__(
        self, width: float, groups: int, num_classes: int, in_channels: int, image_size: int, inserted_groups: int = 0
    ) -> None:
        stem = nn.Conv2d(in_channels, STEM, 1, bias=False)
        stages, channels, size = [], STEM, image_size
        for stage, (count, normal) in enumerate(zip(UNITS, WIDTHS[groups], strict=True)):
            out = int(normal * width)
            units = [ShuffleUnit(channels, out, 2, groups, groups if stage else 1, inserted_groups)]
            units += [ShuffleUnit(out, out, 1, groups, groups, 0) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            channels, size = out, -(-size // 2)
        super().__init__(stem, stages, channels, size, num_classes)
