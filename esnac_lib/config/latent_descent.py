"""The parameters of an Architecture Compression study, checked before PyTorch is loaded.

They fall into four phases, in the order in which a study goes through them: the random architectures, the codec
(encoder, decoder and regressors), the compression, and what is trained at the end. A study goes on if the parameters of
the first phase are the same (`architectures` may change: all that are trained count); whatever else changes, the phases
that depend on it are done again, and no architecture is trained twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig, fault_of, known_names, names_in, option
from esnac_lib.config.study import StudyConfig

BASELINES = ("random", "narrowed", "fitnet", "pruning", "n2n")
"""What the student can be compared with: the best random architecture of at most its size, the teacher uniformly
narrowed, and the three of the paper's Table 2."""
STAGES = ("architectures", "codec", "compression", "final", "baselines")  # a study can stop after each


class CompressionConfig(FlatConfig):
    """All that defines an Architecture Compression study. The defaults are a smoke-sized study on digits."""

    study: fields.Study = "ac_digits"
    teacher: Annotated[fields.Teacher, Field(description="network to compress: a chain of layers")] = "cnn4"
    dataset: fields.Dataset = "digits"
    data_root: fields.DataRoot = ""
    architectures: int = option(24, "random architectures to train; may change", ge=8)
    around: float = option(0.75, "share drawn around the teacher, the others as in §9", ge=0, le=1)
    assumptions: Literal["enforced", "relaxed"] = option(
        "enforced", "§3: no activations in a row, pools that reduce the map"
    )
    width_step: int = option(4, "widths are multiples of this", ge=1)
    max_macs: fields.MaxMacs = 1_000_000
    K: Annotated[fields.Kernels, Field(description="architectures trained together")] = 4
    initialisations: int = option(1, "trainings of each architecture; the mean counts", ge=1)
    epochs: fields.Epochs = 1
    search_lr: float = option(0.01, "learning rate of search training (Adam)", gt=0)
    search_schedule: Literal["constant", "one_cycle"] = option("one_cycle", "learning rate schedule of search training")
    search_augment: bool = option(False, "random crops and flips in search training")
    search_images: fields.SearchImages = 0
    batch_size: fields.BatchSize = 32
    validation: fields.Validation = 197
    max_length: int = option(64, "most layers of a sequence; a multiple of 16", ge=16)
    representation: Literal["one_hot", "numbers"] = option(
        "one_hot", "layer types one-hot and widths as logarithms, or five numbers"
    )
    params_target: Literal["scaled", "standardised", "log"] = option(
        "scaled", "regression target for the number of parameters"
    )
    embedding: int = option(32, "numbers in the embedding y", ge=1)
    unlabelled: int = option(500, "more sequences without accuracy to train the codec on", ge=0)
    held_out: float = option(0.25, "share of the architectures kept to evaluate the codec on", gt=0, lt=1)
    iterations: int = option(300, "steps of the joint training", ge=1)
    codec_batch: int = option(32, "sequences a step", ge=2)
    codec_optimizer: Literal["adam", "sgd"] = option(
        "adam", "optimiser of the joint training (sgd: Nesterov, momentum 0.5)"
    )
    codec_lr: float = option(0.003, "learning rate of the joint training", gt=0)
    codec_decay: int = option(0, "steps between decays of it to a fifth; 0: one cycle", ge=0)
    lambda_accuracy: float = option(1.0, "weight λ₁ of the accuracy regressor's loss", ge=0)
    lambda_params: float = option(1.0, "weight λ₂ of the parameter regressor's loss", ge=0)
    accuracy_weight: float = option(1.0, "weight of L_a in the descent", ge=0)
    params_weight: float = option(1.0, "weight λ of L_p in the descent", ge=0)
    target_accuracy: float = option(1.0, "accuracy a₀ that the descent aims at", gt=0, le=1)
    target_times: float = option(4.0, "compression that it aims at (p₀); 0: no parameters", ge=0)
    starts: int = option(3, "starting points: the teacher, then the best architectures", ge=1)
    descent_steps: int = option(30, "steps of gradient descent from each", ge=1)
    descent_lr: float = option(3.0, "learning rate η of the descent", gt=0)
    reembed: int = option(5, "steps between embeddings of the decoded network itself; 0: never", ge=0)
    rounds: int = option(2, "rounds of descent, training what it found, and refresh", ge=1)
    candidates: Annotated[fields.Candidates, Field(description="decoded architectures trained a round")] = 3
    refresh_steps: int = option(30, "supervised steps after each round", ge=0)
    refresh_lr: float = option(0.0003, "learning rate of the refresh", gt=0)
    path_steps: int = option(8, "steps of the record whose architectures are trained", ge=0)
    top: fields.Top = 2
    final_epochs: Annotated[fields.FinalEpochs, Field(ge=1)] = 6
    final_lr: fields.FinalLr = 0.05
    final_optimizer: Literal["sgd", "adam"] = option("sgd", "optimiser of final training")
    schedule: Literal["step", "one_cycle", "step_60", "step_53_80"] = option(
        "one_cycle", "learning rate schedule of final training"
    )
    augment: fields.Augment = True
    baselines: str = option(",".join(BASELINES), "what to compare with, with commas; may be empty")
    widths: str = option("", "compressions of further narrowed teachers, with commas")
    hint_epochs: int = option(2, "epochs of FitNet's hint training", ge=1)
    pruning_runs: int = option(2, "prunings, of which the best counts", ge=1)
    pruning_filters: int = option(16, "filters removed in one step of pruning", ge=1)
    pruning_images: int = option(320, "images of the training between two steps", ge=2)
    n2n_steps: int = option(2, "search steps of N2N, of K architectures each", ge=1)
    n2n_epochs: int = option(2, "epochs of N2N's search training", ge=1)
    seed: fields.Seed = 0
    device: fields.Device = "auto"
    max_minutes: fields.MaxMinutes = 0.0
    stop_after: Literal["architectures", "codec", "compression", "final", "baselines"] = option(
        "baselines", "last stage to do"
    )
    compare_with: fields.CompareWith = ""

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """The baselines as a tuple."""
        return names_in(self.baselines)

    @property
    def width_times(self) -> tuple[float, ...]:
        """The compressions of further narrowed teachers."""
        return tuple(map(float, names_in(self.widths)))

    @property
    def compared_names(self) -> tuple[str, ...]:
        """Names of the studies to compare with."""
        return self.study_config.compared_names

    @property
    def study_config(self) -> StudyConfig:
        """The same teacher, data and trainings as parameters of an ESNAC study, for what both methods share."""
        shared = {name: getattr(self, name) for name in _SHARED}
        training = {"teacher_epochs": self.final_epochs, "teacher_lr": self.final_lr}
        schedule = "one_cycle" if self.schedule == "one_cycle" else "step"
        return StudyConfig.from_dict({"preset": "paper", **shared, **training, "schedule": schedule})

    def held(self, stored: Mapping[str, Any]) -> dict[str, str]:
        """All that the trained architectures depend on; how many there are may change."""
        return dict.fromkeys(_DEFINE_THE_TRIALS, "")

    @field_validator("baselines")
    @classmethod
    def _check_baselines(cls, value: str) -> str:
        names = known_names("baselines", value, BASELINES)
        return ",".join(name for name in BASELINES if name in names)

    @field_validator("widths")
    @classmethod
    def _check_widths(cls, value: str) -> str:
        try:
            right = all(1 < float(text) < 1e6 for text in names_in(value))
        except ValueError:
            right = False
        if not right:
            raise ValueError(f"widths = {value!r}: numbers above 1 with commas are allowed, such as '2,4,8'")
        return value

    def _conflicts(self) -> Iterator[str]:
        yield from fault_of(lambda: self.study_config)  # what both methods' studies have is checked by the same rules
        if self.max_length % 16:
            yield f"max_length = {self.max_length} is out of range: a multiple of 16 is allowed"
        if "n2n" in self.baseline_names and self.n2n_steps * self.K < 2:
            yield "n2n_steps = 1 with K = 1: N2N has two stages; give it at least 2 architectures"


_SHARED = (
    "study", "teacher", "dataset", "data_root", "K", "batch_size", "validation", "search_images", "augment",
    "final_epochs", "final_lr", "seed", "device", "max_minutes", "compare_with",
)  # fmt: skip

_DEFINE_THE_TRIALS = (
    "teacher", "dataset", "around", "assumptions", "width_step", "max_macs", "initialisations", "epochs",
    "search_lr", "search_schedule", "search_augment", "search_images", "batch_size", "validation", "max_length", "seed",
)  # fmt: skip
