"""The parameters of report.ipynb. Nothing here needs PyTorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from esnac_lib.config import FlatConfig, outputs_root


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
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", value):
            raise ValueError(f"study = {value!r} is no name of a folder: letters, digits, '-', '_' and '.' are allowed")
        return value
