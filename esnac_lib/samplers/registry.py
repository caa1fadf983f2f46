"""The list of samplers. To add one, write a file that declares its `SamplerEntry`, and add a line here."""

from __future__ import annotations

from esnac_lib.config.registry import Registry
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.objective import OBJECTIVES
from esnac_lib.samplers.base import Sampler, SamplerEntry
from esnac_lib.space.search_space import SearchSpace

SAMPLERS: Registry[SamplerEntry] = Registry("sampler")


def _make(space: SearchSpace, config: StudyConfig) -> Sampler:
    from esnac_lib.samplers import (
        EsnacSampler,
        EvolutionSampler,
        N2nSampler,
        NarrowSampler,
        RandomSampler,
        TpeSampler,
        TransferSampler,
    )  # fmt: skip
    from esnac_lib.samplers.source_kernels import source_kernels
    from esnac_lib.surrogate.fitting import KernelSettings

    if config.sampler == "random":
        return RandomSampler(space, config.seed)
    if config.sampler == "esnac":
        return EsnacSampler(
            space,
            config.seed,
            KernelSettings(objective=config.kernel_loss, subset_probability=config.subset),
            config.acquisition,
            config.candidates,
            first=config.first,
            surrogate=config.surrogate,
            objective=OBJECTIVES[config.objective],
        )
    if config.sampler.startswith("tpe"):
        together = config.sampler == "tpe_multivariate"
        return TpeSampler(space, config.seed, multivariate=together, constant_liar=together)
    if config.sampler == "n2n":
        return N2nSampler(space, config.seed, config.num_evaluations)
    if config.sampler == "evolution":
        return EvolutionSampler(space, config.seed, first=config.first)
    if config.sampler == "narrow":
        return NarrowSampler(space, config.seed)
    kernels = source_kernels(config.source, config.K, space.teacher)
    return TransferSampler(space, config.seed, kernels, config.acquisition, config.candidates)


def _check_n2n(config: StudyConfig) -> None:
    limit = "max_params" if config.max_params else "max_macs" if config.max_macs else ""
    if limit:
        raise ConfigError(f"{limit} = {getattr(config, limit)}: sampler = 'n2n' keeps no limits; leave it 0")
    if config.operators == "skip":
        raise ConfigError("operators = 'skip': sampler = 'n2n' only removes and shrinks; give it one or both of those")


def _check_narrow(config: StudyConfig) -> None:
    if "shrink" not in config.operator_names:
        raise ConfigError(f"operators = {config.operators!r}: sampler = 'narrow' only shrinks; add shrink")


def _check_transfer(config: StudyConfig) -> None:
    if config.acquisition == "local":
        raise ConfigError(
            "acquisition = 'local' with sampler = 'transfer': it has no observed students to stay near to; "
            "'random' and 'evolution' are allowed"
        )


for entry in (
    SamplerEntry("random", "random search", "black", _make),
    SamplerEntry("esnac", "ESNAC", "#D55E00", _make),
    SamplerEntry("tpe", "TPE", "#56B4E9", _make),
    SamplerEntry("tpe_multivariate", "TPE, multivariate", "#56B4E9", _make),
    SamplerEntry("n2n", "N2N", "#999999", _make, _check_n2n),
    SamplerEntry("evolution", "evolution", "#009E73", _make),
    SamplerEntry("transfer", "kernel transfer", "#E69F00", _make, _check_transfer),
    SamplerEntry("narrow", "width scaling", "#CC79A7", _make, _check_narrow),
):
    SAMPLERS.register(entry)
