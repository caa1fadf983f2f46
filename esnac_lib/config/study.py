"""The parameters of a study: flat, frozen, and told at once, in one line, when they are wrong.

Nothing here needs PyTorch or pandas, so that a mistake is told before either is loaded:

    config = StudyConfig.from_notebook(globals())      # the cell after the one tagged `parameters`
    >>> k = 8
    ConfigError: unknown parameter 'k' (= 8): the nearest known one is 'K'; see the cell tagged parameters
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config.base import FlatConfig, folder_name, show, unknown_choice, upgraded
from esnac_lib.config.registry import registry
from esnac_lib.errors import ConfigError

Keep = Annotated[
    Literal["first", "norm"], Field(description="filters that shrinking keeps: the first, or those of the largest norm")
]
Sampling = Annotated[Literal["paper", "mild"], Field(description="how random students and candidates are drawn")]
First = Annotated[
    Literal["random", "narrowed"],
    Field(description="the first students of ESNAC and evolution: random, or narrowed teachers"),
]
Learned = Annotated[
    Literal["f", "accuracy"], Field(description="what ESNAC's kernels are learned on: f, or the accuracy in it")
]
Acquisition = Annotated[
    Literal["random", "evolution", "local"], Field(description="how the expected improvement is maximised")
]
Subset = Annotated[float, Field(gt=0, le=1, description="share of the observations that each kernel learns from")]
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"sampling": "paper", "first": "random", "surrogate": "f", "acquisition": "random", "subset": 0.5},
    "ours": {
        "sampling": "mild",
        "first": "narrowed",
        "surrogate": "accuracy",
        "acquisition": "local",
        "subset": 1.0,
    },
}
"""How ESNAC searches, as published and as it did better (sampler_comparison.ipynb has the evidence)."""
AS_PUBLISHED: dict[str, Any] = {"keep": "first"} | {
    name: value for name, value in PRESETS["paper"].items() if name != "acquisition"
}
"""What parameters beyond the ESNAC paper are in it, in each of its tables. (Table 6 varies the acquisition.)"""

RESULT_FREE = frozenset(
    {
        "device",
        "evaluator",
        "ray_address",
        "students_per_gpu",
        "data_root",
        "max_minutes",
        "student_minutes",
        "compare_with",
    }
)
"""Parameters that no result depends on: they may change when a study is resumed. (`steps` may grow.)"""

_ONLY_FOR_FINAL_TRAINING = frozenset({"final_epochs", "final_lr", "top", "label_smoothing"})


class StudyConfig(FlatConfig):
    """All that defines a study. The defaults are a smoke-sized study on digits."""

    study: Annotated[str, Field(description="name of the study, and of its folder in outputs")] = "digits"
    teacher: Annotated[str, Field(description="the network to compress; your own: module:callable")] = "cnn4"
    teacher_options: Annotated[str, Field(description="what your own callable is given, as a JSON object")] = ""
    teacher_weights: Annotated[str, Field(description="your own teacher's weights; empty: it is trained here")] = ""
    dataset: Annotated[str, Field(description="name of a data set, or a path that ends in .npz")] = "digits"
    data_root: Annotated[str, Field(description="folder of the data sets; empty: data/ in the checkout")] = ""
    normalise: Annotated[str, Field(description="mean/std a channel, as 0.5/0.2; empty: the images' own")] = ""
    image_channels: Annotated[int, Field(ge=0, le=3, description="3: repeat grey images; 0: as they are")] = 0
    sampler: Annotated[str, Field(description="who proposes architectures")] = "esnac"
    source: Annotated[str, Field(description="study whose kernels propose (sampler transfer), else empty")] = ""
    K: Annotated[int, Field(ge=1, description="kernels, and architectures a step")] = 4
    steps: Annotated[int, Field(ge=1, description="search steps; K * steps architectures are evaluated")] = 4
    operators: Annotated[str, Field(description="what a search may do, with commas")] = "remove,shrink,skip"
    grouping: Annotated[Literal["dimension", "dependency"], Field(description="what shares a shrinkage ratio")] = (
        "dimension"
    )
    keep: Keep = "first"
    max_params: Annotated[int, Field(ge=0, description="parameters that a student may have; 0: no limit")] = 0
    max_macs: Annotated[int, Field(ge=0, description="multiply-accumulates an image; 0: no limit")] = 0
    objective: Annotated[str, Field(description="what f makes of a student's accuracy and size")] = "params"
    min_accuracy: Annotated[
        float, Field(ge=0, le=1, description="accuracy that the solution shall keep, a fraction; 0: no demand")
    ] = 0.0
    sampling: Sampling = "paper"
    first: First = "random"
    surrogate: Learned = "f"
    kernel_loss: Annotated[
        Literal["posterior", "marginal", "euclidean"], Field(description="what an embedding is learned by")
    ] = "posterior"
    acquisition: Acquisition = "random"
    candidates: Annotated[int, Field(ge=1, description="candidates a kernel looks at in a step")] = 200
    subset: Subset = 0.5
    epochs: Annotated[int, Field(ge=1, description="epochs of search training")] = 8
    search_images: Annotated[int, Field(ge=0, description="images for search training; 0: the training split")] = 0
    batch_size: Annotated[int, Field(ge=2, description="images a batch")] = 32
    validation: Annotated[int, Field(ge=1, description="images kept from training for validation")] = 197
    augment: Annotated[bool, Field(description="random crops, and flips where the data set allows them")] = True
    teacher_epochs: Annotated[int, Field(ge=1, description="epochs of a teacher's training")] = 12
    teacher_lr: Annotated[float, Field(gt=0, description="learning rate of a teacher's training")] = 0.1
    final: Annotated[
        Literal["validated", "paper", "none"], Field(description="form of the final training (none: search only)")
    ] = "validated"
    final_epochs: Annotated[int, Field(ge=0, description="epochs of final training")] = 15
    final_lr: Annotated[float, Field(gt=0, description="learning rate of final training")] = 0.05
    top: Annotated[int, Field(ge=1, description="students that go into final training")] = 2
    schedule: Annotated[
        Literal["step", "one_cycle"], Field(description="learning rate schedule of teachers and final training")
    ] = "one_cycle"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="label smoothing of the reference teacher and of final training")
    ] = 0.0
    baseline: Annotated[bool, Field(description="also train the uniformly narrowed teacher")] = True
    seed: Annotated[int, Field(ge=0, description="seed of every random draw")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"
    evaluator: Annotated[
        Literal["local", "ray"], Field(description="where students are trained: in this process, or by Ray")
    ] = "local"
    ray_address: Annotated[
        str, Field(description="cluster to use (auto: the one of this machine); empty: start one")
    ] = ""
    students_per_gpu: Annotated[int, Field(ge=1, description="students that share a GPU of a Ray cluster")] = 4
    max_minutes: Annotated[float, Field(ge=0, description="stop after so many minutes; 0: no limit")] = 0.0
    student_minutes: Annotated[
        float, Field(ge=0, description="longest that a student may train in the search; 0: no limit")
    ] = 0.0
    compare_with: Annotated[str, Field(description="other studies to show in the same figures, with commas")] = ""

    @property
    def num_evaluations(self) -> int:
        """Architectures that the whole search evaluates."""
        return self.K * self.steps

    @property
    def operator_names(self) -> tuple[str, ...]:
        """The operators as a tuple, in the order remove, shrink, skip."""
        return tuple(self.operators.split(","))

    @property
    def own_normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) of the channels as given, of images in [0, 1]; None if the images' own count."""
        if not self.normalise:
            return None
        mean, std = (tuple(map(float, part.split(","))) for part in self.normalise.split("/"))
        return mean, std

    @property
    def compared_names(self) -> tuple[str, ...]:
        """The names of the studies to show in the same figures."""
        return tuple(name.strip() for name in self.compare_with.split(",") if name.strip())

    def difference(self, other: StudyConfig) -> list[tuple[str, Any, Any]]:
        """(name, mine, theirs) for each parameter that defines a result and differs. The study's name does not."""
        return _differences(self.to_dict(), other.to_dict())

    @field_validator("study")
    @classmethod
    def _check_study(cls, value: str) -> str:
        return folder_name(value, 2, ", or two such names with '/' between for a study of an experiment")

    @field_validator("teacher")
    @classmethod
    def _check_teacher(cls, value: str) -> str:
        if ":" in value:
            if not re.fullmatch(r"([A-Za-z_][\w.]*|.*\.py):[A-Za-z_]\w*", value):
                form = "'package.module:callable' and 'path/to/file.py:callable' are allowed"
                raise ValueError(f"teacher = {show(value)} names no callable: {form}")
        elif value not in (known := registry("teacher")):
            raise ValueError(
                unknown_choice(f"teacher = {show(value)}", value, known, (*_short(known), "module:callable"))
            )
        return value

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, value: str) -> str:
        known = registry("dataset")
        if value not in known and not (value.endswith(".npz") and Path(value).stem != ".npz"):
            raise ValueError(
                unknown_choice(f"dataset = {show(value)}", value, known, (*known, "a path that ends in .npz"))
            )
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

    @field_validator("teacher_weights")
    @classmethod
    def _check_teacher_weights(cls, value: str) -> str:
        if value and not value.endswith(".safetensors"):
            form = "a .safetensors file is allowed, as safetensors.torch.save_file(net.state_dict(), path) writes it"
            raise ValueError(f"teacher_weights = {show(value)}: {form}")
        return value

    @field_validator("image_channels")
    @classmethod
    def _check_image_channels(cls, value: int) -> int:
        if value not in (0, 3):
            raise ValueError(f"image_channels = {value}: 0 (as the images are) and 3 are allowed")
        return value

    @field_validator("normalise")
    @classmethod
    def _check_normalise(cls, value: str) -> str:
        try:
            mean, std = ([float(number) for number in part.split(",")] for part in (value or "0/1").split("/"))
        except ValueError:
            mean, std = [], []
        if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            form = "mean/std is allowed, a number a channel, std above 0: '0.485,0.456,0.406/0.229,0.224,0.225'"
            raise ValueError(f"normalise = {show(value)}: {form}")
        return value

    @field_validator("operators")
    @classmethod
    def _check_operators(cls, value: str) -> str:
        known, names = registry("operator"), [name.strip() for name in value.split(",")]
        if not any(names):
            raise ValueError(f"operators = {show(value)} is empty: at least one of {', '.join(known)} is needed")
        for name in names:
            if name not in known:
                raise ValueError(unknown_choice(f"operators = {show(value)}: {show(name)}", name, known))
        return ",".join(name for name in known if name in names)

    @field_validator("sampler", "objective")
    @classmethod
    def _check_registered(cls, value: str, info: ValidationInfo) -> str:
        known = registry(info.field_name or "")
        if value not in known:
            raise ValueError(unknown_choice(f"{info.field_name} = {show(value)}", value, known))
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
            listed = ("auto", "cpu", "cuda", "cuda:N")
            raise ValueError(unknown_choice(f"device = {show(value)}", value, (*listed[:3], "cuda:0"), listed))
        return value

    def _check_together(self) -> StudyConfig:
        if ":" not in self.teacher and (self.teacher_options or self.teacher_weights):
            name = "teacher_options" if self.teacher_options else "teacher_weights"
            raise ConfigError(f"{name} is for a teacher of your own ('module:callable'), not for {self.teacher!r}")
        limit = "max_params" if self.max_params else "max_macs" if self.max_macs else ""
        if limit and "shrink" not in self.operator_names:
            raise ConfigError(f"{limit} is kept by shrinking: operators = {self.operators!r} lacks 'shrink'")
        registry("sampler")[self.sampler].validate(self)
        if self.final != "none" and self.final_epochs < 1:
            allowed = "an integer of at least 1 is allowed, or final = 'none'"
            raise ConfigError(f"final_epochs = 0 is out of range: {allowed}")
        if self.final != "none" and self.top > self.num_evaluations:
            allowed = f"at most K * steps = {self.num_evaluations} students are there to choose from"
            raise ConfigError(f"top = {self.top} is out of range: {allowed}")
        return self


