"""The parameters of notebooks/sampler_comparison.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from esnac_lib.config import fields
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

    varied: ClassVar[tuple[str, ...]] = (
        "preset", "sampler", "source", "sampling", "first", "surrogate", "acquisition", "subset",
    )  # fmt: skip

    study: fields.Study = "comparison"
    compared: str = Field(
        default="narrow,random,evolution,tpe,tpe_multivariate,n2n,esnac_k1,esnac_k8,esnac_ours_k8",
        description="names, or all",
    )
    K: fields.Kernels = 3
    steps: fields.Steps = 2
    candidates: fields.Candidates = 20
    search_images: fields.SearchImages = 200
    sizes: int = Field(default=3, ge=1, description="sizes without a search: width scaling and magnitude pruning")
    proxy_students: int = Field(
        default=5, ge=0, description="students trained to the end, to evaluate search f; 0: none"
    )
    proxy_epochs: int = Field(default=3, ge=1, description="epochs of their search training")
    splits: int = Field(default=1, ge=1, description="divisions into seen and unseen for comparing surrogates")
    runs: fields.Runs = 2

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Samplers to compare, in the order of `COMPARED`."""
        asked = self.compared.split(",")
        return tuple(name for name in COMPARED if name in asked or asked == ["all"])

    def variants(self) -> dict[str, Changes]:
        """Return the samplers to compare, and what each changes of the base study."""
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
        """Return the studies seed by seed; those of the first seed are followed by the one that evaluates search f."""
        studies = super().studies()
        if self.proxy_students:
            studies.insert(len(self.compared_names), self.proxy_study())
        return studies

    def proxy_study(self) -> StudyConfig:
        """Return a study of random students with longer search training, all of which go into final training."""
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
