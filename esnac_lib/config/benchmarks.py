"""The parameters of notebooks/benchmarks.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig
from esnac_lib.config.registry import nearest, registry

CPU_OR_CUDA = ("cpu", "cuda")


class BenchmarksConfig(FlatConfig):
    """What is measured, and at which size. The defaults are small, so that all of it takes a minute."""

    study: fields.Folder = "benchmarks"
    device: Annotated[fields.Device, Field(description="cpu or cuda; the reference always runs on the CPU")] = "cpu"
    propose_teacher: str = Field(default="resnet18", description="teacher whose students are proposed, for 100 classes")
    observations: int = Field(default=12, ge=2, description="observations that the measured ask learns from")
    K: fields.Kernels = 2
    candidates: fields.Candidates = 40
    max_steps: int = Field(default=6, ge=1, description="most steps of learning a kernel")
    slow_steps: int = Field(default=1, ge=1, description="steps of learning that the reference is measured on")
    slow_candidates: int = Field(default=5, ge=1, description="candidates that the reference is measured on")
    growth_observations: str = Field(default="8, 16", description="numbers of observations, with commas")
    growth_K: str = Field(default="1, 2", description="numbers of kernels, with commas")
    evaluate_teacher: str = Field(default="cnn4", description="teacher whose students are trained")
    dataset: fields.Dataset = "digits"
    data_root: fields.DataRoot = ""
    images: int = Field(default=256, ge=0, description="training images; 0: all")
    batch_size: int = Field(default=128, ge=1, description="images a batch")
    workers: int = Field(default=0, ge=0, description="processes that load images for the published loop")
    repeats: int = Field(default=1, ge=1, description="repetitions of each training loop, in turn")
    step_epochs: int = Field(default=1, ge=1, description="epochs of a student in the complete search steps")
    steps: int = Field(default=3, ge=2, description="complete search steps; the first learns no kernel")
    whole_study: str = Field(default="", description="finished study whose minutes are reported; empty: none")
    seed: fields.Seed = 0

    @field_validator("propose_teacher", "evaluate_teacher", "dataset")
    @classmethod
    def _check_name(cls, value: str, info: ValidationInfo) -> str:
        known = registry("dataset" if info.field_name == "dataset" else "teacher")
        if value not in known and not (known.kind == "dataset" and value.endswith(".npz")):
            raise ValueError(f"{info.field_name} = {value!r:.200} is unknown: did you mean {nearest(value, known)!r}?")
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if value not in CPU_OR_CUDA:
            raise ValueError(f"device = {value!r}: choose {' or '.join(CPU_OR_CUDA)}")
        return value

    @field_validator("growth_observations", "growth_K")
    @classmethod
    def _check_numbers(cls, value: str, info: ValidationInfo) -> str:
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            raise ValueError(f"{info.field_name} = {value!r}: positive whole numbers are needed, as 40, 80, 160")
        return value

    def numbers(self, name: str) -> list[int]:
        """Return what `growth_observations` or `growth_K` lists."""
        return [int(part) for part in getattr(self, name).split(",")]
