"""Kernels learned in another study propose here, and nothing is learned (ESNAC §4.3)."""

from __future__ import annotations

from collections.abc import Sequence

from esnac_lib.errors import DataError
from esnac_lib.samplers.base import Observation, Proposal
from esnac_lib.seeding import make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.kernel import Kernel
from esnac_lib.surrogate.kernel_storage import check_readable
from esnac_lib.surrogate.maximisers import maximise_by_evolution, maximise_by_sampling, scorer, uncollected


class TransferSampler:
    """Each kernel in turn proposes the member of this space of highest expected improvement over its own best f.

    kernels: with the observations of their source, on which the posterior stays conditioned; what is told here is only
    not proposed again. acquisition, candidates: as of `EsnacSampler`.

    Raises DataError, in one line, if there is no kernel or one cannot read the layers of this space's teacher.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        kernels: Sequence[Kernel],
        acquisition: str = "random",
        candidates: int = 1000,
    ) -> None:
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
        """Up to n proposals, by the first n kernels; more than there are kernels start with the first one again."""
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

    def _propose(self, index: int, beside: Sequence[Candidate]) -> Proposal | None:
        k = index % len(self.kernels)
        rng = make_rng(self.seed, "transfer-candidates", self._observations, index)
        maximise = maximise_by_sampling if self.acquisition == "random" else maximise_by_evolution
        forbidden = [*self._forbidden, *beside]
        found = maximise(self.space, self._maker, scorer(self.kernels[k]), forbidden, self.candidates, rng)
        if found is None:
            return None
        architecture = self.space.apply(found.decisions)
        return Proposal(found.decisions, architecture, k, found.mean, found.variance, found.ei)
