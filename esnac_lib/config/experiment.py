"""The parameters of experiments: those of a base study, and what its variants change. Nothing here needs PyTorch.

config = ExperimentConfig.from_notebook(globals())    # or a subclass, one for each notebook
config.variants()                                     # {"K1": {"K": 1, "steps": 8}, ...}: what each one changes
config.studies()                                      # all studies, in the order in which they run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError

Changes = Mapping[str, Any]
Tables = dict[str, dict[str, str]]
"""By title of a table, the variants in it by their labels."""


class ExperimentConfig(StudyConfig):
    """A base study, how often it is repeated, and (in a subclass) the variants of it that are compared.

    The experiment lives in `<outputs>/<study>`, and each of its studies in `<outputs>/<study>/<variant>_seed<n>`. Run r
    of every variant has the seed `seed` + r: what is compared has the same teacher, images and batches.

    varied: parameters that the variants set themselves and that can therefore not be given.
    """

    varied: ClassVar[tuple[str, ...]] = ()

    study: Annotated[str, Field(description="name of the experiment, and of its folder in outputs")] = "experiment"
    steps: Annotated[int, Field(ge=1, description="search steps; K * steps architectures are evaluated")] = 2
    candidates: Annotated[int, Field(ge=1, description="candidates a kernel looks at in a step")] = 40
    epochs: Annotated[int, Field(ge=1, description="epochs of search training")] = 2
    search_images: Annotated[int, Field(ge=0, description="images for search training; 0: the training split")] = 400
    teacher_epochs: Annotated[int, Field(ge=1, description="epochs of a teacher's training")] = 4
    final: Annotated[
        Literal["validated", "paper", "none"], Field(description="form of the final training (none: search only)")
    ] = "none"
    final_epochs: Annotated[int, Field(ge=0, description="epochs of final training")] = 3
    baseline: Annotated[bool, Field(description="also train the uniformly narrowed teacher")] = False
    runs: Annotated[int, Field(ge=1, description="runs of each variant, with the seeds seed, seed + 1, ...")] = 1

    def variants(self) -> dict[str, Changes]:
        """Each variant's name, which becomes part of a folder's, and the parameters of the base study it changes.

        `source`, of a variant whose kernels come from another, is that variant's name.
        """
        return {"base": {}}

    def tables(self) -> Tables:
        """Which variants are compared with each other."""
        return {"variants": {variant: variant for variant in self.variants()}}

    def study_name(self, variant: str, run: int) -> str:
        """The name of one study, and its folder in outputs."""
        return f"{self.study}/{variant}_seed{self.seed + run}"

    def studies(self) -> list[StudyConfig]:
        """Run by run, all variants of the first before those of the second: half-done, every variant has runs."""
        return [
            self._study(variant, changes, run)
            for run in range(self.runs)
            for variant, changes in self.variants().items()
        ]

    def _study(self, variant: str, changes: Changes, run: int) -> StudyConfig:
        base = {name: value for name, value in self.to_dict().items() if name in StudyConfig.model_fields}
        own = {"study": self.study_name(variant, run), "seed": self.seed + run}
        if changes.get("source"):
            own["source"] = self.study_name(changes["source"], run)
        return StudyConfig.from_dict(base | dict(changes) | own)

    def study_names(self, variant: str) -> list[str]:
        """The names of a variant's studies, one a run, whether they have been run or not."""
        return [self.study_name(variant, run) for run in range(self.runs)]

    def _check_together(self) -> ExperimentConfig:
        if "/" in self.study:
            raise ConfigError(f"study = {self.study!r}: the name of an experiment has no '/'")
        for name in self.varied:
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                given = f"{name} = {getattr(self, name)!r}"
                raise ConfigError(f"{given}: this experiment varies {name!r} by itself; leave it {default!r}")
        self.studies()  # raises the first error in any of them
        return self
