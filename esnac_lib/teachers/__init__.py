"""The networks that are compressed: one file for each family, and users' own models.

Start with `registry.py`: `teacher("resnet18", 10)` is an ordinary `nn.Module`; `trace` makes an architecture of it.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submod_attrs={"registry": ["TEACHERS", "TeacherEntry", "teacher"]}
)
