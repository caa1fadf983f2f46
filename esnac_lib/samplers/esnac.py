"""ESNAC's sampler: K kernels on learned embeddings, each proposing one student a step (ESNAC Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esnac_lib.config.comparison import DASHED, ONE_BY_ONE, Variant
from esnac_lib.config.study import PRESETS, StudyConfig
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry
from esnac_lib.samplers.width_scaling import first_proposals
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:  # PyTorch is loaded by the first kernel: the registry of samplers has to do without it
    from esnac_lib.surrogate.fitting import KernelSettings
    from esnac_lib.surrogate.kernel import Kernel
    from esnac_lib.surrogate.maximisers import Score, ScoredCandidate
    from esnac_lib.surrogate.targets import Surrogate

PARENTS = 10  # of the best observed, from which evolution starts, and near which local candidates are


class EsnacSampler:
    """Bayesian optimisation over a search space.

    Args:
        settings: How kernels are learned.
        acquisition: How expected improvement is maximised: by "random" sampling, by "evolution" (ESNAC §6.3) or among
            "local" changes of the best observed.
        candidates: Architectures scored for one proposal.
        device: On which kernels are learned and predict; all draws are the CPU's, whatever it is.
        first: The students of the first step, "random" as in Algorithm 1 or "narrowed" teachers of different widths,
            none of them far from what is good.
        surrogate: What kernels are learned on, "f" as in the paper or the "accuracy" in it (`surrogate.targets`).
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        settings: KernelSettings | None = None,
        acquisition: str = "random",
        candidates: int = 1000,
        device: str = "cpu",
        first: str = "random",
        surrogate: str = "f",
    ) -> None:
        from esnac_lib.surrogate.fitting import KernelSettings

        self.space = space
        self.seed = seed
        self.settings = settings or KernelSettings()
        self.acquisition = acquisition
        self.candidates = candidates
        self.device = device
        self.first = first
        self.surrogate = surrogate
        self._observations: list[Observation] = []
        self._candidates: list[Candidate] = []  # of the observations
        self._maker = CandidateMaker(space)
        self._teacher = Candidate.of(space.teacher)

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals, one a kernel; before anything is observed those of the first step."""
        if all(trial.f is None for trial in self._observations):
            return first_proposals(self.first, self.space, self.seed, self._observations, n)
        return self.propose(self.kernels(n))

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""
        self._observations.extend(trials)
        self._candidates.extend(Candidate.of(trial.architecture) for trial in trials)

    def kernels(self, n: int) -> list[Kernel]:
        """Learn n kernels on all observations, as the next `ask` would.

        Each is fresh and on its own random subset of the observations and the teacher (f = 0), as in the authors' code.
        """
        from esnac_lib.surrogate.kernel import choose_subset, learn_kernels

        step, settings, surrogate = len(self._observations), self.settings, self._surrogate()
        encodings = [outline.encode(settings.max_edge) for outline in surrogate.observed]
        subsets = [
            choose_subset(len(encodings), make_rng(self.seed, "kernel-subset", step, k), settings.subset_probability)
            for k in range(n)
        ]
        seeds = [derive_seed(self.seed, "kernel", step, k) for k in range(n)]
        return learn_kernels(encodings, surrogate.values, subsets, settings, seeds, self.device)

    def _surrogate(self) -> Surrogate:
        """Return that of the teacher and all observations with an f."""
        from esnac_lib.surrogate.targets import SURROGATES

        known = [(self._teacher, 0.0)]
        known += [
            (o, trial.f) for o, trial in zip(self._candidates, self._observations, strict=True) if trial.f is not None
        ]
        outlines, f = zip(*known, strict=True)
        return SURROGATES[self.surrogate](outlines, f)

    def propose(self, kernels: Sequence[Kernel]) -> list[Proposal]:
        """Return one proposal of each kernel, in their order, all different; fewer when the space is exhausted."""
        from esnac_lib.surrogate.maximisers import scorer, uncollected

        proposals: list[Proposal] = []
        forbidden, surrogate = [self._teacher, *self._candidates], self._surrogate()
        with uncollected():
            for k, kernel in enumerate(kernels):
                found = self._best(scorer(kernel, surrogate), k, forbidden)
                if found is None:
                    break
                forbidden.append(self._maker.make(found.decisions))
                architecture = self.space.apply(found.decisions)
                proposals.append(Proposal(found.decisions, architecture, k, found.mean, found.variance, found.ei))
        return proposals

    def _best(self, score: Score, k: int, forbidden: Sequence[Candidate]) -> ScoredCandidate | None:
        """Return the candidate that the k-th kernel proposes; None if there is no new architecture."""
        from esnac_lib.surrogate.maximisers import maximise_by_evolution, maximise_by_sampling, maximise_locally

        rng = make_rng(self.seed, "candidates", len(self._observations), k)
        given = self.space, self._maker, score, forbidden, self.candidates, rng
        if self.acquisition == "random":
            return maximise_by_sampling(*given)
        observed = [trial for trial in self._observations if trial.f is not None]
        best = sorted(observed, key=lambda trial: -(trial.f or 0.0))[:PARENTS]
        maximise = maximise_locally if self.acquisition == "local" else maximise_by_evolution
        return maximise(*given, start=[trial.decisions for trial in best])


def make(space: SearchSpace, config: StudyConfig) -> EsnacSampler:
    """Make the sampler that a study's parameters ask for."""
    from esnac_lib.surrogate.fitting import KernelSettings

    settings = KernelSettings(objective=config.kernel_loss, subset_probability=config.subset)
    return EsnacSampler(
        space,
        config.seed,
        settings,
        config.acquisition,
        config.candidates,
        first=config.first,
        surrogate=config.surrogate,
    )


def _ours(name: str, label: str, changes: Mapping[str, Any], colour: str = "", dashed: bool = False) -> Variant:
    """Return a variant of the preset "ours"."""
    return Variant(name, label, {**PRESETS["ours"], **changes}, colour, DASHED if dashed else "", beyond_the_paper=True)


ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#8C8C8C"
ENTRY = SamplerEntry(
    "esnac",
    "ESNAC",
    "#D55E00",
    make,
    uses=frozenset({"first", "surrogate"}),
    marker="*",
    variants=(
        Variant("esnac_k1", "ESNAC, K = 1", {**PRESETS["paper"], **ONE_BY_ONE}, ORANGE),
        Variant("esnac_k8", "ESNAC, K = 8", PRESETS["paper"]),
        _ours("esnac_ours_f_k8", "ours, but f is learned", {"surrogate": "f"}, SKY),
        _ours("esnac_ours_evolution_k8", "ours, but candidates evolve", {"acquisition": "evolution"}, SKY, dashed=True),
        _ours("esnac_ours_random_k8", "ours, but from random students", {"first": "random"}, GREY),
        _ours("esnac_ours_half_k8", "ours, but on half of the observed", {"subset": 0.5}, GREY, dashed=True),
        _ours("esnac_ours_k1", "ESNAC ours, K = 1", ONE_BY_ONE, ORANGE),
        _ours("esnac_ours_k8", "ESNAC ours, K = 8", {}),
    ),
)
