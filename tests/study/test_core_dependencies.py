"""`pip install .` alone, without any extra, lets a script trace a model, run a study and export its student."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys

sys.modules.update(dict.fromkeys({missing}))  # None: an import fails, as where it is not installed
import torch
import esnac_lib as esnac

summary = esnac.Study(esnac.StudyConfig(
    study="core", K=1, steps=2, candidates=4, epochs=1, search_images=64, teacher_epochs=1, final_epochs=1, top=1,
    baseline=False,
)).run()
module = esnac.teacher("cnn4", 10, 1, 8)
architecture, weights = esnac.trace(module, torch.rand(1, 1, 8, 8))
esnac.verify(architecture, weights)
esnac.export.save_python(sys.argv[1], architecture, weights)
esnac.export.save_bundle(sys.argv[1] + "-bundle", architecture, weights)
print(summary["evaluations"])
"""


def installed_with(names: list[str]) -> set[str]:
    """These packages and all that they require, by normalised name."""
    found: set[str] = set()
    left = [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            left += [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        found.add(name)
    return found


def modules_of_the_extras() -> set[str]:
    """Import names of what the extras ask for and the library alone does not bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {Requirement(name).name for extra in project["optional-dependencies"].values() for name in extra}
    packages = {canonicalize_name(name) for name in asked} - installed_with(project["dependencies"])
    return {name.replace("-", "_") for name in packages} | {"IPython"}


def test_a_script_needs_no_extra(tmp_path: Path) -> None:
    missing = modules_of_the_extras()
    assert {"matplotlib", "seaborn", "jupyterlab", "gpytorch", "ray", "onnx", "timm"} <= missing
    code = SCRIPT.format(missing=missing)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "student")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2"
