"""The parameters of the ESNAC paper's experiments other than Table 1: one class for each notebook.

Defaults are smoke-sized studies on digits; the paper's protocols are in params/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import fault_of, known_names, names_in, option, whole_numbers
from esnac_lib.config.experiment import Changes, ExperimentConfig, Tables
from esnac_lib.config.registry import registry
from esnac_lib.config.study import StudyConfig

ALL = "remove,shrink,skip"
WITHOUT_SKIPS = "remove,shrink"
PARTS = ("kernels", "operators", "acquisition", "objective")


class AblationsConfig(ExperimentConfig):
    """Tables 4, 5, 6 and 8: what each part of the search is worth, at one number of evaluations.

    The base study is ESNAC with K kernels, all operators, the posterior objective and random sampling; every variant
    changes one of them. A variant that stands in several tables is run once.
    """

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source", "operators", "kernel_loss", "acquisition")

    study: fields.Study = "ablations"
    kernels: fields.KernelCounts = "1,2,4"
    parts: str = option(",".join(PARTS), "what to ablate, with commas")
    observations: str = option(
        "10,40,50,60", "numbers of observations to show the marginal objective's numerics at, with commas"
    )

    @property
    def part_names(self) -> tuple[str, ...]:
        """Parts to ablate, in the order of the paper's tables."""
        return tuple(name for name in PARTS if name in names_in(self.parts))

    def variants(self) -> dict[str, Changes]:
        """Return one study a setting, "K<number>" for those that only differ in their number of kernels."""
        settings: dict[str, Changes] = {
            "remove": {"operators": "remove"},
            "remove_shrink": {"operators": WITHOUT_SKIPS},
            "evolution_K1": {"acquisition": "evolution", **self._kernels(1)},
            f"evolution_K{self.K}": {"acquisition": "evolution"},
            "marginal": {"kernel_loss": "marginal"},
            "euclidean": {"kernel_loss": "euclidean"},
        }
        settings |= {f"K{count}": self._kernels(count) for count in (1, self.K, *self._counts())}
        wanted = dict.fromkeys(variant for rows in self.tables().values() for variant in rows.values())
        return {variant: settings[variant] for variant in wanted}

    def tables(self) -> Tables:
        """Return one table for each part."""
        base = f"K{self.K}"
        tables: Tables = {
            "kernels": {f"K = {count}": f"K{count}" for count in self._counts()},
            "operators": {"removal only": "remove", "removal + shrinkage": "remove_shrink", "all three": base},
            "acquisition": {
                **{f"random sampling, K = {count}": f"K{count}" for count in (1, self.K)},
                **{f"evolution, K = {count}": f"evolution_K{count}" for count in (1, self.K)},
            },
            "objective": {"euclidean": "euclidean", "marginal": "marginal", "posterior": base},
        }
        return {part: tables[part] for part in self.part_names}

    @property
    def observation_counts(self) -> tuple[int, ...]:
        """Numbers of observations for the marginal objective's numerics."""
        return whole_numbers("observations", self.observations)

    @property
    def maximiser_counts(self) -> tuple[int, ...]:
        """Numbers of observations at which both maximisers get the same kernels: a quarter of all, half and all."""
        return tuple(sorted({max(1, self.num_evaluations // part) for part in (4, 2, 1)}))

    def _kernels(self, count: int) -> Changes:
        return {"K": count, "steps": self.num_evaluations // count}

    def _counts(self) -> tuple[int, ...]:
        return whole_numbers("kernels", self.kernels)

    @field_validator("parts")
    @classmethod
    def _check_parts(cls, value: str) -> str:
        known_names("parts", value, PARTS)
        return value

    def _conflicts(self) -> Iterator[str]:
        wrong = [*fault_of(self._counts)]
        wrong += fault_of(lambda: self.observation_counts)
        if not wrong and (odd := [count for count in self._counts() if self.num_evaluations % count]):
            allowed = f"numbers that divide K * steps = {self.num_evaluations} evaluations are"
            wrong.append(f"kernels = {self.kernels!r}: {', '.join(map(str, odd))} is not allowed; {allowed}")
        yield from wrong or super()._conflicts()


class ShufflenetConfig(ExperimentConfig):
    """Table 2: students of several teachers, compared with the original ShuffleNets of about their size.

    The originals get the students' final training, from scratch; with originals_recipe = "teacher" that of a teacher,
    whose learning rate suits a training from scratch better.
    """

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source", "teacher")

    study: fields.Study = "shufflenet_comparison"
    final: Literal["validated", "paper"] = option("validated", "form of the final training")
    top: fields.Top = 1
    teachers: str = option("cnn4,conv7_half", "networks to compress, with commas")
    originals: str = option("shufflenet_0.5x_g1,shufflenet_0.5x_g8", "networks to train as they are, with commas")
    originals_recipe: Literal["final", "teacher"] = option("final", "how the originals are trained, on all images")

    def variants(self) -> dict[str, Changes]:
        """Return one study a teacher."""
        return {teacher: {"teacher": teacher} for teacher in names_in(self.teachers)}

    def tables(self) -> Tables:
        """Return the students of each teacher as one table."""
        return {"students": {f"ESNAC from {teacher}": teacher for teacher in names_in(self.teachers)}}

    def original_studies(self) -> list[StudyConfig]:
        """Return for each original and run a study whose reference teacher it is, trained by `originals_recipe`."""
        final = {"teacher_epochs": self.final_epochs, "teacher_lr": self.final_lr}
        trained = {} if self.originals_recipe == "teacher" else final
        originals, runs = names_in(self.originals), range(self.runs)
        return [self._study(name, {"teacher": name, **trained}, run) for run in runs for name in originals]

    @field_validator("teachers", "originals")
    @classmethod
    def _check_networks(cls, value: str, info: ValidationInfo) -> str:
        known_names(info.field_name or "", value, registry("teacher"))
        return value

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if both := set(names_in(self.teachers)) & set(names_in(self.originals)):
            yield f"originals = {self.originals!r}: {', '.join(map(repr, sorted(both)))} is among the teachers, too"
        yield from fault_of(self.original_studies)


class TransferConfig(ExperimentConfig):
    """Table 3: kernels learned in the base study propose for other teachers and data sets, and learn nothing there."""

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source")

    study: fields.Study = "kernel_transfer"
    targets: str = option("conv7_half@digits,resnet20_s2@digits", "<teacher>@<data set> to transfer to, with commas")
    kernels: fields.KernelCounts = "1,4"

    def variants(self) -> dict[str, Changes]:
        """Return the source, and for each target its kernels by each number of them, N2N and ESNAC directly."""
        found: dict[str, Changes] = {"source": {}}
        for name, place in self._places().items():
            for count in self._counts():
                transfer = {"sampler": "transfer", "source": "source", "K": count, "steps": 1}
                found[f"{name}_transfer_K{count}"] = {**place, **transfer, "top": min(self.top, count)}
            found[f"{name}_n2n"] = {**place, "sampler": "n2n", "operators": WITHOUT_SKIPS}
            found[f"{name}_esnac"] = place
        return found

    def tables(self) -> Tables:
        """Return one table for each target, by its name in `targets`."""
        tables: Tables = {}
        for target, name in zip(names_in(self.targets), self._places(), strict=True):
            rows = {f"transferred kernels, K = {count}": f"{name}_transfer_K{count}" for count in self._counts()}
            tables[target] = {**rows, "N2N, direct": f"{name}_n2n", "ESNAC, direct": f"{name}_esnac"}
        return tables

    def _places(self) -> dict[str, Changes]:
        places = (target.partition("@") for target in names_in(self.targets))
        return {f"{teacher}_{dataset}": {"teacher": teacher, "dataset": dataset} for teacher, _, dataset in places}

    def _counts(self) -> tuple[int, ...]:
        return whole_numbers("kernels", self.kernels)

    def _conflicts(self) -> Iterator[str]:
        wrong = [*fault_of(self._counts)]
        if odd := ", ".join(repr(target) for target in names_in(self.targets) if target.count("@") != 1):
            wrong.append(f"targets = {self.targets!r}: {odd} is not of the form <teacher>@<data set>")
        yield from wrong or super()._conflicts()


class TpeConfig(ExperimentConfig):
    """Table 7: TPE in the original space, one hyperparameter a decision, with and without skip connections."""

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source", "operators")

    study: fields.Study = "tpe_baseline"
    steps: fields.Steps = 4
    candidates: fields.Candidates = 20

    def variants(self) -> dict[str, Changes]:
        """Return three samplers, each in both spaces."""
        return {
            f"{sampler}_{space}": {"sampler": sampler, "operators": operators}
            for space, operators in {"removal_shrink": WITHOUT_SKIPS, "all": ALL}.items()
            for sampler in ("tpe", "tpe_multivariate", "esnac")
        }

    def tables(self) -> Tables:
        """Return one table for each space."""
        labels = {"tpe": "TPE, univariate", "tpe_multivariate": "TPE, Optuna's default", "esnac": "ESNAC"}
        spaces = {"removal + shrinkage": "removal_shrink", "all three operators": "all"}
        return {title: {label: f"{name}_{space}" for name, label in labels.items()} for title, space in spaces.items()}


class N2nConfig(ExperimentConfig):
    """N2N (Ashok et al., 2018) as the paper's Table 1 quotes it, here on the same objective, trainer and budget."""

    varied: ClassVar[tuple[str, ...]] = ("sampler", "source", "operators")

    study: fields.Study = "n2n_baseline"
    steps: fields.Steps = 3
    candidates: fields.Candidates = 20

    def variants(self) -> dict[str, Changes]:
        """Return N2N and ESNAC in the spaces of N2N, and random search and ESNAC in the full one."""
        return {
            "n2n_removal": {"sampler": "n2n", "operators": "remove"},
            "esnac_removal": {"operators": "remove"},
            "n2n": {"sampler": "n2n", "operators": WITHOUT_SKIPS},
            "esnac_removal_shrink": {"operators": WITHOUT_SKIPS},
            "random": {"sampler": "random"},
            "esnac": {},
        }

    def tables(self) -> Tables:
        """Return one table for each space."""
        return {
            "removal only": {"N2N, stage 1 alone": "n2n_removal", "ESNAC": "esnac_removal"},
            "removal + shrinkage": {"N2N, both stages": "n2n", "ESNAC": "esnac_removal_shrink"},
            "all three operators": {"random search": "random", "ESNAC": "esnac"},
        }
