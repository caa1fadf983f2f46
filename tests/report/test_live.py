"""The live view: what it says of a study in every state, what it draws, and that it disturbs nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from report.helpers import (
    STUDIES,
    Books,
    finished,
    one_trial,
    running,
    searched,
    stopped_in_final_training,
    untrained,
)

from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import LedgerError
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.report import live as monitor
from esnac_lib.report.live.panels import draw, to_png, to_svg
from esnac_lib.report.live.snapshot import Reader, Snapshot
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.teachers import teacher

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(trace(teacher("cnn4", 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


@pytest.fixture
def books(tmp_path: Path, space: SearchSpace) -> Iterator[Books]:
    """A study in its second step, of which this process is the writer."""
    found = one_trial(tmp_path / "s", space)
    found.ledger.complete(1, 0.8, 0.5, 2, 2.0)
    found.add_trials({2: None, 3: None}, step=1)
    found.ledger.running([2, 3])
    found.ledger.epoch("search", "trial0002", 1, 2.0, 0.4, 1.0)
    yield found
    found.ledger.close()


def snapshot_of(books: Books) -> Snapshot:
    return Reader(books.folder / "ledger.sqlite").read()


def summarise(books: Books, evaluations: int) -> None:
    (books.folder / "summary.json").write_text(f'{{"evaluations": {evaluations}}}')


# -- in words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.__name__)
def test_every_study_is_shown(study: Callable[[Path, SearchSpace], Books], tmp_path: Path, space: SearchSpace) -> None:
    books = study(tmp_path / "s", space)
    for writing in (True, False):
        snapshot = snapshot_of(books)
        assert snapshot.state == ("running" if writing else "stopped")
        assert f"{len(snapshot.record.observed)} of 6 evaluated" in snapshot.status
        figure = draw(snapshot)
        assert snapshot.status in figure.texts[0].get_text() and snapshot.found in figure.texts[0].get_text()
        ElementTree.fromstring(to_svg(figure, snapshot))
        books.ledger.close()
    assert "\n" not in snapshot.status + snapshot.found


def test_states(books: Books, tmp_path: Path) -> None:
    assert snapshot_of(books).status == "running, 2 of 6 evaluated, searching (epoch 2 of 8)"
    Ledger(books.ledger.path, read_only=True).request_stop()
    assert snapshot_of(books).status.startswith("stopping, 2 of 6 evaluated, ")
    books.ledger.close()
    assert snapshot_of(books).status == "stopped, 2 of 6 evaluated; the same command goes on"
    summarise(books, 1)  # an older one: the study has grown since
    assert snapshot_of(books).state == "stopped"
    summarise(books, 2)
    assert snapshot_of(books).status == "finished, 2 of 6 evaluated; the same command goes on"


def test_a_killed_writer_is_no_writer(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from esnac_lib.ledger import Ledger; Ledger.start(sys.argv[1], {});"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "ledger.sqlite"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
    child.wait()
    assert path.with_name("ledger.sqlite.lock").read_text() == str(child.pid)
    assert Ledger(path, read_only=True).writer() is None
    with Ledger.start(path, {}) as ledger:
        assert Ledger(path, read_only=True).writer() is not None
    assert ledger.writer() is None


def test_what_was_found(tmp_path: Path, space: SearchSpace) -> None:
    assert snapshot_of(untrained(tmp_path / "a", space)).found == "no student evaluated yet"
    snapshot = snapshot_of(searched(tmp_path / "b", space))
    row = snapshot.record.trials.iloc[1]
    size = f"{row.params:,} parameters, {65834 / row.params:.1f} times fewer"
    assert snapshot.describe(1) == f"trial 1, f {row.f:.4f}, 90.00% validation accuracy, {size}"
    assert snapshot.found == f"best so far: {snapshot.describe(snapshot.record.best.trial)}"
    assert snapshot.describe(3).endswith("times fewer, failed: the loss is nan")
    snapshot = snapshot_of(finished(tmp_path / "c", space))
    assert snapshot.found == f"solution: {snapshot.describe(1)}"
    assert snapshot.describe(1).endswith("; 90.00% test accuracy after final training")


def test_time_left(tmp_path: Path, space: SearchSpace) -> None:
    """It is the study's own estimate, of all that is left, while it runs."""
    books = running(tmp_path / "a", space)
    assert snapshot_of(books).seconds_left is None and "left" not in snapshot_of(books).status
    books.ledger.set_left(185.0)
    assert snapshot_of(books).seconds_left == 185 and snapshot_of(books).status.endswith(", 3 min 5 s left in all")
    books.ledger.close()
    assert "left" not in snapshot_of(books).status


