"""A student exported in three forms.

    >>> save_bundle("student", architecture, weights)   # graph, weights and facts: load_bundle("student") runs it
    >>> save_python("student", architecture, weights)   # student.py: a plain nn.Module, which needs PyTorch only
    >>> to_onnx("student.onnx", architecture, weights)  # for onnxruntime and whatever else reads ONNX

None of them needs the teacher's source, and loading one cannot run code. Each carries what `classes` and
`normalisation` tell it, which `StudyData.meaning` has: so raw images go in, and names of classes come out.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "bundle": ["Bundle", "load_bundle", "read_bundle", "save_bundle"],
        "everything": ["save_all"],
        "onnx_model": ["to_onnx"],
        "python_file": ["python_weights", "save_python", "to_python"],
    },
)
