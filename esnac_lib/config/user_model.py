"""The parameters of notebooks/compress_your_model.ipynb: those of a study, with defaults for a user's own model."""

from __future__ import annotations

from esnac_lib.config import fields
from esnac_lib.config.study import StudyConfig


class CompressConfig(StudyConfig):
    """Parameters of a study of a user's own model. The defaults compress a small DenseNet of torchvision on digits."""

    study: fields.Study = "compressed"
    preset: fields.Preset = "ours"
    teacher: fields.Teacher = "torchvision.models:DenseNet"
    teacher_options: fields.TeacherOptions = '{"num_classes": 10, "growth_rate": 8, "block_config": [3, 3]}'
    image_channels: fields.ImageChannels = 3
    grouping: fields.Grouping = "dependency"
    keep: fields.Keep = "norm"
    steps: fields.Steps = 2
    candidates: fields.Candidates = 60
    epochs: fields.Epochs = 4
    final_epochs: fields.FinalEpochs = 8
    teacher_epochs: fields.TeacherEpochs = 8