def test_what_is_in_training(books: Books) -> None:
    snapshot = snapshot_of(books)
    assert (snapshot.phase, snapshot.epochs_in_all) == ("search", 8)
    assert list(snapshot.running["name"]) == ["trial0002"]
    assert set(snapshot.ended["name"]) == {"trial0000"}
    ledger = books.ledger
    for trial in (2, 3):
        ledger.fail(trial, "reason", 1.0)
    for name, epochs in (("a", 15), ("b", 15), ("c", 3)):
        for epoch in range(1, epochs + 1):
            ledger.epoch("final", name, epoch, 1.0, 0.5, 1.0)
    snapshot = snapshot_of(books)
    assert (snapshot.phase, snapshot.epochs_in_all) == ("final", 15)
    assert list(snapshot.running["name"].unique()) == ["c"]  # as far as anybody knows: the others have ended
    for epoch in (1, 2):
        ledger.epoch("full", "a", epoch, 1.0, 0.5, 1.0)
    assert "final training on all images (epoch 3 of 15)" in snapshot_of(books).status


def test_who_fell_behind_is_not_in_training(tmp_path: Path, space: SearchSpace) -> None:
    books = stopped_in_final_training(tmp_path / "s", space)  # trial 1 is at epoch 2
    for epoch in range(1, 8):
        books.ledger.epoch("final", "trial0002", epoch, 1.0, 0.5, 1.0)
    assert set(snapshot_of(books).running["name"]) == {"trial0002"}


# -- drawn -------------------------------------------------------------------------------------------------------------


def test_the_panels_show_what_the_ledger_says(books: Books) -> None:
    snapshot = snapshot_of(books)
    left, middle, right = draw(snapshot, chosen=1).axes
    complete = snapshot.record.complete
    assert left.collections[0].get_offsets().tolist() == [[1, complete.f[0]], [2, complete.f[1]]]
    assert left.lines[0].get_ydata().tolist() == [complete.f[0], max(complete.f)]
    assert left.lines[-1].get_xydata().tolist() == [[2, complete.f[1]]]  # the ring
    assert sorted(middle.collections[0].get_offsets()[:, 1]) == pytest.approx([80, 90])
    assert middle.lines[-1].get_xydata().tolist() == [[complete.params[1], 80]]
    assert right.lines[0].get_xydata().tolist() == [[1, 40]]
    for axes in (left, middle, right):
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()


def test_every_point_is_a_link_that_says_what_it_is(tmp_path: Path, space: SearchSpace) -> None:
    snapshot = snapshot_of(searched(tmp_path / "s", space))
    svg = to_svg(draw(snapshot), snapshot)
    root = ElementTree.fromstring(svg)
    places = "{http://www.w3.org/2000/svg}"
    links = [(a.get("href"), a.find(f"{places}title").text) for a in root.iter(f"{places}a")]  # type: ignore[union-attr]
    # the four complete ones in both panels, the failed ones in the first
    numbers = [0, 0, 1, 1, 2, 2, 3, 4, 5, 5]
    assert sorted(links) == [(f"#trial{number}", snapshot.describe(number)) for number in numbers]
    assert "_blank" not in svg and not re.search(r">\s*\*\s*\{", svg)
    assert root.get("width") == "100%" and root.get("viewBox")


def test_reasons_are_escaped(tmp_path: Path, space: SearchSpace) -> None:
    books = one_trial(tmp_path / "s", space)
    books.ledger.fail(1, "<script>alert('&')</script>", 1.0)
    snapshot = snapshot_of(books)
    svg = to_svg(draw(snapshot), snapshot)
    assert "<script" not in svg and "&lt;script&gt;" in svg


# -- looking on --------------------------------------------------------------------------------------------------------


def test_a_reader_reads_when_something_changed_and_changes_nothing(books: Books) -> None:
    reader = Reader(books.folder / "ledger.sqlite")
    assert reader.changed()
    reader.read()
    assert not reader.changed()
    books.ledger.complete(2, 0.5, 0.5, 1, 1.0)
    assert reader.changed()
    assert len(reader.read().record.observed) == 3
    books.ledger.close()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in books.folder.iterdir()}
    assert reader.changed() and reader.read().writer is None and not reader.changed()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in books.folder.iterdir()} == before


