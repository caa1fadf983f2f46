"""Kernels learned in another study propose here, and nothing is learned (ESNAC §4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, DataError
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry
from esnac_lib.seeding import make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:  # PyTorch is loaded with the first kernel: the registry of samplers has to do without it
    from esnac_lib.surrogate.kernel import Kernel


class TransferSampler:
    """Each kernel in turn proposes the member of this space of highest expected improvement over its own best f.

    Args:
        kernels: With the observations of their source, on which the posterior stays conditioned; what is observed here
            is only not proposed again.
        acquisition: As of `EsnacSampler`, without "local".
        candidates: Architectures scored for one proposal.

    Raises:
        DataError: There is no kernel, or one cannot read the layers of this space's teacher.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        kernels: Sequence[Kernel],
        acquisition: str = "random",
        candidates: int = 1000,
    ) -> None:
        from esnac_lib.surrogate.kernel_storage import check_readable

        if not kernels:
            raise DataError("there is no kernel to propose with: at least one is needed")
        for k, kernel in enumerate(kernels):
            check_readable(kernel, space.teacher, f"kernel {k}")
        self.space = space
        self.seed = seed
        self.kernels = list(kernels)
        self.acquisition = acquisition
        self.candidates = candidates
        self._maker = CandidateMaker(space)
        self._forbidden = [Candidate.of(space.teacher)]
        self._observations = 0

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals, by the first n kernels; beyond their number the first one is next again."""
        from esnac_lib.surrogate.maximisers import uncollected

        proposals: list[Proposal] = []
        with uncollected():
            for index in range(n):
                proposal = self._propose(index, [Candidate.of(other.architecture) for other in proposals])
                if proposal is None:
                    break
                proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Observation]) -> None:
        """Remember what has been proposed."""
        self._observations += len(trials)
        self._forbidden.extend(Candidate.of(trial.architecture) for trial in trials)

    def _propose(self, index: int, others: Sequence[Candidate]) -> Proposal | None:
        from esnac_lib.surrogate.maximisers import maximise_by_evolution, maximise_by_sampling, scorer

        k = index % len(self.kernels)
        rng = make_rng(self.seed, "transfer-candidates", self._observations, index)
        maximise = maximise_by_sampling if self.acquisition == "random" else maximise_by_evolution
        forbidden = [*self._forbidden, *others]
        found = maximise(self.space, self._maker, scorer(self.kernels[k]), forbidden, self.candidates, rng)
        if found is None:
            return None
        architecture = self.space.apply(found.decisions)
        return Proposal(found.decisions, architecture, k, found.mean, found.variance, found.ei)


def make(space: SearchSpace, config: StudyConfig) -> TransferSampler:
    """Make the sampler with the kernels of the study `source`."""
    from esnac_lib.samplers.source_kernels import source_kernels

    kernels = source_kernels(config.source, config.K, space.teacher)
    return TransferSampler(space, config.seed, kernels, config.acquisition, config.candidates)


def check(config: StudyConfig) -> None:
    """Refuse local candidates."""
    if config.acquisition == "local":
        raise ConfigError(
            "acquisition = 'local' with sampler = 'transfer': it has no observed students to stay near to; "
            "'random' and 'evolution' are allowed"
        )


ENTRY = SamplerEntry(
    "transfer",
    "kernel transfer",
    "#E69F00",
    make,
    check,
    uses=frozenset({"source"}),
    variants=(),  # it needs a source, so it is not comparable with searches that start from nothing
)
