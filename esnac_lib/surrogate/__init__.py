"""The surrogate model: a Gaussian process on a learned embedding, and its acquisition function (ESNAC §3).

Start with `kernel.py` (`Kernel`); `embedding.py` and `lstm.py` are the embedding, `fitting.py` learns it, `gp.py`
is the posterior, `acquisition.py` the expected improvement and `maximisers.py` its maximisers.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "kernel": ["Kernel", "learn_kernel", "learn_kernels"],
        "fitting": ["KernelSettings"],
        "embedding": ["Embedding"],
        "acquisition": ["expected_improvement", "log_expected_improvement"],
    },
)
