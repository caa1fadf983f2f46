"""Residual networks of basic blocks for small images (He et al., 2016): a 3 × 3 stem without max-pool.

ResNet-18 and ResNet-34 are as ESNAC uses them; ResNet-20 is He et al.'s for CIFAR (§4.2), with 16, 32 and 64 channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut: the input itself, or a 1 × 1 convolution where the shape changes.

    The main path is executed before the shortcut, which fixes the order of the layers.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, bn=nn.BatchNorm2d(channels)))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        main = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(main + self.shortcut(x))


class StagedNet(nn.Sequential):
    """A stem with batch norm and ReLU, stages of blocks, an average over `size` × `size` pixels, one linear layer."""

    def __init__(
        self, stem: nn.Conv2d, stages: Sequence[nn.Module], channels: int, size: int, num_classes: int
    ) -> None:
        body = nn.Sequential(OrderedDict((f"stage{number}", stage) for number, stage in enumerate(stages, 1)))
        layers = OrderedDict(conv=stem, bn=nn.BatchNorm2d(stem.out_channels), relu=nn.ReLU(), stages=body)
        tail = OrderedDict(average=nn.AvgPool2d(size), flatten=nn.Flatten(), linear=nn.Linear(channels, num_classes))
        super().__init__(layers | tail)


class ResNet(StagedNet):
    """Stages of `blocks` `BasicBlock`s, with `widths` channels; a `stem_stride` of 2 quarters the network's cost."""

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        in_channels: int,
        image_size: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_stride: int = 1,
    ) -> None:
        stem = nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False)
        stages, channels, size = [], widths[0], -(-image_size // stem_stride)
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 2 if index else 1
            units = [BasicBlock(channels, width, stride), *(BasicBlock(width, width, 1) for _ in range(count - 1))]
            stages.append(nn.Sequential(*units))
            channels, size = width, -(-size // stride)
        super().__init__(stem, stages, channels, size, num_classes)
