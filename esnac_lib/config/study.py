"""The parameters of a study: flat, frozen, and checked in one line before PyTorch or pandas is loaded.

In a notebook:

    config = StudyConfig.from_notebook(globals())      # the cell after the one tagged `parameters`
    >>> k = 8
    ConfigError: unknown parameter 'k' (= 8): the nearest known one is 'K'; print(StudyConfig().describe()) lists all
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from esnac_lib.config import fields
from esnac_lib.config.base import OWN_IMAGES, FlatConfig, known_names, names_in, option, show, unknown_choice, upgraded
from esnac_lib.config.registry import registry

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"sampling": "paper", "first": "random", "surrogate": "f", "acquisition": "random", "subset": 0.5},
    "ours": {"sampling": "mild", "first": "narrowed", "surrogate": "accuracy", "acquisition": "local", "subset": 1.0},
}
"""How ESNAC searches, as published and as it did better (sampler_comparison.ipynb has the evidence)."""
AS_PUBLISHED: dict[str, Any] = {"keep": "first", "objective": "params"} | {
    name: value for name, value in PRESETS["paper"].items() if name != "acquisition"
}
"""Parameters that the ESNAC paper does not have, at the values that reproduce it. (Its Table 6 varies acquisition.)"""

RESULT_FREE = frozenset(
    {"preset", "device", "evaluator", "ray_address", "students_per_gpu", "data_root", "max_minutes"}
    | {"student_minutes", "compare_with"}
)
"""Parameters that no result depends on: they may change when a study is resumed. (`steps` may too.)

