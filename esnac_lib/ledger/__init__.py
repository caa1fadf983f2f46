"""The record of a study: every trial, curve and result in one SQLite file, stored as soon as it is known.

Start with `ledger.py` (`Ledger`); `schema.py` has its tables, `file.py` opens, locks and packs the file, `digest.py`
notices damage.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={"ledger": ["Ledger", "pack"], "schema": ["ProposalRow"], "file": ["find_ledgers", "has_ledger"]},
)
