"""The parameters of sampler_comparison.ipynb: who is compared, and on how much. Nothing here needs PyTorch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from esnac_lib.config.experiment import Changes, ExperimentConfig
from esnac_lib.config.registry import nearest
from esnac_lib.config.study import PRESETS, StudyConfig
from esnac_lib.errors import ConfigError

ONE_BY_ONE = {"K": 1}
"""Asked for one student a step, a sampler hears of each before the next: the best terms it can have."""

COMPARED: dict[str, Changes] = {
    "narrow": {"sampler": "narrow"},
    "random": {"sampler": "random"},
    "evolution": {"sampler": "evolution", **ONE_BY_ONE},
    "tpe": {"sampler": "tpe", **ONE_BY_ONE},
    "tpe_multivariate": {"sampler": "tpe_multivariate", **ONE_BY_ONE},
    "n2n": {"sampler": "n2n", **ONE_BY_ONE},
    "esnac_k1": {"sampler": "esnac", **PRESETS["paper"], **ONE_BY_ONE},
    "esnac_k8": {"sampler": "esnac", **PRESETS["paper"]},
    "random_mild": {"sampler": "random", "sampling": "mild"},
    "evolution_mild": {"sampler": "evolution", "sampling": "mild", **ONE_BY_ONE},
    "evolution_narrowed": {"sampler": "evolution", "sampling": "mild", "first": "narrowed", **ONE_BY_ONE},
    "esnac_ours_f_k8": {"sampler": "esnac", **PRESETS["ours"], "surrogate": "f"},
    "esnac_ours_evolution_k8": {"sampler": "esnac", **PRESETS["ours"], "acquisition": "evolution"},
    "esnac_ours_random_k8": {"sampler": "esnac", **PRESETS["ours"], "first": "random"},
    "esnac_ours_half_k8": {"sampler": "esnac", **PRESETS["ours"], "subset": 0.5},
    "esnac_ours_k1": {"sampler": "esnac", **PRESETS["ours"], **ONE_BY_ONE},
    "esnac_ours_k8": {"sampler": "esnac", **PRESETS["ours"]},
}
"""What can be compared, and what each changes of the base study."""
WITHOUT_A_SEARCH = "narrow"
PROXY = "proxy"


class ComparisonConfig(ExperimentConfig):
    """All samplers on one problem, each with `K` * `steps` evaluations and `runs` seeds."""

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source", "sampling", "first", "surrogate", "acquisition", "subset")

    study: Annotated[str, Field(description="name of the comparison, and of its folder in outputs")] = "comparison"
    compared: Annotated[str, Field(description="names, or all")] = (
        "narrow,random,evolution,tpe,tpe_multivariate,n2n,esnac_k1,esnac_k8,esnac_ours_k8"
    )
    K: Annotated[int, Field(ge=1, description="students a step, for those who are not asked one by one")] = 3
    steps: Annotated[int, Field(ge=1, description="steps; K * steps students for each sampler and seed")] = 2
    candidates: Annotated[int, Field(ge=1, description="candidates a kernel looks at in a step")] = 20
    search_images: Annotated[int, Field(ge=0, description="images for search training; 0: the training split")] = 200
    sizes: Annotated[int, Field(ge=1, description="sizes without a search: width scaling and magnitude pruning")] = 3
    proxy_students: Annotated[
        int, Field(ge=0, description="students trained to the end, to see what search f is worth; 0: none")
    ] = 5
    proxy_epochs: Annotated[int, Field(ge=1, description="epochs of their search training")] = 3
    splits: Annotated[int, Field(ge=1, description="divisions into seen and unseen for comparing surrogates")] = 1
    runs: Annotated[int, Field(ge=1, description="runs of each sampler, with the seeds seed, seed + 1, ...")] = 2

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Who is compared, in the order of `COMPARED`."""
        asked = self.compared.split(",")
        return tuple(name for name in COMPARED if name in asked or asked == ["all"])

    def variants(self) -> dict[str, Changes]:
        """Who is compared, and what each changes of the base study."""
        found: dict[str, Changes] = {}
        for name in self.compared_names:
            changes = dict(COMPARED[name])
            if name == WITHOUT_A_SEARCH:
                changes |= {"K": self.sizes, "steps": 1}
            elif changes.get("K") == 1:
                changes |= {"steps": self.num_evaluations}
            found[name] = changes
        return found

    def studies(self) -> list[StudyConfig]:
        """Seed by seed, all samplers; after the first seed's the study that says what search f is worth."""
        studies = super().studies()
        if self.proxy_students:
            studies.insert(len(self.compared_names), self.proxy_study())
        return studies

    def proxy_study(self) -> StudyConfig:
        """Random students, searched for longer, then every one of them trained to the end and judged on validation."""
        base = {name: value for name, value in self.to_dict().items() if name in StudyConfig.model_fields}
        changes: dict[str, Any] = {"sampler": "random", "sampling": "mild", "K": self.proxy_students, "steps": 1}
        changes |= {"epochs": self.proxy_epochs, "final": "validated", "top": self.proxy_students, "baseline": False}
        return StudyConfig.from_dict(base | changes | {"study": self.study_name(PROXY, 0)})

    @field_validator("compared")
    @classmethod
    def _check_compared(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if names == ["all"]:
            return "all"
        for name in names:
            if name not in COMPARED:
                allowed = f"allowed are all or some of {', '.join(COMPARED)}; did you mean {nearest(name, COMPARED)!r}?"
                raise ValueError(f"compared = {value!r}: {name!r} is unknown: {allowed}")
        if "random" not in names:
            raise ValueError(f"compared = {value!r}: 'random' must be among them, whose best the others are held to")
        return ",".join(names)

    def _check_together(self) -> ComparisonConfig:
        if self.proxy_students and not self.final_epochs:
            raise ConfigError("final_epochs = 0: the proxy's students need a final training, or proxy_students = 0")
        super()._check_together()
        return self
