"""The record of a study: every trial, curve and result in one SQLite file, written as soon as it is known.

Start with `ledger.py` (`Ledger`); `file.py` opens, locks and packs the file, `digest.py` guards what is stored.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "ledger": ["Ledger"],
        "file": ["find_ledgers", "has_ledger"],
    },
)
