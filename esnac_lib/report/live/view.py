"""The live view itself: status, figure and drawing as widgets, kept up to date by a thread that reads the ledger.

A thread, because the kernel's own loop is blocked while a cell runs, and a study may run in the same kernel. It looks
at the files' dates once a second, reads when they changed, and draws for at most a twentieth of the time.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from esnac_lib.config.paths import study_dir
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import EsnacError, LedgerError
from esnac_lib.files import shown
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.report.figures.student_graph import student_graph
from esnac_lib.report.live.panels import draw, to_png, to_svg
from esnac_lib.report.live.snapshot import Reader, Snapshot
from esnac_lib.report.records.study import ledger_path
from esnac_lib.report.saving import HasFolder

LOOK_EVERY = 1.0  # seconds between two looks at the files
SHARE = 0.05  # of the time that may be spent on reading and drawing
STILL_EVERY = 30.0  # seconds between two still pictures for the notebook's file

# A cell has three outputs: this text, the widgets, and the still picture. The picture is hidden where the widgets are
# alive, and what is left of the widgets where they are not: in a notebook that was opened again, or is shown elsewhere.
OUTPUTS = """<style>
.jp-OutputArea-child:has(.esnac-outputs) { display: none }
.jp-OutputArea-child:has(.esnac-outputs) + .jp-OutputArea-child:not(:has(.esnac-monitor)) { display: none }
.jp-OutputArea-child:has(.esnac-monitor) + .jp-OutputArea-child:has(img) { display: none }
</style><span class="esnac-outputs"></span>"""
STYLE = """<style>
.esnac-panels svg { pointer-events: none }
.esnac-panels a { pointer-events: auto; cursor: pointer }
.esnac-monitor a:hover use, .esnac-monitor a:hover path { stroke: #D55E00 !important; stroke-width: 2px }
.esnac-monitor .esnac-words { line-height: 1.5 }
</style>"""
# A point of the figure puts its number into the field below, as a person would.
ON_CLICK = (
    "const a = event.target.closest('a'); if (!a) return; event.preventDefault();"
    "const field = this.closest('.esnac-monitor').querySelector('.esnac-trial input');"
    "field.value = a.getAttribute('href').slice(6);"
    "field.dispatchEvent(new Event('input', {bubbles: true}));"
    "field.dispatchEvent(new Event('change', {bubbles: true}));"
)


def attach(study: str | Path | StudyConfig | HasFolder, live: bool | None = None) -> Monitor:
    """Return a view of a study that runs in this or another process, or that is finished; a notebook's cell shows it.

    study: its name, its folder, its ledger's path, its config, or the `Study`. live: widgets that follow the study
    (True) or one still figure (False); None takes widgets in a notebook that JupyterLab shows, and the figure where
    the notebook is executed unattended (papermill, nbval). In a console it is a few lines of text. The notebook's file
    gets the figure in either case, updated while the page is open; after a reload JupyterLab keeps the widgets running
    and leaves the file's figure as it was until the cell is run again. Raises LedgerError where there is no ledger.
    """
    place = study_dir(study) if isinstance(study, StudyConfig) else study
    path = ledger_path(place if isinstance(place, str | Path) else place.folder)
    return Monitor(path, "JPY_SESSION_NAME" in os.environ if live is None else live)


class Monitor:
    """The live view of a study, shown where it is the last value of a cell.

    `snapshot` reads the study now; `choose` shows another architecture; `stop` asks the study to stop, `finish` to end
    its search and finish with the best; `close` ends the view's thread and leaves the view as it is.
    """

    def __init__(self, path: Path, live: bool) -> None:
        self.live = live
        self._reader = Reader(path)
        self._lock = threading.RLock()
        self._snapshot = self._reader.read()
        self._observations: Snapshot | None = None  # what the widgets show; others may have read a newer one since
        self._chosen: int | None = None  # None: the best so far
        self._widgets: _Widgets | None = None
        self._still: Any = None
        self._ended = threading.Event()

    def __repr__(self) -> str:
        """Return the study in three lines."""
        snapshot = self.snapshot()
        return f"{snapshot.record.config.study}: {snapshot.status}\n{snapshot.found}\n{shown(self._reader.ledger.path)}"

    def snapshot(self) -> Snapshot:
        """Return the study as it is now."""
        with self._lock:
            if self._reader.changed():
                self._snapshot = self._reader.read()
            return self._snapshot

    def choose(self, trial: int | None) -> None:
        """Show the architecture of this trial; None follows the best so far. Raises LedgerError for an unknown one."""
        with self._lock:
            count = len(self._snapshot.record.trials)
            if trial is not None and not 0 <= trial < count:
                raise LedgerError(f"trial = {trial}: the study has {count} so far, counted from 0")
            self._chosen = trial
            if self._widgets is not None:
                self._show()

    def stop(self) -> None:
        """Ask the study to stop; what it has in training goes on from its last epoch when it is started again."""
        self._running("stop").request_stop()

    def finish(self) -> None:
        """Ask the study to end its search, and to train the best found so far to the end."""
        self._running("finish").request_finish()

    def _running(self, what: str) -> Ledger:
        snapshot = self.snapshot()
        if snapshot.writer is None:
            name = snapshot.record.config.study
            raise LedgerError(f"nothing to {what}: no process works on {name!r} ({snapshot.state})")
        return self._reader.ledger

    def close(self) -> None:
        """Stop following the study."""
        self._ended.set()

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if not hasattr(get_ipython(), "kernel"):  # a console
            print(self)
            return
        with self._lock:
            if self.live:
                known, widgets = self._widgets, self._widgets or self._open()
                display({"text/html": OUTPUTS, "text/plain": ""}, raw=True)
                display(widgets.box._repr_mimebundle_() | {"text/plain": ""}, raw=True)
                if known is None:
                    threading.Thread(target=self._follow, name="monitor", daemon=True).start()
            still = display(self._picture(), raw=True, display_id=True)
            self._still = still if self.live else None

    def _open(self) -> _Widgets:
        self._widgets = _Widgets(self)
        self._show()
        return self._widgets

    def _picture(self) -> dict[str, Any]:
        """Return the still figure as an output of a notebook."""
        return {"image/png": to_png(draw(self._snapshot, self._shown)), "text/plain": repr(self)}

    @property
    def _shown(self) -> int | None:
        """The trial whose architecture is shown."""
        student = self._snapshot.record.student
        return student.trial if self._chosen is None and student is not None else self._chosen

    def _follow(self) -> None:  # the thread
        spent, began, still_at = 0.0, time.monotonic(), time.monotonic()
        behind = False  # the still picture
        while not self._ended.wait(LOOK_EVERY):
            if spent > SHARE * (time.monotonic() - began):
                continue
            before = time.thread_time()
            behind |= self._look()
            due = self._snapshot.writer is None or time.monotonic() - still_at > STILL_EVERY
            if behind and due and self._still is not None:
                self._still.update(self._picture(), raw=True)
                behind, still_at = False, time.monotonic()
            spent += time.thread_time() - before

    def _look(self) -> bool:
        """Read and show what has changed; whether anything had."""
        try:
            with self._lock:
                if self.snapshot() is self._observations:
                    return False
                self._show()
        except EsnacError as error:  # the ledger was moved away, or is being restored
            self._show_fault(str(error))
        except Exception:  # in a thread it would go unseen
            self._show_fault(traceback.format_exc())
        return True

    def _show(self) -> None:
        assert self._widgets is not None
        self._observations = self._snapshot
        svg = to_svg(draw(self._snapshot, self._shown, heading=False), self._snapshot)
        self._widgets.update(self._snapshot)
        self._widgets.figure.value = f'<div class="esnac-panels" onclick="{escape(ON_CLICK)}">{svg}</div>'
        self._widgets.show_trial(self._snapshot, self._shown, following=self._chosen is None)

    def _show_fault(self, text: str) -> None:
        assert self._widgets is not None
        self._widgets.words.value = f"{STYLE}<pre>{escape(text)}</pre>"


class _Widgets:
    """The widgets of one view, top down: words and two buttons, progress, figure, the chosen architecture."""

    def __init__(self, monitor: Monitor) -> None:
        import ipywidgets

        self.monitor = monitor
        fixed, wide = {"flex": "0 0 auto"}, {"width": "100%"}
        self.words, self.figure = ipywidgets.HTML(layout=wide), ipywidgets.HTML(layout=wide)
        self.progress = ipywidgets.IntProgress(layout=wide | {"height": "14px"})
        tip = "The search ends, and the best found so far are trained to the end. It can go on later."
        self.finish = ipywidgets.Button(icon="flag-checkered", tooltip=tip, layout=fixed | {"width": "auto"})
        self.stop = ipywidgets.Button(icon="stop", tooltip="It can be resumed.", layout=fixed)
        look = fixed | {"width": "auto", "margin": "2px 20px"}
        self.best = ipywidgets.Checkbox(value=True, description="follow the best", indent=False, layout=look)
        look, label = fixed | {"width": "110px"}, {"description_width": "auto"}
        self.trial = ipywidgets.BoundedIntText(min=0, max=0, description="trial", style=label, layout=look)
        self.trial.add_class("esnac-trial")
        self.facts = ipywidgets.HTML()
        self.drawing = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
        chooser = ipywidgets.HBox([self.trial, self.best, self.facts], layout={"align_items": "center"})
        head = ipywidgets.HBox([self.words, self.finish, self.stop], layout={"justify_content": "space-between"})
        self.box = ipywidgets.VBox([head, self.progress, self.figure, chooser, self.drawing])
        self.box.add_class("esnac-monitor")
        self._drawn: tuple[Any, ...] | None = None
        self._setting: int | None = None  # the thread that sets the fields: its changes are not a person's choice
        self.finish.on_click(lambda _: self._ask(self.monitor.finish, self.finish, "finishing …"))
        self.stop.on_click(lambda _: self._ask(self.monitor.stop, self.stop, "stopping …"))
        self.trial.observe(self._on_trial, "value")
        self.best.observe(self._on_best, "value")

    def update(self, snapshot: Snapshot) -> None:
        """Update the status, the progress and the buttons."""
        config, state = snapshot.record.config, snapshot.state
        heading = escape(f"{config.sampler} compresses {config.teacher} on {config.dataset}")
        lines = [f"<b>{escape(config.study)}</b> &nbsp; {heading}", escape(snapshot.status), escape(snapshot.found)]
        self.words.value = f'{STYLE}<div class="esnac-words" data-state="{state}">{"<br>".join(lines)}</div>'
        self.progress.max = config.num_evaluations
        self.progress.value = len(snapshot.record.observed)
        self.progress.bar_style = {"finished": "success", "running": "info", "finishing": "info"}.get(state, "warning")
        self.finish.disabled = state != "running"
        self.finish.description = "finishing …" if state == "finishing" else "finish now with the best"
        self.stop.disabled = state not in ("running", "finishing")
        self.stop.description = "stopping …" if state == "stopping" else "stop the study"

    def show_trial(self, snapshot: Snapshot, trial: int | None, following: bool) -> None:
        """Show the facts and the drawing of the chosen trial."""
        self._setting = threading.get_ident()
        try:
            self.trial.max = max(0, len(snapshot.record.trials) - 1)
            self.trial.value = trial or 0
            self.best.value = following
        finally:
            self._setting = None
        self.facts.value = "" if trial is None else escape(snapshot.describe(trial))
        key = (trial, snapshot.record.solution is not None, snapshot.record.best is not None)
        if key != self._drawn:  # it takes longer than all else, and changes only with the trial
            if trial is not None:
                self.drawing.value = to_png(student_graph(snapshot.record, trial))
            self.drawing.layout.display = "none" if trial is None else ""
            self._drawn = key

    def _ask(self, request: Callable[[], None], button: Any, meanwhile: str) -> None:
        try:
            request()
        except LedgerError as error:
            self.facts.value = escape(str(error))
        else:
            button.disabled, button.description = True, meanwhile

    def _on_trial(self, change: dict[str, Any]) -> None:
        if self._setting != threading.get_ident():
            self.monitor.choose(change["new"])

    def _on_best(self, change: dict[str, Any]) -> None:
        if self._setting != threading.get_ident():
            self.monitor.choose(None if change["new"] else self.trial.value)
