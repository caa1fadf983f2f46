"""A study: Algorithm 1 from a teacher to a trained student, resumable at any moment.

Start with `study.py` (`Study`): it opens a `session.py`, goes through `search.py` and ends in `finishing.py`. `plan.py`
estimates what a study will do, `experiment.py` runs families of studies, `evaluation_cache.py` shares evaluations.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs={"study": ["Study"], "experiment": ["Experiment"]})
