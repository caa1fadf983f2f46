"""The list of samplers. To add one, write a file that declares its `SamplerEntry`, and add a line here.

Tables and figures of a comparison keep this order, with what goes beyond the papers at the end.
"""

from __future__ import annotations

from esnac_lib.config.registry import Registry
from esnac_lib.samplers import esnac, evolution, n2n, random, tpe, transfer, width_scaling
from esnac_lib.samplers.base import SamplerEntry

SAMPLERS: Registry[SamplerEntry] = Registry("sampler")
SAMPLERS.register(width_scaling.ENTRY)
SAMPLERS.register(random.ENTRY)
SAMPLERS.register(evolution.ENTRY)
SAMPLERS.register(tpe.CLASSIC)
SAMPLERS.register(tpe.MULTIVARIATE)
SAMPLERS.register(n2n.ENTRY)
SAMPLERS.register(esnac.ENTRY)
SAMPLERS.register(transfer.ENTRY)
