"""ESNAC's sampler: K kernels on learned embeddings, each proposing one student a step (ESNAC Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esnac_lib.config.comparison import DASHED, ONE_BY_ONE, Variant
from esnac_lib.config.study import PRESETS, StudyConfig
from esnac_lib.objective import OBJECTIVES, PAPERS, Objective
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry, SeededSampler
from esnac_lib.samplers.width_scaling import first_proposals
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.candidates import Candidate, CandidateMaker
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

if TYPE_CHECKING:  # PyTorch is loaded by the first kernel: the registry of samplers has to do without it
    from esnac_lib.surrogate.fitting import KernelSettings
    from esnac_lib.surrogate.kernel import Kernel
    from esnac_lib.surrogate.maximisers import Score
    from esnac_lib.surrogate.targets import ObjectiveTarget

PARENTS = 10  # of the best observed, from which evolution starts, and near which local candidates are


class KernelSampler(SeededSampler):
    """What the samplers have in common whose proposals have the highest expected improvement by a kernel."""

    acquisition: str  # how it is maximised: by "random" sampling, "evolution" (ESNAC §6.3) or "local" changes
    candidates: int  # architectures scored for one proposal

    def __post_init__(self) -> None:
        self._maker = CandidateMaker(self.space)
        self._known = [Candidate.of(self.space.teacher)]  # and those of the observations

    def tell(self, trials: Sequence[Observation]) -> None:
        """Add finished trials to the observations."""
        super().tell(trials)
        self._known.extend(Candidate.of(trial.architecture) for trial in trials)

    def _maximise(
        self, scores: Iterable[tuple[int, Score]], purpose: str, start: Sequence[Decisions] = ()
    ) -> list[Proposal]:
        """Return the best by each kernel's score, all different; fewer when the space is exhausted.

        start: decisions of the best observed, from which evolution starts and near which "local" candidates are.
        """
        from esnac_lib.surrogate.maximisers import MAXIMISERS, uncollected

        proposals: list[Proposal] = []
        forbidden = [*self._known]
        with uncollected():
            for index, (kernel, score) in enumerate(scores):
                rng = make_rng(self.seed, purpose, len(self.observations), index)
                given = self.space, self._maker, score, forbidden, self.candidates, rng
                found = MAXIMISERS[self.acquisition](*given, start=start)
                if found is None:
                    break
                forbidden.append(self._maker.make(found.decisions))
                architecture = self.space.apply(found.decisions)
                proposals.append(Proposal(found.decisions, architecture, kernel, found.mean, found.variance, found.ei))
        return proposals


@dataclass(eq=False)
class EsnacSampler(KernelSampler):
    """Bayesian optimisation over a search space."""

    settings: KernelSettings | None = None  # how kernels are learned; None for the defaults
    acquisition: str = "random"
    candidates: int = 1000
    device: str = "cpu"  # on which kernels are learned and predict; all draws are the CPU's, whatever it is
    first: str = "random"  # students of the first step, as in Algorithm 1, or "narrowed" teachers of different widths
    surrogate: str = "f"  # what kernels are learned on, as in the paper, or the "accuracy" in it (`surrogate.targets`)
    objective: Objective = PAPERS

    def ask(self, n: int) -> list[Proposal]:
        """Return up to n proposals, one a kernel; before anything is observed those of the first step."""
        if all(trial.f is None for trial in self.observations):
            return first_proposals(self.first, self.space, self.seed, self.observations, n)
        return self.propose(self.kernels(n))

    def kernels(self, n: int) -> list[Kernel]:
        """Learn n kernels on all observations, as the next `ask` would.

        Each is fresh and on its own random subset of the observations and the teacher (f = 0), as in the authors' code.
        """
        from esnac_lib.surrogate.fitting import KernelSettings
        from esnac_lib.surrogate.kernel import choose_subset, learn_kernels

        step, settings, target = len(self.observations), self.settings or KernelSettings(), self._target()
        encodings = [candidate.encode(settings.max_edge) for candidate in target.observed]
        subsets = [
            choose_subset(len(encodings), make_rng(self.seed, "kernel-subset", step, k), settings.subset_probability)
            for k in range(n)
        ]
        seeds = [derive_seed(self.seed, "kernel", step, k) for k in range(n)]
        return learn_kernels(encodings, target.targets, subsets, settings, seeds, self.device)

    def propose(self, kernels: Sequence[Kernel]) -> list[Proposal]:
        """Return one proposal of each kernel, in their order, all different; fewer when the space is exhausted."""
        from esnac_lib.surrogate.maximisers import scorer

        target = self._target()
        observed = [trial for trial in self.observations if trial.f is not None]
        best = sorted(observed, key=lambda trial: -(trial.f or 0.0))[:PARENTS]
        scores = ((k, scorer(kernel, target)) for k, kernel in enumerate(kernels))
        return self._maximise(scores, "candidates", [trial.decisions for trial in best])

    def _target(self) -> ObjectiveTarget:
        """Return that of the teacher (f = 0) and all observations with an f."""
        from esnac_lib.surrogate.targets import TARGETS

        f = [0.0, *(trial.f for trial in self.observations)]
        known = [(candidate, value) for candidate, value in zip(self._known, f, strict=True) if value is not None]
        candidates, values = zip(*known, strict=True)
        return TARGETS[self.surrogate](candidates, values, self.objective)


def make(space: SearchSpace, config: StudyConfig) -> EsnacSampler:
    """Make the sampler that a study's parameters ask for."""
    from esnac_lib.surrogate.fitting import KernelSettings

    settings = KernelSettings(objective=config.kernel_loss, subset_probability=config.subset)
    first, target, objective = config.first, config.surrogate, OBJECTIVES[config.objective]
    return EsnacSampler(
        space, config.seed, settings, config.acquisition, config.candidates, "cpu", first, target, objective
    )


def _ours(name: str, label: str, changes: Mapping[str, Any], colour: str = "", dashed: bool = False) -> Variant:
    """Return a variant of the preset "ours"."""
    return Variant(name, label, {**PRESETS["ours"], **changes}, colour, DASHED if dashed else "", beyond_the_paper=True)


ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#8C8C8C"
ENTRY = SamplerEntry(
    "esnac", "ESNAC", "#D55E00", make, uses=frozenset({"first", "surrogate"}), marker="*",
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
)  # fmt: skip