def test_a_study_is_found_by_whatever_names_it(outputs: Path, space: SearchSpace) -> None:
    books = finished(outputs / "mine", space)
    books.ledger.close()
    folder = outputs / "mine"

    class Study:
        pass

    study = Study()
    study.folder = folder  # type: ignore[attr-defined]
    views = [monitor.attach(what) for what in ("mine", folder, folder / "ledger.sqlite", books.config, study)]  # type: ignore[arg-type]
    assert len({repr(view) for view in views}) == 1
    assert repr(views[0]).startswith("mine: stopped, 6 of 6 evaluated, 2 failed; the same command goes on\nsolution:")
    with pytest.raises(LedgerError, match=r"^there is no ledger at .*other/ledger.sqlite: start the study first"):
        monitor.attach("other")


def test_a_person_chooses_and_stops(books: Books) -> None:
    view = monitor.attach(books.folder, live=True)
    widgets = view._open()
    best = view.snapshot().record.best.trial
    assert widgets.trial.value == best and widgets.best.value
    assert f"trial {best}, f" in widgets.facts.value and "searching (epoch 2 of 8)" in widgets.words.value
    drawing = widgets.drawing.value
    widgets.trial.value = 1 - best  # as a click on a point does
    assert not widgets.best.value and widgets.drawing.value != drawing
    assert f"trial {1 - best}, f" in widgets.facts.value
    widgets.best.value = True
    assert widgets.trial.value == best and widgets.drawing.value == drawing
    with pytest.raises(LedgerError, match="trial = 9: the study has 4 so far"):
        view.choose(9)
    assert not books.ledger.stop_requested()
    widgets.stop.click()
    assert books.ledger.stop_requested() and widgets.stop.disabled
    assert not books.ledger.finish_requested() and widgets.finish.description == "finish now with the best"
    widgets.finish.click()
    assert books.ledger.finish_requested() and widgets.finish.disabled
    books.ledger.clear_requests()
    books.ledger.request_finish()
    assert view.snapshot().state == "finishing" and view.snapshot().status.startswith("finishing, ")
    books.ledger.close()
    with pytest.raises(LedgerError, match=r"^nothing to stop: no process works on 's' \(stopped\)$"):
        view.stop()
    with pytest.raises(LedgerError, match=r"^nothing to finish: no process works on 's' \(stopped\)$"):
        view.finish()


def test_the_view_follows_the_study(books: Books) -> None:
    view = monitor.attach(books.folder, live=True)
    widgets = view._open()
    assert widgets.progress.value == 2
    assert not view._look()
    books.ledger.complete(2, 0.99, 0.99, 1, 1.0)
    view.snapshot()  # as a still picture does
    assert view._look()
    assert widgets.progress.value == 3 and widgets.trial.value == 2
    books.ledger.close()
    lost = books.ledger.path.rename(books.folder / "away")
    view._look()
    assert "there is no ledger at" in widgets.words.value and "Traceback" not in widgets.words.value
    lost.rename(books.ledger.path)
    view._look()
    assert "stopped, 3 of 6 evaluated" in widgets.words.value and widgets.stop.disabled


def test_a_notebook_keeps_a_still_figure(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executed where nobody watches: a picture alone. In JupyterLab: the widgets, and the picture below them."""
    cells = [
        "from esnac_lib import monitor",
        f"monitor.attach({str(books.folder)!r})",
        f"monitor.attach({str(books.folder)!r}, live=True)",
        "import sys; 'torch' in sys.modules",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    kinds = [[set(output["data"]) for output in cell["outputs"]] for cell in notebook.cells]
    picture, widgets = {"image/png", "text/plain"}, {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert kinds[1:3] == [[picture], [{"text/html", "text/plain"}, widgets, picture]]
    view = "application/vnd.jupyter.widget-view+json"
    shown = [output["data"] for cell in notebook.cells for output in cell["outputs"]]
    models = {data[view]["model_id"] for data in shown if view in data}
    assert len(models) == 1 and models <= set(
        notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    )
    assert {data["text/plain"] for data in shown if view in data} == {""}  # what is shown where widgets are not trusted
    assert notebook.cells[1].outputs[0]["data"]["text/plain"].startswith("s: running, 2 of 6 evaluated")
    assert notebook.cells[3].outputs[0]["data"]["text/plain"] == "False"  # a restarted kernel attaches quickly


def test_a_picture_is_a_picture(books: Books) -> None:
    assert to_png(draw(snapshot_of(books))).startswith(b"\x89PNG")


def test_the_top_level_has_it() -> None:
    import esnac_lib as esnac

    assert esnac.monitor.attach is monitor.attach and "monitor" in esnac.__all__
