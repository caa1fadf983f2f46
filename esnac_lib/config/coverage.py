"""The parameters of notebooks/teacher_coverage.ipynb. Nothing here needs PyTorch."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from esnac_lib.config.base import FlatConfig, folder_name

_NAME = r"[A-Za-z0-9_.]+(@\d{2,3})?"


class CoverageConfig(FlatConfig):
    """Which models are looked at, and how closely. The defaults take three small models of torchvision."""

    study: Annotated[str, Field(description="name of the census, and of its folder in outputs")] = "coverage"
    torchvision: Annotated[str, Field(description="models, or all; name@96: 96 pixels")] = (
        "squeezenet1_1, shufflenet_v2_x0_5, mobilenet_v3_small"
    )
    timm: Annotated[str, Field(description="models of timm (the extra zoo) likewise; empty: none")] = ""
    image_size: Annotated[int, Field(ge=16, description="pixels a side")] = 64
    students: Annotated[int, Field(ge=1, description="random students that are proved of each model")] = 3
    seed: Annotated[int, Field(ge=0, description="seed of every random draw")] = 0

    @field_validator("study")
    @classmethod
    def _check_study(cls, value: str) -> str:
        return folder_name(value)

    @field_validator("torchvision", "timm")
    @classmethod
    def _check_models(cls, value: str, info: ValidationInfo) -> str:
        for name in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(_NAME, name):
                allowed = "names with commas are allowed (resnet18, vgg11@96)"
                raise ValueError(f"{info.field_name} = {value!r:.200}: {name!r:.60} is no name of a model: {allowed}")
        return value

    def models(self, zoo: str) -> dict[str, int]:
        """The models of a zoo that are named, each with its image size. "all" is a name like any other."""
        found = {}
        for item in filter(None, map(str.strip, getattr(self, zoo).split(","))):
            name, _, size = item.partition("@")
            found[name] = int(size or self.image_size)
        return found
