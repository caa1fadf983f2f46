"""The parameters of notebooks/benchmarks.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig, option, show, unknown_choice
from esnac_lib.config.registry import registry


class BenchmarksConfig(FlatConfig):
    """What is measured, and at which size. The defaults are small, so that all of it takes a minute."""

    study: fields.Folder = "benchmarks"
    device: Annotated[fields.Device, Field(description="cpu or cuda; the reference always runs on the CPU")] = "cpu"
    propose_teacher: str = option("resnet18", "teacher whose students are proposed, for 100 classes")
    observations: int = option(12, "observations that the measured ask learns from", ge=2)
    K: fields.Kernels = 2
    candidates: fields.Candidates = 40
    max_steps: int = option(6, "most steps of learning a kernel", ge=1)
    slow_steps: int = option(1, "steps of learning that the reference is measured on", ge=1)
    slow_candidates: int = option(5, "candidates that the reference is measured on", ge=1)
    growth_observations: str = option("8, 16", "numbers of observations, with commas")
    growth_K: str = option("1, 2", "numbers of kernels, with commas")
    evaluate_teacher: str = option("cnn4", "teacher whose students are trained")
    dataset: fields.Dataset = "digits"
    data_root: fields.DataRoot = ""
    images: int = option(256, "training images; 0: all", ge=0)
    batch_size: int = option(128, "images a batch", ge=1)
    workers: int = option(0, "processes that load images for the published loop", ge=0)
    repeats: int = option(1, "repetitions of each training loop, in turn", ge=1)
    step_epochs: int = option(1, "epochs of a student in the complete search steps", ge=1)
    steps: int = option(3, "complete search steps; the first learns no kernel", ge=2)
    whole_study: str = option("", "finished study whose minutes are reported; empty: none")
    seed: fields.Seed = 0

    @field_validator("propose_teacher", "evaluate_teacher", "dataset")
    @classmethod
    def _check_name(cls, value: str, info: ValidationInfo) -> str:
        known = registry("dataset" if info.field_name == "dataset" else "teacher")
        if value not in known and not (known.kind == "dataset" and value.endswith(".npz")):
            raise ValueError(unknown_choice(f"{info.field_name} = {show(value)}", value, known))
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if value not in ("cpu", "cuda"):
            raise ValueError(f"device = {value!r}: choose cpu or cuda")
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