def _short(teachers: Mapping[str, Any]) -> list[str]:
    """The names of teachers, the original ShuffleNets in one."""
    plain = [name for name in teachers if not name.startswith("shufflenet_")]
    return [*plain, "shufflenet_<0.5|1.0|1.5>x_g<1|2|3|4|8>"]


def check_resume(old: Mapping[str, Any], new: StudyConfig) -> None:
    """Raise `ConfigError` unless a study that was started with `old` (what its ledger stores) may go on with `new`.

    All that defines a result must be the same, but `steps` may grow (unless the sampler's proposals depend on them).
    A parameter that `old` lacks had its default.
    """
    defaults = {name: field.default for name, field in StudyConfig.model_fields.items()}
    wrong = []
    for name, stored, given in _differences({**defaults, **upgraded(old)}, new.to_dict()):
        if name not in defaults:
            wrong.append(f"{name}: stored {show(stored)}, given nothing (this version does not know it)")
        elif name != "steps":
            wrong.append(f"{name}: stored {show(stored)}, given {show(given)}")
        elif registry("sampler")[new.sampler].budget_defines_result:
            wrong.append(
                f"steps: stored {show(stored)}, given {show(given)} ({new.sampler}'s proposals depend on them)"
            )
        elif not (isinstance(stored, int) and stored < given):
            wrong.append(f"steps: stored {show(stored)}, given {show(given)} (it may only grow)")
    if wrong:
        advice = "use another study name or give the stored value back"
        raise ConfigError(f"study {new.study!r} was started with other parameters: {'; '.join(wrong)}; {advice}")


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    ignored = RESULT_FREE | {"study"}
    if mine.get("final") == theirs.get("final") == "none":
        ignored |= _ONLY_FOR_FINAL_TRAINING
    names = [name for name in {**theirs, **mine} if name not in ignored]
    pairs = [(name, mine.get(name), theirs.get(name)) for name in names]
    return [(name, value, other) for name, value, other in pairs if value != other]
