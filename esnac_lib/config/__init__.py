"""The parameters of every notebook and study: flat, frozen, and checked in one line, without loading PyTorch.

Start with `study.py` (`StudyConfig` and its presets) and `base.py` (what all configs have in common). Parameters that
several configs have are declared in `fields.py`; `paths.py` says where studies and data sets are kept.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "base": ["FlatConfig", "check_resume"], "benchmarks": ["BenchmarksConfig"], "comparison": ["ComparisonConfig"],
        "coverage": ["CoverageConfig"], "experiment": ["ExperimentConfig"], "latent_descent": ["CompressionConfig"],
        "paper": ["AblationsConfig", "N2nConfig", "ShufflenetConfig", "TpeConfig", "TransferConfig"],
        "paths": ["data_root_of", "outputs_root", "study_dir"], "report": ["ReportConfig"],
        "study": ["PRESETS", "StudyConfig"], "user_model": ["CompressConfig"],
    },
)  # fmt: skip
