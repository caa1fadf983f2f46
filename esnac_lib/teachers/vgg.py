"""VGG-19 for 32 × 32 images (Simonyan & Zisserman, 2014), with batch norm and one linear layer, as ESNAC uses it."""

from __future__ import annotations

from typing import Final

from esnac_lib.teachers.conv import POOL

# Five stages, each ended by a max-pool: 16 convolutions.
VGG19: Final = (
    *(64, 64, POOL),
    *(128, 128, POOL),
    *(256, 256, 256, 256, POOL),
    *(512, 512, 512, 512, POOL),
    *(512, 512, 512, 512, POOL),
)
