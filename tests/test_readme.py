"""Every command of README.md, run in order, as printed, by a new user in a fresh copy of the tracked files.

What is not as printed:

- The environment is the one that runs this test, linked as `.venv` and marked as ready, so that `make search` installs
  nothing; PYTHONPATH puts the copy's library before the one that is installed there.
- `make search` gets a smaller search by the variable ARGS of the environment, which its Makefile reads for anybody.
- The commands in `CHEAPER` are checked by another command, which says why.
- `my_nets.py`, `net.safetensors` and `images.npz` are made here: the README asks the user for them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALLER = "-p steps 2 -p epochs 4 -p final_epochs 5"
# By the printed command, what is run in its place.
GPU_STUDY = "papermill notebooks/search.ipynb out.ipynb -f params/cifar100_resnet34_esnac.yaml"
CHEAPER = {
    "make test": "make -n test",  # it would run this test
    "make lab": "make -n lab && python -m jupyterlab --version",  # a server, which does not end
    "pip install .": "pip install --no-index --no-deps --no-build-isolation --target .installed .",  # no network
    GPU_STUDY: f"{GPU_STUDY} --prepare-only && python check_parameters.py out.ipynb",  # hours on a GPU
}
# As the notebook's own second cell does, with what papermill has put between.
CHECK_PARAMETERS = """
import json, sys

cells = [cell for cell in json.load(open(sys.argv[1]))["cells"] if cell["cell_type"] == "code"]
names = {}
for cell in cells[:3]:
    exec("".join(cell["source"]), names)
assert names["config"].study == "cifar100_resnet34_esnac"
"""

USER = """
import numpy as np
import torch
from safetensors.torch import save_file
from my_nets import Net

rng = np.random.default_rng(0)
arrays = {"classes": np.array(["flat", "rising", "falling"])}
for part, count in (("train", 420), ("test", 120)):
    labels = np.arange(count) % 3
    ramp = np.array([0, 60, -60])[labels][:, None, None, None] * np.linspace(-1, 1, 12)[:, None, None]
    noise = rng.normal(0, 25, (count, 12, 12, 3))
    arrays[f"{part}_images"] = (128 + ramp + noise).clip(0, 255).astype(np.uint8)
    arrays[f"{part}_labels"] = labels
np.savez("images.npz", **arrays)

torch.manual_seed(0)
net = Net()
x = torch.tensor(arrays["train_images"]).permute(0, 3, 1, 2) / 255
x, y = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), torch.tensor(arrays["train_labels"])
optimiser = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(40):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimiser.step()
save_file(net.state_dict(), "net.safetensors")
"""
MY_NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.out = nn.Linear(16 * 6 * 6, 3)

    def forward(self, x):
        return self.out(self.third(self.second(self.first(x))).flatten(1))
"""


USE_STUDENT = """
import sys
import numpy as np
from safetensors.torch import load_file

folder = "outputs/my_net/student/python"
sys.path.insert(0, folder)
from student import Student, predict

model = Student()
model.load_state_dict(load_file(f"{folder}/student.safetensors"))
data = np.load("images.npz")
right = np.array(predict(model, data["test_images"])) == data["classes"][data["test_labels"]]
assert right.mean() > 0.8, right.mean()
"""


class Command(NamedTuple):
    """What a reader is told to run: a line of the shell, or a block of Python."""

    language: str
    text: str


def commands(readme: str) -> list[Command]:
    """All blocks of code in their order, and what stands within a line and begins like a command."""
    pattern = r"^```(\w*)\n([\s\S]*?)^```|((?:^    .*\n)+)|`([^`\n]+)`"
    found = []
    for fence, fenced, indented, inline in re.findall(pattern, readme, re.MULTILINE):
        if fence == "python":
            found.append(Command("python", fenced))
            continue
        text = re.sub(r"\\\n\s*", "", fenced or indented or inline)
        lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
        if inline:
            lines = [line for line in lines if " " in line and is_program(line.split()[0])]
        found += [Command("bash", line) for line in lines if line]
    return found