The preset is one of them: what it sets is compared by itself.
"""

_ONLY_FOR_FINAL_TRAINING = frozenset({"final_epochs", "final_lr", "top", "label_smoothing"})


class StudyConfig(FlatConfig):
    """All that defines a study. The defaults are a smoke-sized study on digits."""

    study: fields.Study = "digits"
    preset: fields.Preset = "paper"
    teacher: fields.Teacher = "cnn4"
    teacher_options: fields.TeacherOptions = ""
    teacher_weights: str = option("", "your own teacher's weights; empty: it is trained here")
    dataset: fields.Dataset = "digits"
    data_root: fields.DataRoot = ""
    normalise: str = option("", "mean/std a channel, as 0.5/0.2; empty: the images' own")
    image_channels: fields.ImageChannels = 0
    sampler: str = option("esnac", "method that proposes architectures")
    source: str = option("", "study whose kernels propose (sampler transfer), else empty")
    K: fields.Kernels = 4
    steps: fields.Steps = 4
    operators: str = option("remove,shrink,skip", "what a search may do, with commas")
    grouping: fields.Grouping = "dimension"
    keep: fields.Keep = "first"
    max_params: int = option(0, "parameters that a student may have; 0: no limit", ge=0)
    max_macs: fields.MaxMacs = 0
    objective: str = option("params", "size that f counts: params, or macs")
    min_accuracy: float = option(0.0, "least accuracy of the solution, a fraction; 0: any", ge=0, le=1)
    sampling: Literal["paper", "mild"] = option("paper", "how random students and candidates are drawn")
    first: Literal["random", "narrowed"] = option(
        "random", "the first students of ESNAC and evolution: random, or narrowed teachers"
    )
    surrogate: Literal["f", "accuracy"] = option("f", "regression target of ESNAC's kernels: f or accuracy")
    kernel_loss: Literal["posterior", "marginal", "euclidean"] = option(
        "posterior", "loss that an embedding is learned by"
    )
    acquisition: Literal["random", "evolution", "local"] = option("random", "how the expected improvement is maximised")
    candidates: fields.Candidates = 200
    subset: float = option(0.5, "share of the observations that each kernel learns from", gt=0, le=1)
    epochs: fields.Epochs = 8
    search_images: fields.SearchImages = 0
    batch_size: fields.BatchSize = 32
    validation: fields.Validation = 197
    augment: fields.Augment = True
    teacher_epochs: fields.TeacherEpochs = 12
    teacher_lr: float = option(0.1, "learning rate of a teacher's training", gt=0)
    final: fields.Final = "validated"
    final_epochs: fields.FinalEpochs = 15
    final_lr: fields.FinalLr = 0.05
    top: fields.Top = 2
    schedule: Literal["step", "one_cycle"] = option(
        "one_cycle", "learning rate schedule of teachers and final training"
    )
    label_smoothing: float = option(0.0, "label smoothing of the reference teacher and of final training", ge=0, lt=1)
    baseline: fields.Baseline = True
    seed: fields.Seed = 0
    device: fields.Device = "auto"
    evaluator: Literal["local", "ray"] = option("local", "train students in this process, or by Ray")
    ray_address: str = option("", "cluster to use (auto: the one of this machine); empty: start one")
    students_per_gpu: int = option(4, "students that share a GPU of a Ray cluster", ge=1)
    max_minutes: fields.MaxMinutes = 0.0
    student_minutes: float = option(0.0, "longest search training of a student; 0: no limit", ge=0)
    compare_with: fields.CompareWith = ""

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the config that a ledger stores. What it lacks is as in the paper: there were no presets then."""
        return cls.from_dict({"preset": "paper", **upgraded(stored)})

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the preset in `given` sets where nothing is given.

        A preset is about ESNAC, and other samplers with a surrogate. To the rest only its way to draw random students
        applies, and without the operator shrink there are no narrowed teachers to begin with.
        """
        preset, sampler, operators = (
            str(given.get(name, cls.model_fields[name].default)) for name in ("preset", "sampler", "operators")
        )
        chosen = PRESETS.get(preset, PRESETS["paper"])
        if "surrogate" not in getattr(registry("sampler").get(sampler), "uses", ()):
            return PRESETS["paper"] | {"sampling": chosen["sampling"]}
        return chosen if "shrink" in names_in(operators) else chosen | {"first": "random"}

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        return {**cls.preset_values(values), **values} if isinstance(values, dict) else values

    def preset_defaults(self) -> dict[str, Any]:
        """Return what each parameter is where nothing is given, with this preset, sampler and operators."""
        return super().preset_defaults() | {"preset": self.preset} | self.preset_values(self.to_dict())

    @property
    def num_evaluations(self) -> int:
        """Number of architectures that the search evaluates."""
        return self.K * self.steps

    @property
    def operator_names(self) -> tuple[str, ...]:
        """The operators as a tuple, in the order remove, shrink, skip."""
        return tuple(self.operators.split(","))

    @property
    def own_normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Given (mean, std) of the channels, for images in [0, 1]; None to take those of the training images."""
        if not self.normalise:
            return None
        mean, std = (tuple(map(float, part.split(","))) for part in self.normalise.split("/"))
        return mean, std

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Names of the studies to show in the same figures."""
        return names_in(self.compare_with)

    def difference(self, other: StudyConfig) -> list[tuple[str, Any, Any]]:
        """(name, mine, theirs) for each parameter that defines a result and differs. The study's name does not."""
        mine, theirs = self.to_dict(), other.to_dict()
        names = [name for name in {**theirs, **mine} if name not in self._free(theirs)]
        pairs = [(name, mine.get(name), theirs.get(name)) for name in names]
        return [(name, value, other) for name, value, other in pairs if value != other]

    def held(self, stored: Mapping[str, Any]) -> dict[str, str]:
        """Return what defines a result; `steps` may change, unless the sampler's proposals depend on them."""
        given, free = self.to_dict(), self._free(stored)
        names = [name for name in {**given, **stored} if name not in free]
        notes = {name: "" if name in given else "this version does not know it" for name in names}
        if registry("sampler")[self.sampler].budget_defines_result:
            return notes | {"steps": f"{self.sampler}'s proposals depend on them; Study.finish() ends it with the best"}
        del notes["steps"]  # fewer than there are: the study is finished with the best of those
        return notes

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the values of parameters that a ledger lacks: a study's own, whatever a subclass starts from."""
        return {name: field.default for name, field in StudyConfig.model_fields.items()}

    def _free(self, other: Mapping[str, Any]) -> frozenset[str]:
        """Return the parameters that may differ between this study and the other."""
        search_only = self.final == other.get("final") == "none"
        return RESULT_FREE | {"study"} | (_ONLY_FOR_FINAL_TRAINING if search_only else frozenset())

    @field_validator("sampler", "objective", "teacher", "dataset")
    @classmethod
    def _check_registered(cls, value: str, info: ValidationInfo) -> str:
        name = info.field_name or ""
        known, own, listed = registry(name), False, list[str]()
        if name == "teacher":
            own, listed = ":" in value, [*_short(known), "module:callable"]
        elif name == "dataset":
            own = value.endswith(".npz") and Path(value).stem != ".npz"
            listed = [*known, OWN_IMAGES]
        if value not in known and not own:
            raise ValueError(unknown_choice(f"{name} = {show(value)}", value, known, listed))
        if name == "teacher" and own and not re.fullmatch(r"([A-Za-z_][\w.]*|.*\.py):[A-Za-z_]\w*", value):
            form = "'package.module:callable' and 'path/to/file.py:callable' are allowed"
            raise ValueError(f"teacher = {show(value)} names no callable: {form}")
        return value

    @field_validator("teacher_options")
    @classmethod
    def _check_teacher_options(cls, value: str) -> str:
        try:
            options = json.loads(value or "{}")
        except ValueError as error:
            raise ValueError(f"teacher_options = {show(value)} is no JSON: {error}") from None
        if not isinstance(options, dict):
            raise ValueError(f'teacher_options = {show(value)}: a JSON object like {{"num_classes": 10}} is allowed')
        return json.dumps(options) if value else ""

    @field_validator("teacher_weights", "image_channels", "normalise", "device")
    @classmethod
    def _check_form(cls, value: Any, info: ValidationInfo) -> Any:
        given = f"{info.field_name} = {show(value)}"
        match info.field_name:
            case "teacher_weights" if value and not value.endswith(".safetensors"):
                form = (
                    "a .safetensors file is allowed, as safetensors.torch.save_file(net.state_dict(), path) writes it"
                )
                raise ValueError(f"{given}: {form}")
            case "image_channels" if value not in (0, 3):
                raise ValueError(f"{given}: 0 (as the images are) and 3 are allowed")
            case "normalise" if not _is_normalisation(value or "0/1"):
                form = (
                    "mean/std is allowed, a number a channel, of images from 0 to 1, mean within that and std above 0:"
                )
                form += " '0.485,0.456,0.406/0.229,0.224,0.225'"
                raise ValueError(f"{given}: {form}")
            case "device" if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
                listed = ("auto", "cpu", "cuda", "cuda:N")
                raise ValueError(unknown_choice(given, value, (*listed[:3], "cuda:0"), listed))
        return value

    @field_validator("operators")
    @classmethod
    def _check_operators(cls, value: str) -> str:
        known, names = registry("operator"), [name.strip() for name in value.split(",")]
        if not any(names):
            raise ValueError(f"operators = {show(value)} is empty: at least one of {', '.join(known)} is needed")
        known_names("operators", value, known)
        return ",".join(name for name in known if name in names)

    def _conflicts(self) -> Iterator[str]:
        for name in ("teacher_options", "teacher_weights"):
            if ":" not in self.teacher and getattr(self, name):
                yield f"{name} is for a teacher of your own ('module:callable'), not for {self.teacher!r}"
        for limit in ("max_params", "max_macs"):
            if getattr(self, limit) and "shrink" not in self.operator_names:
                yield f"{limit} is kept by shrinking: operators = {self.operators!r} lacks 'shrink'"
        yield from registry("sampler")[self.sampler].conflicts(self)
        if self.final != "none" and self.final_epochs < 1:
            yield "final_epochs = 0 is out of range: an integer of at least 1 is allowed, or final = 'none'"
        if self.final != "none" and self.top > self.num_evaluations:
            allowed = f"at most K * steps = {self.num_evaluations} students are there to choose from"
            yield f"top = {self.top} is out of range: {allowed}; Study.finish() ends a study early with the best"


def _is_normalisation(text: str) -> bool:
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in text.split("/"))
    except ValueError:
        return False
    return len(mean) == len(std) and all(0 <= m <= 1 for m in mean) and all(0 < s < math.inf for s in std)


def _short(teachers: Mapping[str, Any]) -> list[str]:
    """Return the names of teachers, the original ShuffleNets as one pattern."""
    plain = [name for name in teachers if not name.startswith("shufflenet_")]
    return [*plain, "shufflenet_<0.5|1.0|1.5>x_g<1|2|3|4|8>"]
