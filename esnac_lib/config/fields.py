"""Parameters that several configs have: type, limits and description, declared once. Defaults are the configs' own.

class TpeConfig(ExperimentConfig):
    steps: Steps = 4
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from esnac_lib.config.base import show


def _is_folder(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) is not None


def _folder(value: str, more: str = "") -> str:
    if not _is_folder(value):
        allowed = "1 to 100 letters, digits, '-', '_' and '.' are allowed, the first a letter, digit or '_'"
        raise ValueError(f"study = {show(value)} is no name of a folder: {allowed}{more}")
    return value


def _study(value: str) -> str:
    both = all(map(_is_folder, value.split("/", 1))) and "/" in value
    return value if both else _folder(value, ", or two such names with '/' between for a study of an experiment")


# What is compressed, and on which data
Study = Annotated[str, AfterValidator(_study), Field(description="name, and folder in outputs")]
Folder = Annotated[str, AfterValidator(_folder), Field(description="name, and folder in outputs")]
Teacher = Annotated[str, Field(description="network to compress; your own: module:callable, or file.py:callable")]
TeacherOptions = Annotated[str, Field(description="its arguments, as JSON")]
Dataset = Annotated[str, Field(description="name of a data set, or a path that ends in .npz")]
DataRoot = Annotated[str, Field(description="folder of the data sets; empty: data/ in the checkout")]
ImageChannels = Annotated[int, Field(ge=0, le=3, description="3: repeat grey images; 0: as they are")]

# The search
Preset = Annotated[Literal["paper", "ours"], Field(description="how ESNAC searches: as in the paper, or ours")]
Kernels = Annotated[int, Field(ge=1, description="kernels, and architectures a step")]
KernelCounts = Annotated[str, Field(description="numbers of kernels to compare, with commas")]
Steps = Annotated[int, Field(ge=1, description="search steps; K * steps architectures are evaluated")]
Candidates = Annotated[int, Field(ge=1, description="candidates that each kernel scores in a step")]
Grouping = Annotated[Literal["dimension", "dependency"], Field(description="what shares a shrinkage ratio")]
Keep = Annotated[
    Literal["first", "norm"], Field(description="filters that shrinking keeps: the first, or those of the largest norm")
]
MaxMacs = Annotated[int, Field(ge=0, description="multiply-accumulates an image, at most; 0: no limit")]

# Training
Epochs = Annotated[int, Field(ge=1, description="epochs of search training")]
SearchImages = Annotated[int, Field(ge=0, description="images for search training; 0: the training split")]
BatchSize = Annotated[int, Field(ge=2, description="images a batch")]
Validation = Annotated[int, Field(ge=1, description="images kept from training for validation")]
Augment = Annotated[bool, Field(description="random crops, and flips where the data set allows them")]
TeacherEpochs = Annotated[int, Field(ge=1, description="epochs of a teacher's training")]
Final = Annotated[Literal["validated", "paper", "none"], Field(description="final training; none: search only")]
FinalEpochs = Annotated[int, Field(ge=0, description="epochs of final training")]
FinalLr = Annotated[float, Field(gt=0, description="learning rate of final training")]
Top = Annotated[int, Field(ge=1, description="students that go into final training")]
Baseline = Annotated[bool, Field(description="also train the uniformly narrowed teacher")]

# The run
Seed = Annotated[int, Field(ge=0, description="seed of every random draw")]
Device = Annotated[str, Field(description="auto, cpu, cuda or cuda:N")]
MaxMinutes = Annotated[float, Field(ge=0, description="minutes for all of it, final training too; 0: no limit")]
CompareWith = Annotated[str, Field(description="other studies to show in the same figures, with commas")]
Runs = Annotated[int, Field(ge=1, description="runs of each variant, with the seeds seed, seed + 1, ...")]
