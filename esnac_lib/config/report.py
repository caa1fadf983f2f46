"""The parameters of notebooks/report.ipynb, checked before PyTorch is loaded."""

from __future__ import annotations

from pathlib import Path

from esnac_lib.config import fields
from esnac_lib.config.base import FlatConfig
from esnac_lib.config.paths import outputs_root


class ReportConfig(FlatConfig):
    """Where the tables are written; the report reads all ledgers in outputs."""

    study: fields.Folder = "report"

    @property
    def folder(self) -> Path:
        """The folder of the report. It need not exist yet."""
        return outputs_root() / self.study
