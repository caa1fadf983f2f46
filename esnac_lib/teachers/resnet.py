"""Residual networks of basic blocks for small images (He et al., 2016): a 3 × 3 stem without max-pool.

ResNet-18 and ResNet-34 are as ESNAC uses them; ResNet-20 is He et al.'s for CIFAR (§4.2), with 16, 32 and 64 channels.
"""

from __future__ import annotations

from collections import OrderedDict

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


class ResNet(nn.Module):
    """Stages of `BasicBlock`s, average pool, one linear layer.

    Args:
        blocks: Number of blocks in each stage.
        num_classes: Features of the linear layer.
        in_channels: Channels of the input.
        image_size: Height and width of the input in pixels.
        widths: Channels of each stage.
        stem_stride: Stride of the first convolution; 2 quarters the cost of the whole network.

    Shape:
        (B, in_channels, image_size, image_size) to logits (B, num_classes).
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages, channels, size = [], widths[0], -(-image_size // stem_stride)
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if index == 0 else 2
            size = -(-size // stride)
            units = [BasicBlock(channels, width, stride)]
            units += [BasicBlock(width, width, 1) for _ in range(count - 1)]
            stages.append((f"stage{index + 1}", nn.Sequential(*units)))
            channels = width
        self.stages = nn.Sequential(OrderedDict(stages))
        self.average = nn.AvgPool2d(size)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to logits (B, num_classes)."""
        x = self.stages(self.relu(self.bn(self.conv(x))))
        return self.linear(self.flatten(self.average(x)))
