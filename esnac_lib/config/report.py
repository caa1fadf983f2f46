"""The parameters of report.ipynb. Nothing here needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from esnac_lib.config.base import FlatConfig, folder_name
from esnac_lib.config.paths import outputs_root


class ReportConfig(FlatConfig):
    """Where the tables go; the ledgers are all that lie in outputs."""

    study: Annotated[str, Field(description="name of the report, and of its folder in outputs")] = "report"

    @property
    def folder(self) -> Path:
        """The folder of the report. It need not exist yet."""
        return outputs_root() / self.study

    @field_validator("study")
    @classmethod
    def _check_study(cls, value: str) -> str:
        return folder_name(value)
