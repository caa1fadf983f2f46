"""The live view of a study, from its ledger alone: in any notebook or console, in any process.

    monitor.attach("digits")   # a name, a path, a config or a study: running or finished

It writes nothing but a request to stop. A closed page or a restarted kernel loses nothing: attach again.
"""

from esnac_lib.report.live.panels import draw
from esnac_lib.report.live.snapshot import Reader, Snapshot
from esnac_lib.report.live.view import Monitor, attach

__all__ = ["Monitor", "Reader", "Snapshot", "attach", "draw"]
