"""The parameters of every notebook and study: flat, frozen, and checked in one line, without loading PyTorch.

Start with `base.py` (`FlatConfig`, what they have in common) and `study.py` (`StudyConfig`); `paths.py` says where
studies and data sets are kept.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "base": ["FlatConfig", "check_resume", "nearest"],
        "study": ["StudyConfig"],
        "paths": ["data_root_of", "outputs_root", "study_dir"],
    },
)
