"""The kernels of a finished study, for use in another: learned on all its observations, saved next to its ledger."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from esnac_lib.architecture.graph import Architecture
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.history import observations_of
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import Kernel
from esnac_lib.surrogate.kernel_storage import INDEX, load_kernels, save_kernels


def source_kernels(study: str, count: int, target: Architecture) -> list[Kernel]:
    """Return the first `count` kernels of a study, to propose students of the teacher `target`.

    They are read from `<outputs>/<study>/kernels`; where too few lie there, or they were learned on other observations
    than the study has now, they are learned from its ledger, as its next step would have learned them, and saved.
    Kernel k is the same however many are asked for.

    Raises:
        LedgerError: There is no such study.
        ConfigError: It is not finished.
        DataError: A kernel cannot read the target's layers.
    """
    folder, path = kernel_folder(study), outputs_root() / study / "ledger.sqlite"
    kernels, learned_on = load_kernels(folder, target) if (folder / INDEX).exists() else ([], {})
    changed = has_ledger(path) and learned_on.get("trials") != _digest(Ledger(path, read_only=True))
    if len(kernels) < count or changed:
        learn_source_kernels(study, count)
        kernels, _ = load_kernels(folder, target)
    return kernels[:count]


def hold_source(ledger: Ledger, config: StudyConfig) -> None:
    """Record what a study's source kernels were learned on. Raises ConfigError where it was started with others."""
    now = json.loads((kernel_folder(config.source) / INDEX).read_text())["learned_on"]
    stored = ledger.results("source").get(config.source, now)
    if stored != now:
        was, is_now = (f"{found['observations']} trials {found['trials']}" for found in (stored, now))
        raise ConfigError(
            f"study {config.study!r} was started with other kernels of {config.source!r} (stored {was}, given "
            f"{is_now}): give the study another name, or put back the old study {config.source!r}"
        )
    ledger.result("source", config.source, now)


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
    about = {"study": study, **parameters, "observations": evaluated, "objective": config.kernel_loss}
    save_kernels(kernel_folder(study), sampler.kernels(count), about | {"trials": _digest(ledger)})


def _digest(ledger: Ledger) -> str:
    """Return a hash of a study's observations."""
    trials = ledger.trials()
    rows = trials.loc[trials["told_at"].notna(), ["decisions", "architecture", "f"]].to_numpy().tolist()
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
