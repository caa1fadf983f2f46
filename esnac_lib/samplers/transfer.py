"""Kernels learned in another study propose here, and nothing is learned (ESNAC §4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import DataError
from esnac_lib.samplers.base import Proposal, SamplerEntry
from esnac_lib.samplers.esnac import KernelSampler
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:  # PyTorch is loaded with the first kernel: the registry of samplers has to do without it
    from esnac_lib.surrogate.kernel import Kernel


@dataclass(eq=False)
class TransferSampler(KernelSampler):
    """Each kernel in turn proposes the member of this space of highest expected improvement over its own best f.

    The posterior stays conditioned on the observations of the kernels' source; what is observed here is only not
    proposed again. Raises DataError where there is no kernel, or one cannot read the layers of this space's teacher.
    """

    kernels: Sequence[Kernel]
    acquisition: str = "random"  # or "evolution"
    candidates: int = 1000

    def __post_init__(self) -> None:
        from esnac_lib.surrogate.kernel_storage import check_readable

        super().__post_init__()
        if not self.kernels:
            raise DataError("there is no kernel to propose with: at least one is needed")
        for k, kernel in enumerate(self.kernels):
            check_readable(kernel, self.space.teacher, f"kernel {k}")

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals, by the first n kernels; beyond their number the first one is next again."""
        from esnac_lib.surrogate.maximisers import scorer

        turns = islice(cycle(enumerate(self.kernels)), n)
        return self._maximise(((k, scorer(kernel)) for k, kernel in turns), "transfer-candidates")


def make(space: SearchSpace, config: StudyConfig) -> TransferSampler:
    """Make the sampler with the kernels of the study `source`."""
    from esnac_lib.samplers.source_kernels import source_kernels

    kernels = source_kernels(config.source, config.K, space.teacher)
    return TransferSampler(space, config.seed, kernels, config.acquisition, config.candidates)


def check(config: StudyConfig) -> Iterator[str]:
    """Refuse local candidates."""
    if config.acquisition == "local":
        given = "acquisition = 'local' with sampler = 'transfer'"
        yield f"{given}: it has no observed students to stay near to; 'random' and 'evolution' are allowed"


ENTRY = SamplerEntry(
    "transfer", "kernel transfer", "#E69F00", make, check, uses=frozenset({"source"}),
    variants=(),  # it needs a source, so it is not comparable with searches that start from nothing
)  # fmt: skip
