"""Training: search training, teachers and final training, on this machine or on a Ray cluster.

Start with `trainer.py` (the one training loop); `recipes.py` has its settings, `evaluator.py` trains the students of a
search step, `cuda_graphs.py` captures training steps, `retries.py` retries after an out-of-memory error.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "evaluator": ["LocalEvaluator"],
        "ray_evaluator": ["RayEvaluator"],
        "recipes": ["Recipe"],
        "trainer": ["train"],
    },
)
