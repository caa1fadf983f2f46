"""The parameters of notebooks/compress_your_model.ipynb: those of a study, with defaults for a user's own model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esnac_lib.config import fields
from esnac_lib.config.study import StudyConfig

DEMO = "torchvision.models:DenseNet"
DEMO_NEEDS = {
    "teacher_options": '{"num_classes": 10, "growth_rate": 8, "block_config": [3, 3]}',
    "image_channels": 3,
}


class CompressConfig(StudyConfig):
    """Parameters of a study of a user's own model. The defaults compress a small DenseNet of torchvision on digits."""

    study: fields.Study = "compressed"
    preset: fields.Preset = "ours"
    teacher: fields.Teacher = DEMO
    grouping: fields.Grouping = "dependency"
    keep: fields.Keep = "norm"
    steps: fields.Steps = 2
    candidates: fields.Candidates = 60
    epochs: fields.Epochs = 4
    final_epochs: fields.FinalEpochs = 8
    teacher_epochs: fields.TeacherEpochs = 8

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the preset sets, and what the teacher of the demonstration needs, if it is that one."""
        needs = DEMO_NEEDS if str(given.get("teacher", DEMO)) == DEMO else {}
        return super().preset_values(given) | needs
