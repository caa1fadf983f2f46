"""Tables and figures of an Architecture Compression study, the second paper's.

from esnac_lib.report import latent_descent

record = latent_descent.read_compression("ac_digits")
latent_descent.compression_table(record)
"""

from esnac_lib.report.figures.codec import descent_path, first_filters, joint_loss, regressors
from esnac_lib.report.figures.latent_descent import accuracy_against_size, architectures
from esnac_lib.report.records.latent_descent import CompressionRecord, items_of, read_compression
from esnac_lib.report.tables.latent_descent import (
    codec_table,
    compression_claim,
    compression_table,
    layers_table,
    patterns_table,
    rejections_table,
)

__all__ = [
    "CompressionRecord",
    "accuracy_against_size",
    "architectures",
    "codec_table",
    "compression_claim",
    "compression_table",
    "descent_path",
    "first_filters",
    "items_of",
    "joint_loss",
    "layers_table",
    "patterns_table",
    "read_compression",
    "regressors",
    "rejections_table",
]
