"""The parameters of notebooks/compress_your_model.ipynb: those of a study, with defaults for a model of one's own.

It searches as our preset does, not as the paper: sampler_comparison.ipynb has the evidence.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esnac_lib.config.study import PRESETS, Acquisition, First, Keep, Learned, Sampling, StudyConfig, Subset

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
    keep: Keep = "norm"
    steps: Annotated[int, Field(ge=1, description="search steps; K * steps architectures are evaluated")] = 2
    sampling: Sampling = OURS["sampling"]
    first: First = OURS["first"]
    surrogate: Learned = OURS["surrogate"]
    acquisition: Acquisition = OURS["acquisition"]
    subset: Subset = OURS["subset"]
    candidates: Annotated[int, Field(ge=1, description="candidates a kernel looks at in a step")] = 60
    epochs: Annotated[int, Field(ge=1, description="epochs of search training")] = 4
    final_epochs: Annotated[int, Field(ge=0, description="epochs of final training")] = 8
    teacher_epochs: Annotated[int, Field(ge=1, description="epochs of a teacher's training")] = 8