def is_program(word: str) -> bool:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return word in ("source", "cd") or shutil.which(word, path=path) is not None


def script(found: list[Command]) -> str:
    """One session of a shell that runs them all."""
    lines = ["set -euo pipefail"]
    for number, command in enumerate(found):
        text = command.text if command.language == "python" else CHEAPER.get(command.text, command.text)
        lines.append(f"printf '\\n@@ %s\\n' {json.dumps(command.text.splitlines()[0])}")
        lines.append(f"ipython -c {_quoted(text)}" if command.language == "python" else text)
        lines += (
            [f"cp out.ipynb executed{number}.ipynb"]
            if " out.ipynb" in command.text and command.text not in CHEAPER
            else []
        )
    return "\n".join([*lines, "printf '@@ the end\\n'"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of all that git tracks, or would, with the environment of this interpreter."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    place = tmp_path / "clone"
    for name in done.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    (place / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".ready":
            (place / ".venv" / part.name).symlink_to(part)
    (place / ".venv" / ".ready").touch()
    return place


def run(place: Path, command: list[str]) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ESNAC_", "MAKE", "JPY_"))}
    environment |= {"PYTHONPATH": str(place), "IPYTHONDIR": str(place / ".ipython"), "ARGS": SMALLER}
    done = subprocess.run(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def texts_of(notebook: dict[str, Any]) -> list[str]:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]


def printed_paths(notebook: dict[str, Any]) -> list[str]:
    """What an executed notebook names at the end of a line: "summary: outputs/digits/summary.json"."""
    found = re.findall(r"^(?:summary|bundle|python|onnx): (.*)$", "\n".join(texts_of(notebook)), re.MULTILINE)
    assert found or not texts_of(notebook), "no path is printed"
    return found


def lost_widgets(notebook: dict[str, Any]) -> set[str]:
    """The widgets that are shown in a notebook and whose state it does not hold."""
    outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    view, state = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
    held = notebook["metadata"].get("widgets", {}).get(state, {}).get("state", {})
    return {data[view]["model_id"] for data in outputs if view in data} - set(held)


def test_every_command_of_the_readme_works_in_order(clone: Path) -> None:
    found = commands((ROOT / "README.md").read_text())
    shell = [command.text for command in found if command.language == "bash"]
    assert set(CHEAPER) <= set(shell), "a command that is checked in another way is gone"
    (clone / "my_nets.py").write_text(MY_NETS)
    (clone / "check_parameters.py").write_text(CHECK_PARAMETERS)
    run(clone, [sys.executable, "-c", USER])
    told = run(clone, ["bash", "-c", script(found)])
    assert told.splitlines()[-1] == "@@ the end"

    for study in ("digits", "mine", "my_net", "small"):
        summary = json.loads((clone / "outputs" / study / "summary.json").read_text())
        assert summary["solution"]["params"] < summary["teacher"]["params"], study
    for notebook in (clone / "outputs" / "digits" / "search.ipynb", *clone.glob("executed*.ipynb")):
        assert not lost_widgets(json.loads(notebook.read_text()))
        assert all((clone / path).exists() for path in printed_paths(json.loads(notebook.read_text())))
    run(clone, [sys.executable, "-c", USE_STUDENT])
    assert (clone / "mine" / "student.safetensors").exists() and "def predict" in (
        clone / "mine" / "student.py"
    ).read_text()
    assert "digits: finished" in told


def test_commands_are_found_in_every_form() -> None:
    text = "Do `make it` or `Study`:\n\n    papermill a \\\n        -p b 1   # c\n    make d\n\n"
    text += "```python\nx = 1\n\ny = 2\n```\n"
    assert commands(text) == [("bash", "make it"), ("bash", "papermill a -p b 1"), ("bash", "make d"),
                              ("python", "x = 1\n\ny = 2\n")]  # fmt: skip
