"""The parameters of an Architecture Compression study, checked before PyTorch is loaded.

They fall into four phases, in the order in which a study goes through them: the random architectures, the codec
(encoder, decoder and regressors), the compression, and what is trained at the end. A study goes on if the parameters of
the first phase are the same (`architectures` may change: all that are trained count); whatever else changes, the phases
that depend on it are done again, and no architecture is trained twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig
from esnac_lib.config.registry import nearest
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError

BASELINES = ("random", "narrowed", "fitnet", "pruning", "n2n")
"""What the student can be compared with: the best random architecture of at most its size, the teacher uniformly
narrowed, and the three of the paper's Table 2."""

STAGES = ("architectures", "codec", "compression", "final", "baselines")
"""Stages that a study can stop after."""


class CompressionConfig(FlatConfig):
    """All that defines an Architecture Compression study. The defaults are a smoke-sized study on digits."""

    study: fields.Study = "ac_digits"
    teacher: Annotated[fields.Teacher, Field(description="network to compress: a chain of layers")] = "cnn4"
    dataset: fields.Dataset = "digits"
    data_root: fields.DataRoot = ""
    architectures: int = Field(default=24, ge=8, description="random architectures to train; may change")
    around: float = Field(default=0.75, ge=0, le=1, description="share drawn around the teacher, the others as in §9")
    assumptions: Literal["enforced", "relaxed"] = Field(
        default="enforced", description="§3: no activations in a row, pools that reduce the map"
    )
    width_step: int = Field(default=4, ge=1, description="widths are multiples of this")
    max_macs: fields.MaxMacs = 1_000_000
    K: Annotated[fields.Kernels, Field(description="architectures trained together")] = 4
    initialisations: int = Field(default=1, ge=1, description="trainings of each architecture; the mean counts")
    epochs: fields.Epochs = 1
    search_lr: float = Field(default=0.01, gt=0, description="learning rate of search training (Adam)")
    search_schedule: Literal["constant", "one_cycle"] = Field(
        default="one_cycle", description="learning rate schedule of search training"
    )
    search_augment: bool = Field(default=False, description="random crops and flips in search training")
    search_images: fields.SearchImages = 0
    batch_size: fields.BatchSize = 32
    validation: fields.Validation = 197
    max_length: int = Field(default=64, ge=16, description="most layers of a sequence; a multiple of 16")
    representation: Literal["one_hot", "numbers"] = Field(
        default="one_hot", description="layer types one-hot and widths as logarithms, or five numbers"
    )
    params_target: Literal["scaled", "standardised", "log"] = Field(
        default="scaled", description="regression target for the number of parameters"
    )
    embedding: int = Field(default=32, ge=1, description="numbers in the embedding y")
    unlabelled: int = Field(default=500, ge=0, description="more sequences without accuracy to train the codec on")
    held_out: float = Field(
        default=0.25, gt=0, lt=1, description="share of the architectures kept to evaluate the codec on"
    )
    iterations: int = Field(default=300, ge=1, description="steps of the joint training")
    codec_batch: int = Field(default=32, ge=2, description="sequences a step")
    codec_optimizer: Literal["adam", "sgd"] = Field(
        default="adam", description="optimiser of the joint training (sgd: Nesterov, momentum 0.5)"
    )
    codec_lr: float = Field(default=0.003, gt=0, description="learning rate of the joint training")
    codec_decay: int = Field(default=0, ge=0, description="steps between decays of it to a fifth; 0: one cycle")
    lambda_accuracy: float = Field(default=1.0, ge=0, description="weight λ₁ of the accuracy regressor's loss")
    lambda_params: float = Field(default=1.0, ge=0, description="weight λ₂ of the parameter regressor's loss")
    accuracy_weight: float = Field(default=1.0, ge=0, description="weight of L_a in the descent")
    params_weight: float = Field(default=1.0, ge=0, description="weight λ of L_p in the descent")
    target_accuracy: float = Field(default=1.0, gt=0, le=1, description="accuracy a₀ that the descent aims at")
    target_times: float = Field(default=4.0, ge=0, description="compression that it aims at (p₀); 0: no parameters")
    starts: int = Field(default=3, ge=1, description="starting points: the teacher, then the best architectures")
    descent_steps: int = Field(default=30, ge=1, description="steps of gradient descent from each")
    descent_lr: float = Field(default=3.0, gt=0, description="learning rate η of the descent")
    reembed: int = Field(
        default=5, ge=0, description="steps between embeddings of the decoded network itself; 0: never"
    )
    rounds: int = Field(default=2, ge=1, description="rounds of descent, training what it found, and refresh")
    candidates: Annotated[fields.Candidates, Field(description="decoded architectures trained a round")] = 3
    refresh_steps: int = Field(default=30, ge=0, description="supervised steps after each round")
    refresh_lr: float = Field(default=0.0003, gt=0, description="learning rate of the refresh")
    path_steps: int = Field(default=8, ge=0, description="steps of the record whose architectures are trained")
    top: fields.Top = 2
    final_epochs: Annotated[fields.FinalEpochs, Field(ge=1)] = 6
    final_lr: fields.FinalLr = 0.05
    final_optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="optimiser of final training")
    schedule: Literal["step", "one_cycle", "step_60", "step_53_80"] = Field(
        default="one_cycle", description="learning rate schedule of final training"
    )
    augment: fields.Augment = True
    baselines: str = Field(default=",".join(BASELINES), description="what to compare with, with commas; may be empty")
    widths: str = Field(default="", description="compressions of further narrowed teachers, with commas")
    hint_epochs: int = Field(default=2, ge=1, description="epochs of FitNet's hint training")
    pruning_runs: int = Field(default=2, ge=1, description="prunings, of which the best counts")
    pruning_filters: int = Field(default=16, ge=1, description="filters removed in one step of pruning")
    pruning_images: int = Field(default=320, ge=2, description="images of the training between two steps")
    n2n_steps: int = Field(default=2, ge=1, description="search steps of N2N, of K architectures each")
    n2n_epochs: int = Field(default=2, ge=1, description="epochs of N2N's search training")
    seed: fields.Seed = 0
    device: fields.Device = "auto"
    max_minutes: fields.MaxMinutes = 0.0
    stop_after: Literal["architectures", "codec", "compression", "final", "baselines"] = Field(
        default="baselines", description="last stage to do"
    )
    compare_with: fields.CompareWith = ""

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
        """Names of the studies to compare with."""
        return self.study_config.compared_names

    @property
    def study_config(self) -> StudyConfig:
        """The same teacher, data and trainings as parameters of an ESNAC study, for what both methods share."""
        return StudyConfig(
            preset="paper",
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
