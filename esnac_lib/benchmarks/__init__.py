"""Measurements of the library itself: its speed compared with simple references, and which models it can trace.

Start with `proposing.py` and `evaluating.py` (the two halves of a search step); `coverage.py` is the census of
torchvision's and timm's models, `tabular/` the table of all evaluations, on which samplers are tried without training.
"""
