"""The parameters of notebooks/teacher_coverage.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

import re

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig

_NAME = r"[A-Za-z0-9_.]+(@\d{2,3})?"


class CoverageConfig(FlatConfig):
    """Which models are traced, and how many students of each are verified. The defaults take three small models."""

    study: fields.Folder = "coverage"
    torchvision: str = Field(
        default="squeezenet1_1, shufflenet_v2_x0_5, mobilenet_v3_small",
        description="models, or all; name@96: 96 pixels",
    )
    timm: str = Field(default="", description="models of timm (the extra zoo) likewise; empty: none")
    image_size: int = Field(default=64, ge=16, description="pixels a side")
    students: int = Field(default=3, ge=1, description="random students that are verified of each model")
    seed: fields.Seed = 0

    @field_validator("torchvision", "timm")
    @classmethod
    def _check_models(cls, value: str, info: ValidationInfo) -> str:
        for name in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(_NAME, name):
                allowed = "names with commas are allowed (resnet18, vgg11@96)"
                raise ValueError(f"{info.field_name} = {value!r:.200}: {name!r:.60} is no name of a model: {allowed}")
        return value

    def models(self, zoo: str) -> dict[str, int]:
        """Return the models of a zoo that are named, each with its image size. "all" is a name like any other."""
        found = {}
        for item in filter(None, map(str.strip, getattr(self, zoo).split(","))):
            name, _, size = item.partition("@")
            found[name] = int(size or self.image_size)
        return found
