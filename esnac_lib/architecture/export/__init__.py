"""A student exported in three forms.

    >>> save_bundle("student", architecture, weights)   # graph, weights and facts: load_bundle("student") runs it
    >>> save_python("student", architecture, weights)   # student.py: a plain nn.Module, which needs PyTorch only
    >>> to_onnx("student.onnx", architecture, weights)  # for onnxruntime and whatever else reads ONNX

None of them needs the teacher's source, and loading one cannot run code.
"""

from esnac_lib.architecture.export.bundle import Bundle, load_bundle, read_bundle, save_bundle
from esnac_lib.architecture.export.everything import save_all
from esnac_lib.architecture.export.onnx_model import to_onnx
from esnac_lib.architecture.export.python_file import python_weights, save_python, to_python

__all__ = [
    "Bundle",
    "load_bundle",
    "python_weights",
    "read_bundle",
    "save_all",
    "save_bundle",
    "save_python",
    "to_onnx",
    "to_python",
]
