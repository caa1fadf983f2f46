"""The parameters of notebooks/teacher_coverage.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

import re

from pydantic import ValidationInfo, field_validator

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig, names_in, option


class CoverageConfig(FlatConfig):
    """Which models are traced, and how many students of each are verified. The defaults take three small models."""

    study: fields.Folder = "coverage"
    torchvision: str = option(
        "squeezenet1_1, shufflenet_v2_x0_5, mobilenet_v3_small", "models, or all; name@96: 96 pixels"
    )
    timm: str = option("", "models of timm (the extra zoo) likewise; empty: none")
    image_size: int = option(64, "pixels a side", ge=16)
    students: int = option(3, "random students that are verified of each model", ge=1)
    seed: fields.Seed = 0

    @field_validator("torchvision", "timm")
    @classmethod
    def _check_models(cls, value: str, info: ValidationInfo) -> str:
        for name in names_in(value):
            if not re.fullmatch(r"[A-Za-z0-9_.]+(@\d{2,3})?", name):
                allowed = "names with commas are allowed (resnet18, vgg11@96)"
                raise ValueError(f"{info.field_name} = {value!r:.200}: {name!r:.60} is no name of a model: {allowed}")
        return value

    def models(self, zoo: str) -> dict[str, int]:
        """Return the models of a zoo that are named, each with its image size. "all" is a name like any other."""
        parts = (item.partition("@") for item in names_in(getattr(self, zoo)))
        return {name: int(size or self.image_size) for name, _, size in parts}
