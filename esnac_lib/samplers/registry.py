"""The list of samplers."""

from __future__ import annotations

from collections.abc import Callable

from esnac_lib.config.study import StudyConfig
from esnac_lib.samplers.base import Sampler
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.evolution import EvolutionSampler
from esnac_lib.samplers.n2n import N2nSampler
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.source_kernels import source_kernels
from esnac_lib.samplers.tpe import TpeSampler
from esnac_lib.samplers.transfer import TransferSampler
from esnac_lib.samplers.width_scaling import NarrowSampler
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings

SAMPLERS: dict[str, Callable[[SearchSpace, StudyConfig], Sampler]] = {
    "random": lambda space, config: RandomSampler(space, config.seed),
    "esnac": lambda space, config: EsnacSampler(
        space,
        config.seed,
        KernelSettings(objective=config.kernel_loss, subset_probability=config.subset),
        config.acquisition,
        config.candidates,
        first=config.first,
        surrogate=config.surrogate,
    ),
    "tpe": lambda space, config: TpeSampler(space, config.seed),
    "tpe_multivariate": lambda space, config: TpeSampler(space, config.seed, multivariate=True, constant_liar=True),
    "n2n": lambda space, config: N2nSampler(space, config.seed, config.num_evaluations),
    "evolution": lambda space, config: EvolutionSampler(space, config.seed, first=config.first),
    "narrow": lambda space, config: NarrowSampler(space, config.seed),
    "transfer": lambda space, config: TransferSampler(
        space,
        config.seed,
        source_kernels(config.source, config.K, space.teacher),
        config.acquisition,
        config.candidates,
    ),
}
