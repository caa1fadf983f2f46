"""A person in JupyterLab: a search in one page, the monitor in another, reloads, a stop, a resume, an interrupt."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esnac_lib.ledger.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
PATIENCE = 240.0  # seconds for any one thing, on a machine that is busy with others
# Far more steps than the test waits for: it ends when it is interrupted.
PARAMETERS = """
K = 2
steps = 500
epochs = 2
teacher_epochs = 3
search_images = 300
candidates = 20
final = "none"
device = "cpu"
"""
MONITOR = 'from esnac_lib import monitor\n\nmonitor.attach("digits")'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to drive")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra `dev`, is not installed")


@dataclass
class Lab:
    """A JupyterLab with two notebooks, and a browser that is logged in."""

    folder: Path
    address: str
    browser: Any
    shots: Path

    def open(self, notebook: str) -> Any:
        """A page with a notebook whose kernel is ready."""
        page = self.browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{self.address}/doc/tree/{notebook}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.get_by_text(re.compile(r"\(ipykernel\) \| Idle")).wait_for()  # else a dialog asks for a kernel
        return page

    def reload(self, page: Any) -> None:
        page.reload()
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")

    @staticmethod
    def run_all(page: Any) -> None:
        """Through the menu, again where a click came before the page was ready for it."""
        prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
        before = prompt.inner_text()
        for _ in range(10):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            for _ in range(25):
                page.wait_for_timeout(200)
                if prompt.inner_text() != before:
                    return
        raise AssertionError("the notebook does not run")

    @staticmethod
    def save(page: Any) -> None:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1500)

    def shoot(self, page: Any, name: str) -> None:
        page.screenshot(path=self.shots / f"{name}.png")

    def observed(self) -> int:
        """Evaluations, as the ledger has them."""
        with suppress(Exception):
            return int(self.ledger().trials()["told_at"].notna().sum())
        return 0

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "outputs" / "digits" / "ledger.sqlite", read_only=True)


def until(what: Callable[[], Any], page: Any = None) -> Any:
    """Wait for something to be true; while waiting, the page lives on."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain"
        if page is None:
            time.sleep(0.2)
        else:
            page.wait_for_timeout(200)
    return found


def state(page: Any) -> str:
    return str(page.locator(".esnac-words").get_attribute("data-state"))


