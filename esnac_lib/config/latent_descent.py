"""The parameters of an Architecture Compression study: flat, frozen, checked before PyTorch is loaded.

They fall into four phases, in the order in which a study goes through them: the random architectures, the codec
(encoder, decoder and regressors), the compression, and what is trained at the end. A study goes on if the parameters of
the first phase are the same (`architectures` may change: all that are trained count); whatever else changes, the phases
that depend on it are done again, and no architecture is trained twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from esnac_lib.config.base import FlatConfig
from esnac_lib.config.registry import nearest
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError

BASELINES = ("random", "narrowed", "fitnet", "pruning", "n2n")
"""What the student can be set beside: the best random architecture of at most its size, the teacher uniformly
narrowed, and the three of the paper's Table 2."""

STAGES = ("architectures", "codec", "compression", "final", "baselines")
"""What a study can stop after."""


class CompressionConfig(FlatConfig):
    """All that defines an Architecture Compression study. The defaults are a smoke-sized study on digits."""

    study: Annotated[str, Field(description="name of the study, and of its folder in outputs")] = "ac_digits"
    teacher: Annotated[str, Field(description="the network to compress: a chain of layers")] = "cnn4"
    dataset: Annotated[str, Field(description="name of a data set, or a path that ends in .npz")] = "digits"
    data_root: Annotated[str, Field(description="folder of the data sets; empty: data/ in the checkout")] = ""
    architectures: Annotated[int, Field(ge=8, description="random architectures to train; may change")] = 24
    around: Annotated[float, Field(ge=0, le=1, description="share drawn around the teacher, the others as in §9")] = (
        0.75
    )
    assumptions: Annotated[
        Literal["enforced", "relaxed"], Field(description="§3: no activations in a row, pools that reduce the map")
    ] = "enforced"
    width_step: Annotated[int, Field(ge=1, description="widths are multiples of this")] = 4
    max_macs: Annotated[int, Field(ge=0, description="most multiply-accumulates an image; 0: no limit")] = 1_000_000
    K: Annotated[int, Field(ge=1, description="architectures trained side by side")] = 4
    initialisations: Annotated[int, Field(ge=1, description="trainings of each architecture; the mean counts")] = 1
    epochs: Annotated[int, Field(ge=1, description="epochs of such a training")] = 1
    search_lr: Annotated[float, Field(gt=0, description="learning rate of such a training (Adam)")] = 0.01
    search_schedule: Annotated[
        Literal["constant", "one_cycle"], Field(description="learning rate schedule of such a training")
    ] = "one_cycle"
    search_augment: Annotated[bool, Field(description="random crops and flips in such a training")] = False
    search_images: Annotated[int, Field(ge=0, description="images for such a training; 0: the training split")] = 0
    batch_size: Annotated[int, Field(ge=2, description="images a batch, in every training of a network")] = 32
    validation: Annotated[int, Field(ge=1, description="images kept from training for validation")] = 197
    max_length: Annotated[int, Field(ge=16, description="most layers of a sequence; a multiple of 16")] = 64
    representation: Annotated[
        Literal["one_hot", "numbers"],
        Field(description="layer types one-hot and widths as logarithms, or five numbers"),
    ] = "one_hot"
    params_target: Annotated[
        Literal["scaled", "standardised", "log"], Field(description="parameters as the regressor sees them")
    ] = "scaled"
    embedding: Annotated[int, Field(ge=1, description="numbers in the embedding y")] = 32
    unlabelled: Annotated[int, Field(ge=0, description="more sequences without accuracy to train the codec on")] = 500
    held_out: Annotated[float, Field(gt=0, lt=1, description="share of the architectures kept to judge the codec")] = (
        0.25
    )
    iterations: Annotated[int, Field(ge=1, description="steps of the joint training")] = 300
    codec_batch: Annotated[int, Field(ge=2, description="sequences a step")] = 32
    codec_optimizer: Annotated[
        Literal["adam", "sgd"], Field(description="optimiser of the joint training (sgd: Nesterov, momentum 0.5)")
    ] = "adam"
    codec_lr: Annotated[float, Field(gt=0, description="learning rate of the joint training")] = 0.003
    codec_decay: Annotated[int, Field(ge=0, description="steps between decays of it to a fifth; 0: one cycle")] = 0
    lambda_accuracy: Annotated[float, Field(ge=0, description="weight λ₁ of the accuracy regressor's loss")] = 1.0
    lambda_params: Annotated[float, Field(ge=0, description="weight λ₂ of the parameter regressor's loss")] = 1.0
    accuracy_weight: Annotated[float, Field(ge=0, description="weight of L_a in the descent")] = 1.0
    params_weight: Annotated[float, Field(ge=0, description="weight λ of L_p in the descent")] = 1.0
    target_accuracy: Annotated[float, Field(gt=0, le=1, description="accuracy a₀ that the descent aims at")] = 1.0
    target_times: Annotated[float, Field(ge=0, description="compression that it aims at (p₀); 0: no parameters")] = 4.0
    starts: Annotated[int, Field(ge=1, description="starting points: the teacher, then the best architectures")] = 3
    descent_steps: Annotated[int, Field(ge=1, description="steps of gradient descent from each")] = 30
    descent_lr: Annotated[float, Field(gt=0, description="learning rate η of the descent")] = 3.0
    reembed: Annotated[int, Field(ge=0, description="steps until y is the decoded network's again; 0: never")] = 5
    rounds: Annotated[int, Field(ge=1, description="rounds of descent, training what it found, and refresh")] = 2
    candidates: Annotated[int, Field(ge=1, description="decoded architectures trained a round")] = 3
    refresh_steps: Annotated[int, Field(ge=0, description="supervised steps after each round")] = 30
    refresh_lr: Annotated[float, Field(gt=0, description="learning rate of the refresh")] = 0.0003
    path_steps: Annotated[int, Field(ge=0, description="steps of the record whose architectures are trained")] = 8
    top: Annotated[int, Field(ge=1, description="decoded architectures that go into final training")] = 2
    final_epochs: Annotated[
        int, Field(ge=1, description="epochs of final training, of the teacher and of students")
    ] = 6
    final_lr: Annotated[float, Field(gt=0, description="learning rate of final training")] = 0.05
    final_optimizer: Annotated[Literal["sgd", "adam"], Field(description="optimiser of final training")] = "sgd"
    schedule: Annotated[
        Literal["step", "one_cycle", "step_60", "step_53_80"], Field(description="schedule of final training")
    ] = "one_cycle"
    augment: Annotated[bool, Field(description="random crops and flips in final training")] = True
    baselines: Annotated[str, Field(description="what to compare with, with commas; may be empty")] = ",".join(
        BASELINES
    )
    widths: Annotated[str, Field(description="compressions of further narrowed teachers, with commas")] = ""
    hint_epochs: Annotated[int, Field(ge=1, description="epochs of FitNet's hint training")] = 2
    pruning_runs: Annotated[int, Field(ge=1, description="prunings, of which the best counts")] = 2
    pruning_filters: Annotated[int, Field(ge=1, description="filters that go in one step of pruning")] = 16
    pruning_images: Annotated[int, Field(ge=2, description="images of the training between two steps")] = 320
    n2n_steps: Annotated[int, Field(ge=1, description="search steps of N2N, of K architectures each")] = 2
    n2n_epochs: Annotated[int, Field(ge=1, description="epochs of N2N's search training")] = 2
    seed: Annotated[int, Field(ge=0, description="seed of every random draw")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"
    max_minutes: Annotated[float, Field(ge=0, description="stop after so many minutes; 0: no limit")] = 0.0
    stop_after: Annotated[
        Literal["architectures", "codec", "compression", "final", "baselines"], Field(description="last stage to do")
    ] = "baselines"
    compare_with: Annotated[str, Field(description="other studies to show in the same figures, with commas")] = ""

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """The baselines as a tuple."""
        return tuple(name for name in self.baselines.split(",") if name)

    @property
    def width_times(self) -> tuple[float, ...]:
        """The compressions of further narrowed teachers."""
        return tuple(float(text) for text in self.widths.split(",") if text.strip())

    @property
    def compared_names(self) -> tuple[str, ...]:
        """The names of the studies to show beside this one."""
        return self.study_config.compared_names

    @property
    def study_config(self) -> StudyConfig:
        """The same teacher, data and trainings as parameters of the other method's studies."""
        return StudyConfig(
            **{name: getattr(self, name) for name in _SHARED},
            teacher_epochs=self.final_epochs,
            teacher_lr=self.final_lr,
            schedule="one_cycle" if self.schedule == "one_cycle" else "step",
        )

    def held(self, stored: Mapping[str, Any]) -> dict[str, str]:
        """All that the trained architectures depend on; how many there are may change."""
        return dict.fromkeys(_DEFINE_THE_TRIALS, "")

    @field_validator("baselines")
    @classmethod
    def _check_baselines(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        for name in names:
            if name not in BASELINES:
                allowed = f"allowed are {', '.join(BASELINES)}; did you mean {nearest(name, BASELINES)!r}?"
                raise ValueError(f"baselines = {value!r}: {name!r} is unknown: {allowed}")
        return ",".join(name for name in BASELINES if name in names)

    @field_validator("widths")
    @classmethod
    def _check_widths(cls, value: str) -> str:
        try:
            numbers = [float(text) for text in value.split(",") if text.strip()]
        except ValueError:
            numbers = [0.0]
        if not all(1 < number < 1e6 for number in numbers):
            raise ValueError(f"widths = {value!r}: numbers above 1 with commas are allowed, such as '2,4,8'")
        return value

    def _check_together(self) -> CompressionConfig:
        _ = self.study_config  # what both methods' studies have is checked by the same rules
        if self.max_length % 16:
            raise ConfigError(f"max_length = {self.max_length} is out of range: a multiple of 16 is allowed")
        if "n2n" in self.baseline_names and self.n2n_steps * self.K < 2:
            raise ConfigError("n2n_steps = 1 with K = 1: N2N has two stages; give it at least 2 architectures")
        return self


_SHARED = (
    "study", "teacher", "dataset", "data_root", "K", "batch_size", "validation", "search_images", "augment",
    "final_epochs", "final_lr", "seed", "device", "max_minutes", "compare_with",
)  # fmt: skip

_DEFINE_THE_TRIALS = (
    "teacher", "dataset", "around", "assumptions", "width_step", "max_macs", "initialisations", "epochs",
    "search_lr", "search_schedule", "search_augment", "search_images", "batch_size", "validation", "max_length", "seed",
)  # fmt: skip
