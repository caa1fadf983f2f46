"""The kernels of a finished study, for use in another: learned on all its observations, saved next to its ledger."""

from __future__ import annotations

from pathlib import Path

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.history import observations_of
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import Kernel
from esnac_lib.surrogate.kernel_storage import INDEX, load_kernels, save_kernels


def source_kernels(study: str, count: int, target: Architecture) -> list[Kernel]:
    """Return the first `count` kernels of a study, to propose students of the teacher `target`.

    They are read from `<outputs>/<study>/kernels`; where too few lie there, they are learned from the study's ledger,
    as its next step would have learned them, and saved. Kernel k is the same however many are asked for.

    Raises:
        LedgerError: There is no such study.
        ConfigError: It is not finished.
        DataError: A kernel cannot read the target's layers.
    """
    folder = kernel_folder(study)
    if not (folder / INDEX).exists() or len(load_kernels(folder, target)[0]) < count:
        learn_source_kernels(study, count)
    return load_kernels(folder, target)[0][:count]


def kernel_folder(study: str) -> Path:
    """Return where a study's kernels are saved."""
    return outputs_root() / study / "kernels"


def learn_source_kernels(study: str, count: int) -> None:
    """Learn `count` kernels on the observations of a study, and save them with what they were learned on."""
    ledger = Ledger(outputs_root() / study / "ledger.sqlite", read_only=True)
    config = StudyConfig.from_stored(ledger.config)
    observations = observations_of(ledger)
    evaluated, planned = len(observations), config.num_evaluations
    if evaluated < planned:
        raise ConfigError(f"source = {study!r} has evaluated {evaluated} of its {planned} architectures: finish it")
    teacher = Architecture.from_json(ledger.results("teacher")["search"]["architecture"])
    settings = KernelSettings(objective=config.kernel_loss, subset_probability=config.subset)
    sampler = EsnacSampler(SearchSpace(teacher, config.operator_names), config.seed, settings)
    sampler.tell(observations)
    parameters = {name: getattr(config, name) for name in ("teacher", "dataset", "sampler", "operators", "seed")}
    learned_on = {"study": study, **parameters, "observations": evaluated, "objective": config.kernel_loss}
    save_kernels(kernel_folder(study), sampler.kernels(count), learned_on)
