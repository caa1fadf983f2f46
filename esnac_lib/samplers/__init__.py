"""Samplers propose what to evaluate next, behind `ask` and `tell`; one file each.

Start with `base.py` (the protocol) and `registry.py` (the list of samplers).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "base": ["Observation", "Proposal", "Sampler", "SamplerEntry"],
        "esnac": ["EsnacSampler"],
        "evolution": ["EvolutionSampler"],
        "n2n": ["N2nSampler"],
        "random": ["RandomSampler"],
        "registry": ["SAMPLERS"],
        "tpe": ["TpeSampler"],
        "transfer": ["TransferSampler"],
        "width_scaling": ["NarrowSampler"],
    },
)
