"""The parameters of experiments: those of a base study, and what its variants change. Loads without PyTorch.

config = ExperimentConfig.from_notebook(globals())    # or a subclass, one for each notebook
config.variants()                                     # {"K1": {"K": 1, "steps": 8}, ...}: what each one changes
config.studies()                                      # all studies, in the order in which they run
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from esnac_lib.config import fields
from esnac_lib.config.base import fault_of
from esnac_lib.config.study import StudyConfig

Changes = Mapping[str, Any]
Tables = dict[str, dict[str, str]]
"""By title of a table, the variants in it by their labels."""


class ExperimentConfig(StudyConfig):
    """Parameters of a base study, how often it is repeated, and (in a subclass) the variants that are compared.

    The experiment lives in `<outputs>/<study>`, and each of its studies in `<outputs>/<study>/<variant>_seed<n>`. Run r
    of every variant has the seed `seed` + r: what is compared has the same teacher, images and batches.
    """

    varied: ClassVar[tuple[str, ...]] = ()  # parameters that the variants set, and that can therefore not be given

    study: fields.Study = "experiment"
    steps: fields.Steps = 2
    candidates: fields.Candidates = 40
    epochs: fields.Epochs = 2
    search_images: fields.SearchImages = 400
    teacher_epochs: fields.TeacherEpochs = 4
    final: fields.Final = "none"
    final_epochs: fields.FinalEpochs = 3
    baseline: fields.Baseline = False
    runs: fields.Runs = 1

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the preset sets. What the variants set themselves it leaves alone."""
        values = super().preset_values(given)
        return {name: value for name, value in values.items() if name not in cls.varied}

    def variants(self) -> dict[str, Changes]:
        """Return each variant's name, a part of its folder's, and the parameters of the base study that it changes.

        `source`, of a variant whose kernels come from another, is that variant's name.
        """
        return {"base": {}}

    def tables(self) -> Tables:
        """Return which variants are compared with each other."""
        return {"variants": {variant: variant for variant in self.variants()}}

    def study_name(self, variant: str, run: int) -> str:
        """Return the name of one study, and of its folder in outputs."""
        return f"{self.study}/{variant}_seed{self.seed + run}"

    def studies(self) -> list[StudyConfig]:
        """Return the studies run by run, so that an unfinished experiment has runs of every variant."""
        variants = self.variants().items()
        return [self._study(variant, changes, run) for run in range(self.runs) for variant, changes in variants]

    def _study(self, variant: str, changes: Changes, run: int) -> StudyConfig:
        values = {name: value for name, value in self.to_dict().items() if name in StudyConfig.model_fields}
        preset = self.preset_values(values)  # left out of the base: what it sets depends on the variant's sampler
        base = {name: value for name, value in values.items() if name not in preset or preset[name] != value}
        own = {"study": self.study_name(variant, run), "seed": self.seed + run}
        if changes.get("source"):
            own["source"] = self.study_name(changes["source"], run)
        return StudyConfig.from_dict(base | dict(changes) | own)

    def study_names(self, variant: str) -> list[str]:
        """Return the names of a variant's studies, one a run, whether they have been run or not."""
        return [self.study_name(variant, run) for run in range(self.runs)]

    def _conflicts(self) -> Iterator[str]:
        if "/" in self.study:
            yield f"study = {self.study!r}: the name of an experiment has no '/'"
        for name in self.varied:
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                given = f"{name} = {getattr(self, name)!r}"
                yield f"{given}: this experiment varies {name!r} by itself; leave it {default!r}"
        yield from fault_of(self.studies)  # the first that has one