def shown(page: Any) -> int:
    """Evaluations, as the view has them."""
    found = re.search(r"(\d+) of 1000 evaluated", page.locator(".esnac-words").inner_text())
    assert found is not None
    return int(found[1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    notebook = json.loads((ROOT / "notebooks" / "search.ipynb").read_text())
    write(tmp_path / "monitor.ipynb", notebook | {"cells": [code_cell(MONITOR)]})
    at = next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", []))
    notebook["cells"].insert(at + 1, code_cell(PARAMETERS.strip()))
    write(tmp_path / "search.ipynb", notebook)
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    shots = tmp_path / "shots"
    shots.mkdir()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    own = {
        name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    environment = os.environ | own | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ESNAC_OUTPUTS": str(tmp_path / "outputs"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port_retries=0"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: server.poll() is not None or answers(f"{address}/api?token={token}"))
        assert server.poll() is None, (tmp_path / "lab.log").read_text()
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            context = browser.new_context(viewport={"width": 1280, "height": 1100})
            context.request.get(f"{address}/lab?token={token}")
            yield Lab(tmp_path, address, context, shots)
            browser.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def code_cell(source: str) -> dict[str, Any]:
    key = f"cell-{len(source)}"
    return {"cell_type": "code", "id": key, "metadata": {}, "source": source, "execution_count": None, "outputs": []}


def write(path: Path, notebook: dict[str, Any]) -> None:
    path.write_text(json.dumps(notebook))


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def test_a_study_is_searched_watched_stopped_and_resumed(lab: Lab) -> None:
    search = lab.open("search.ipynb")
    lab.run_all(search)
    until(lambda: lab.observed() >= 4, search)
    lab.shoot(search, "1-searching")

    # attached in another notebook, it shows the study and follows it
    view = lab.open("monitor.ipynb")
    lab.run_all(view)
    view.wait_for_selector(".esnac-panels svg")
    assert state(view) == "running"
    before = shown(view)
    until(lambda: shown(view) > before, view)
    lab.shoot(view, "2-attached")
    assert view.locator(".esnac-monitor + *, .jp-RenderedImage img").last.is_hidden()  # the still picture

    # a point in the figure shows its architecture
    drawing = view.locator(".esnac-monitor img")
    first = drawing.get_attribute("src")
    worst = lab.ledger().trials().dropna(subset="f").sort_values("f")["trial"].iloc[0]
    view.locator(f'.esnac-panels a[href="#trial{worst}"]').first.click()
    until(lambda: not view.get_by_label("follow the best").is_checked(), view)
    until(lambda: drawing.get_attribute("src") != first, view)
    assert view.locator(".esnac-trial input").input_value() == str(worst)
    lab.shoot(view, "3-chosen")

    # both pages are reloaded in the middle: the study goes on, and so does the view
    lab.save(view)
    before = lab.observed()
    lab.reload(search)
    lab.reload(view)
    view.wait_for_selector(".esnac-panels svg")
    until(lambda: shown(view) > before, view)
    assert state(view) == "running"
    lab.shoot(view, "4-reloaded")

    # stopped from the view
    view.get_by_role("button", name="stop the study").click()
    until(lambda: state(view) == "stopped", view)
    stopped = lab.observed()
    assert lab.ledger().writer() is None and shown(view) == stopped
    lab.shoot(view, "5-stopped")

    # resumed where it was: nothing is done again
    trials = lab.ledger().trials()
    lab.run_all(search)
    until(lambda: lab.observed() > stopped, search)
    until(lambda: shown(view) > stopped and state(view) == "running", view)
    observed = trials["told_at"].notna()
    assert lab.ledger().trials()[: len(trials)][observed].equals(trials[observed])
    lab.shoot(search, "6-resumed")

    # interrupted: one line, everything kept, and the cells after it do not run
    search.locator("[data-command='notebook:interrupt-kernel'], jp-button[title^='Interrupt']").first.click()
    line = search.get_by_text("Interrupted: all that was recorded is kept; the same command goes on from here")
    line.wait_for(state="attached")
    until(lambda: lab.ledger().writer() is None, search)
    line.scroll_into_view_if_needed()
    lab.shoot(search, "7-interrupted")
    assert "Traceback" not in search.locator(".jp-NotebookPanel").inner_text()
    until(lambda: state(view) == "stopped", view)

    # run again, the cell leaves a still picture of the end in the notebook's file, which is shown without a kernel
    lab.run_all(view)
    until(lambda: f"{lab.observed()} of 1000 evaluated" in saved_picture(lab, view), view)
    view.close()
    for kernel in kernels(lab):
        lab.browser.request.delete(f"{lab.address}/api/kernels/{kernel}", headers=no_forgery(lab))
    later = lab.open("monitor.ipynb")
    later.locator(".jp-RenderedImage img").wait_for(state="visible")
    assert not lost_widgets(later)
    lab.shoot(later, "8-reopened")

    # nor is anything lost of the search's own notebook, whose bars are text
    lab.save(search)
    search.close()
    assert "widget-view" not in (lab.folder / "search.ipynb").read_text()
    later = lab.open("search.ipynb")
    later.get_by_text("Interrupted: all that was recorded is kept").wait_for(state="attached")
    assert not lost_widgets(later)
    lab.shoot(later, "9-search-reopened")


def lost_widgets(page: Any) -> list[str]:
    """What stands where a widget was, for a person to see."""
    page.wait_for_timeout(3000)  # widgets are looked for in the end
    found = page.get_by_text(re.compile("Error displaying widget|Loading widget")).locator("visible=true")
    return found.all_inner_texts()


def saved_picture(lab: Lab, page: Any) -> str:
    """What the saved notebook says next to its still picture."""
    lab.save(page)
    outputs = json.loads((lab.folder / "monitor.ipynb").read_text())["cells"][0]["outputs"]
    pictures = [output["data"] for output in outputs if "image/png" in output.get("data", {})]
    return "".join(pictures[-1]["text/plain"]) if pictures else ""


def kernels(lab: Lab) -> list[str]:
    return [kernel["id"] for kernel in lab.browser.request.get(f"{lab.address}/api/kernels").json()]


def no_forgery(lab: Lab) -> dict[str, str]:
    cookies = {cookie["name"]: cookie["value"] for cookie in lab.browser.cookies()}
    return {"X-XSRFToken": cookies.get("_xsrf", "")}
