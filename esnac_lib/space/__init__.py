"""The search space: what operators can do to a teacher, and candidates drawn from it.

Start with `search_space.py` (`SearchSpace`) and `operators/` (remove, shrink, skip; `registry.py` lists them).
`channel_groups.py` says which channels share a ratio, `channel_dependencies.py` which are coupled, `candidates.py`
encodes candidates without building them, `verification.py` checks students.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "search_space": ["SearchSpace"],
        "decisions": ["Decisions", "Limits"],
        "filter_order": ["largest_first"],
        "verification": ["verify"],
    },
)
