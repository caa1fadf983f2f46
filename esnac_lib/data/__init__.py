"""Data sets: loading, splitting, and batches on a device.

Start with `datasets.py` (`load_dataset`); `sources.py` says where each data set comes from, `splits.py` how it is
divided, `batches.py` how batches are drawn and augmented.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={"datasets": ["Dataset", "load_dataset"], "splits": ["StudyData"], "batches": ["DeviceData"]},
)
