"""Samplers: what to evaluate next. One file each, all behind `ask` and `tell`."""

from esnac_lib.samplers.base import Proposal, Sampler, Told
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.evolution import EvolutionSampler
from esnac_lib.samplers.n2n import N2nSampler
from esnac_lib.samplers.narrow import NarrowSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.tpe import TpeSampler
from esnac_lib.samplers.transfer import TransferSampler

__all__ = [
    "EsnacSampler",
    "EvolutionSampler",
    "N2nSampler",
    "NarrowSampler",
    "Proposal",
    "RandomSampler",
    "Sampler",
    "Told",
    "TpeSampler",
    "TransferSampler",
]
