"""The parameters of notebooks/benchmarks.ipynb. Nothing here needs PyTorch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config.base import FlatConfig, folder_name
from esnac_lib.config.registry import nearest, registry

CPU_OR_CUDA = ("cpu", "cuda")


class BenchmarksConfig(FlatConfig):
    """What is measured, and how large. The defaults are small, so that all of it takes a minute."""

    study: Annotated[str, Field(description="name of the measurements, and of their folder in outputs")] = "benchmarks"
    device: Annotated[str, Field(description="cpu or cuda; the slow twin of proposing is always on the CPU")] = "cpu"
    propose_teacher: Annotated[str, Field(description="whose students are proposed, for 100 classes")] = "resnet18"
    observations: Annotated[int, Field(ge=2, description="of the ask that is measured")] = 12
    K: Annotated[int, Field(ge=1, description="kernels of the ask, and students that share an epoch")] = 2
    candidates: Annotated[int, Field(ge=1, description="scored for each kernel")] = 40
    max_steps: Annotated[int, Field(ge=1, description="of learning a kernel, which may end earlier")] = 6
    slow_steps: Annotated[int, Field(ge=1, description="of the slow twin's learning that are measured")] = 1
    slow_candidates: Annotated[int, Field(ge=1, description="that the slow twin is measured on")] = 5
    growth_observations: Annotated[str, Field(description="numbers of observations, with commas")] = "8, 16"
    growth_K: Annotated[str, Field(description="numbers of kernels, with commas")] = "1, 2"
    evaluate_teacher: Annotated[str, Field(description="whose students are trained")] = "cnn4"
    dataset: Annotated[str, Field(description="that they are trained on")] = "digits"
    data_root: Annotated[str, Field(description="folder of the data sets; empty: data/ in the checkout")] = ""
    images: Annotated[int, Field(ge=0, description="of the training images; 0: all")] = 256
    batch_size: Annotated[int, Field(ge=1, description="images a batch")] = 128
    workers: Annotated[int, Field(ge=0, description="processes that load images for the published loop")] = 0
    repeats: Annotated[int, Field(ge=1, description="of each training loop, in turn")] = 1
    step_epochs: Annotated[int, Field(ge=1, description="epochs of a student in the whole search steps")] = 1
    steps: Annotated[int, Field(ge=2, description="whole search steps; the first learns no kernel")] = 3
    whole_study: Annotated[str, Field(description="a finished study whose minutes are told; empty: none")] = ""
    seed: Annotated[int, Field(ge=0, description="seed of every random draw")] = 0

    @field_validator("study")
    @classmethod
    def _check_study(cls, value: str) -> str:
        return folder_name(value)

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
        """What `growth_observations` or `growth_K` lists."""
        return [int(part) for part in getattr(self, name).split(",")]
