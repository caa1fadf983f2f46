"""Everything that was ever evaluated, as one table, and what can be found out from it without training.

    table = offline.load()                                    # the committed table
    problem = table.largest()
    offline.surrogate_quality(table, problem)                 # rank correlation of surrogates on unseen students
    offline.replay(RandomSampler(problem.space(), 0), offline.Emulator(table, problem), K=8, steps=6)

`offline.write(offline.collect(outputs_root()), path)` makes such a table from ledgers.
"""

from esnac_lib.benchmarks.tabular.emulator import Emulator, replay
from esnac_lib.benchmarks.tabular.predictors import PREDICTORS, Observed, surrogate_quality
from esnac_lib.benchmarks.tabular.table import COMMITTED, OfflineTable, Problem, collect, load, write

__all__ = [
    "COMMITTED", "PREDICTORS", "Emulator", "Observed", "OfflineTable", "Problem", "collect", "load", "replay",
    "surrogate_quality", "write",
]  # fmt: skip
