"""Training: search training, teachers and final training, on this machine or on a Ray cluster.

Start with `evaluator.py` and follow one student: `evaluator.py` (architectures in, accuracies out), `retries.py`
(smaller groups after an out-of-memory error), `trainer.py` (`train`: the epochs of a group), `training_run.py` (one
trainee: its steps, failure and result). `job.py` has the nouns that these pass on. They use `recipes.py` (optimiser,
learning rate, loss), `callbacks.py`, `checkpoints.py`, `cuda_graphs.py` (captured steps, streams), `device.py` (memory,
precision, random state) and `faults.py` (faults of the machine, time limit). `teacher.py` and `final.py` train with the
same loop; `fingerprint.py` says by what content a teacher is known; `ray_evaluator.py` spreads an evaluation over a
cluster; `progress.py` prints how far a study is.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "evaluator": ["LocalEvaluator"], "job": ["Trainee", "TrainingJob"], "ray_evaluator": ["RayEvaluator"],
        "recipes": ["Recipe"], "trainer": ["train"],
    },
)  # fmt: skip
