"""The parameters of notebooks/compress_your_model.ipynb: those of a study, with defaults for a model of one's own.

It searches as our preset does, not as the paper: sampler_comparison.ipynb has the evidence.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esnac_lib.config import PRESETS, StudyConfig

OURS = PRESETS["ours"]


class CompressConfig(StudyConfig):
    """A study of a user's own model. The defaults compress a small DenseNet of torchvision on digits."""

    study: Annotated[str, Field(description="name of the study, and of its folder in outputs")] = "compressed"
    teacher: Annotated[str, Field(description="your model: module:callable, or path/to/file.py:callable")] = (
        "torchvision.models:DenseNet"
    )
    teacher_options: Annotated[str, Field(description="its arguments, as JSON")] = (
        '{"num_classes": 10, "growth_rate": 8, "block_config": [3, 3]}'
    )
    image_channels: Annotated[int, Field(ge=0, le=3, description="3: repeat grey images; 0: as they are")] = 3
    grouping: Annotated[Literal["dimension", "dependency"], Field(description="what shares a shrinkage ratio")] = (
        "dependency"
    )
    steps: Annotated[int, Field(ge=1, description="search steps; K * steps architectures are evaluated")] = 2
    sampling: Annotated[Literal["paper", "mild"], Field(description="how random students and candidates are drawn")] = (
        OURS["sampling"]
    )
    first: Annotated[
        Literal["random", "narrowed"],
        Field(description="the first students of ESNAC and evolution: random, or narrowed teachers"),
    ] = OURS["first"]
    surrogate: Annotated[
        Literal["f", "accuracy"], Field(description="what ESNAC's kernels are learned on: f, or the accuracy in it")
    ] = OURS["surrogate"]
    acquisition: Annotated[
        Literal["random", "evolution", "local"], Field(description="how the expected improvement is maximised")
    ] = OURS["acquisition"]
    subset: Annotated[
        float, Field(gt=0, le=1, description="share of the observations that each kernel learns from")
    ] = OURS["subset"]
    candidates: Annotated[int, Field(ge=1, description="candidates a kernel looks at in a step")] = 60
    epochs: Annotated[int, Field(ge=1, description="epochs of search training")] = 4
    final_epochs: Annotated[int, Field(ge=0, description="epochs of final training")] = 8
    teacher_epochs: Annotated[int, Field(ge=1, description="epochs of a teacher's training")] = 8
