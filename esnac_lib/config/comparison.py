"""The parameters of sampler_comparison.ipynb: who is compared, and on how much. Nothing here needs PyTorch.

Who can be compared is in the registry of samplers: each declares the variants in which it takes part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import known_names, names_in, option
from esnac_lib.config.experiment import Changes, ExperimentConfig
from esnac_lib.config.registry import registry
from esnac_lib.config.study import StudyConfig

REFERENCE = "random"  # the variant whose best f the others are compared with
PROXY = "proxy"
Linestyle = str | tuple[int, tuple[int, ...]]
DASHED: Linestyle = (0, (4, 2))

ONE_BY_ONE = {"K": 1}  # a sampler observes each student before it proposes the next: the best terms it can have


@dataclass(frozen=True)
class Variant:
    """A sampler as it takes part in a comparison of samplers."""

    name: str  # what `ComparisonConfig.compared` calls it; also part of its studies' names
    label: str  # in tables and figures
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the base study's parameters
    colour: str = ""  # of its curve; empty: the sampler's
    linestyle: Linestyle = ""  # the same, as matplotlib understands it
    beyond_the_paper: bool = False  # more than what the papers published
    sampler: str = ""  # this and the following are the sampler's own, which its entry fills in
    marker: str = ""
    searches: bool = True


def sampler_variants() -> dict[str, Variant]:
    """Return what can be compared, by name: what was published first, each in the order of the registry."""
    variants = [variant for entry in registry("sampler").values() for variant in entry.compared]
    return {variant.name: variant for variant in sorted(variants, key=lambda variant: variant.beyond_the_paper)}


class ComparisonConfig(ExperimentConfig):
    """All samplers on one problem, each with `K` * `steps` evaluations and `runs` seeds."""

    varied: ClassVar[tuple[str, ...]] = (
        "preset", "sampler", "source", "sampling", "first", "surrogate", "acquisition", "subset",
    )  # fmt: skip

    study: fields.Study = "comparison"
    compared: str = option(
        "narrow,random,evolution,tpe,tpe_multivariate,n2n,esnac_k1,esnac_k8,esnac_ours_k8", "names, or all"
    )
    K: fields.Kernels = 3
    steps: fields.Steps = 2
    candidates: fields.Candidates = 20
    search_images: fields.SearchImages = 200
    sizes: int = option(3, "sizes without a search: width scaling and magnitude pruning", ge=1)
    proxy_students: int = option(5, "students trained to the end, to evaluate search f; 0: none", ge=0)
    proxy_epochs: int = option(3, "epochs of their search training", ge=1)
    splits: int = option(1, "divisions into seen and unseen for comparing surrogates", ge=1)
    runs: fields.Runs = 2

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Who is compared, in the order of `sampler_variants`."""
        asked = self.compared.split(",")
        return tuple(name for name in sampler_variants() if name in asked or asked == ["all"])

    def variants(self) -> dict[str, Changes]:
        """Return who is compared, and what each changes of the base study."""
        known, found = sampler_variants(), dict[str, Changes]()
        for name in self.compared_names:
            changes = {"sampler": known[name].sampler, **known[name].changes}
            if not known[name].searches:
                changes |= {"K": self.sizes, "steps": 1}
            elif changes.get("K") == 1:
                changes |= {"steps": self.num_evaluations}
            found[name] = changes
        return found

    def studies(self) -> list[StudyConfig]:
        """Return all samplers seed by seed; after the first seed the study that says what search f is worth."""
        studies = super().studies()
        if self.proxy_students:
            studies.insert(len(self.compared_names), self.proxy_study())
        return studies

    def proxy_study(self) -> StudyConfig:
        """Return a study of random students with a longer search training, all of them then trained to the end."""
        base = {name: value for name, value in self.to_dict().items() if name in StudyConfig.model_fields}
        changes: dict[str, Any] = {"sampler": "random", "sampling": "mild", "K": self.proxy_students, "steps": 1}
        changes |= {"epochs": self.proxy_epochs, "final": "validated", "top": self.proxy_students, "baseline": False}
        return StudyConfig.from_dict(base | changes | {"study": self.study_name(PROXY, 0)})

    @field_validator("compared")
    @classmethod
    def _check_compared(cls, value: str) -> str:
        if names_in(value) == ("all",):
            return "all"
        known = sampler_variants()
        names = known_names("compared", value, known, [f"all or some of {', '.join(known)}"])
        if REFERENCE not in names:
            raise ValueError(f"compared = {value!r}: {REFERENCE!r} must be among them: the others are compared with it")
        return ",".join(names)

    def _conflicts(self) -> Iterator[str]:
        if self.proxy_students and not self.final_epochs:
            yield "final_epochs = 0: the proxy's students need a final training, or proxy_students = 0"
        else:
            yield from super()._conflicts()
