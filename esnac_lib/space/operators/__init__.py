"""The operators of a search, one file each: what can be done to a teacher.

Start with `base.py` (the protocol) and `remove.py`; `space/registry.py` lists them.
"""
