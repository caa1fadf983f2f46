"""Samplers: what to evaluate next. One file each, all behind `ask` and `tell`."""

from esnac_lib.samplers.base import Proposal, Sampler, Told
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.random import RandomSampler

__all__ = ["EsnacSampler", "Proposal", "RandomSampler", "Sampler", "Told"]
