"""The rules of the house: who may import whom, what notebooks and parameter files look like, what is committed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from esnac_lib.config.base import FlatConfig
from esnac_lib.config.study import PRESETS, StudyConfig

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "esnac_lib"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*.yaml"))
LOCK = ROOT / "requirements.lock"

FLOORS = {
    1: "errors seeding",
    2: "architecture config ledger files",
    3: "space data objective",
    4: "surrogate teachers",
    5: "samplers training",
    6: "study",
    7: "latent_descent benchmarks",
    8: "report",
    9: "__init__",
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
FACES = [path for path in SOURCES if path.name == "__init__.py" and path.parent.name in FLOOR_OF]


# -- the map -----------------------------------------------------------------------------------------------------------


def test_the_readme_s_map_is_the_house() -> None:
    """Every package and every module at the top, on its floor."""
    drawn: dict[str, int] = {}
    for floor, rooms in re.findall(r"^\| (\d) \| (.*?) \|", (ROOT / "README.md").read_text(), re.M):
        drawn |= dict.fromkeys(re.findall(r"`(\w+)/?`", rooms), int(floor))
    assert drawn == {room: floor for room, floor in FLOOR_OF.items() if room != "__init__"}


# -- packages and floors -----------------------------------------------------------------------------------------------


def room_of(path: Path) -> str:
    """The first name below the library: a package, or one of the few modules at the top."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def imported_names(tree: ast.AST, path: Path) -> set[tuple[str, ...]]:
    """What a module imports of the library, at its top, inside functions or for type checks only, as dotted names."""
    package = (PACKAGE, *path.relative_to(ROOT / PACKAGE).parent.parts)
    names: list[tuple[str, ...]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names += [(*base, alias.name) for alias in node.names]
    return {name for name in names if name[0] == PACKAGE}


def imported_rooms(tree: ast.AST, path: Path) -> set[str]:
    """The packages (and modules at the top) that a module imports."""
    return {name[1] if len(name) > 1 else "__init__" for name in imported_names(tree, path)}


def imports_by_room() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for path in SOURCES:
        found = imported_rooms(ast.parse(path.read_text()), path)
        rooms.setdefault(room_of(path), set()).update(found - {room_of(path)})
    return rooms


def test_imports_are_read_in_every_form() -> None:
    plain = "import esnac_lib.surrogate.gp\nimport esnac_lib\ndef f():\n    from esnac_lib import data\n"
    relative = "from . import base\nfrom ..space import A\n"
    found = imported_rooms(ast.parse(plain + relative), ROOT / PACKAGE / "samplers" / "x.py")
    assert found == {"surrogate", "__init__", "samplers", "space", "data"}
    assert imported_rooms(ast.parse("from .gp import a\nfrom . import space"), ROOT / PACKAGE / "x.py") == {
        "gp",
        "space",
    }


def test_every_package_has_a_floor_and_the_top_stays_clear() -> None:
    unknown = sorted(set(map(room_of, SOURCES)) - set(FLOOR_OF))
    assert not unknown, f"give these a floor in FLOORS, tests/test_house.py, or move them into a package: {unknown}"
    assert len(list((ROOT / PACKAGE).glob("[!_]*.py"))) <= 4


def test_imports_only_go_down() -> None:
    up = [
        f"{room} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[other]})"
        for room, found in sorted(imports_by_room().items())
        for other in sorted(found & set(FLOOR_OF))
        if FLOOR_OF[other] > FLOOR_OF[room]
    ]
    assert not up, up


def test_no_import_goes_in_a_circle() -> None:
    try:
        tuple(TopologicalSorter(imports_by_room()).static_order())
    except CycleError as error:
        pytest.fail(f"packages import each other: {' -> '.join(error.args[1])}")


def test_private_names_stay_in_their_package() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {'.'.join(name)}"
        for path in SOURCES
        for name in imported_names(ast.parse(path.read_text()), path)
        if name[1:2] != (room_of(path),) and any(part.startswith("_") and part != "__version__" for part in name)
    ]
    assert not found, found


def test_modules_are_of_one_idea() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: size for path, size in sizes.items() if size > 350}


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.parent.name)
def test_a_package_s_face_is_short_and_says_where_to_start(path: Path) -> None:
    """A docstring and public names: nothing is defined in an `__init__.py`."""
    tree = ast.parse(path.read_text())
    assert re.search(r"\b(Start|begins?|starts?) with\b", ast.get_docstring(tree) or "")
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_reports_see_a_study_through_its_ledger_only() -> None:
    """They read ledgers and structures; nothing that trains or holds live results. (Progress formats durations.)"""
    names = {
        name[1:3]
        for path in SOURCES
        if room_of(path) == "report"
        for name in imported_names(ast.parse(path.read_text()), path)
    }
    assert not {name for name in names if name[0] in ("training", "study")} - {("training", "progress")}


def test_parameters_are_checked_without_torch() -> None:
    code = "import sys, esnac_lib.config; esnac_lib.config.StudyConfig(); "
    code += "print([m for m in ('torch', 'pandas', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- what the library never does ---------------------------------------------------------------------------------------

PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_CALLS = {"torch.load", "torch.save", "pandas.read_pickle", "pd.read_pickle"}


def unsafe_places(source: str) -> list[str]:
    """What in a source can store or run pickled objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            found += [module] if module.split(".")[0] in PICKLES else []
            found += [name for alias in node.names if (name := f"{module}.{alias.name}") in PICKLING_CALLS]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            found += [name] if name in PICKLING_CALLS or node.attr == "to_pickle" else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            safe = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if safe else ["allow_pickle"]
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(p)", "from torch import load",
     "frame.to_pickle(p)", "numpy.load(p, allow_pickle=True)", "numpy.load(p, allow_pickle=flag)"],
)  # fmt: skip
def test_pickles_are_seen(source: str) -> None:
    assert unsafe_places(source)


def test_nothing_is_pickled() -> None:
    assert not unsafe_places("import json\nnumpy.load(p, allow_pickle=False)")
    found = {str(path.relative_to(ROOT)): unsafe_places(path.read_text()) for path in SOURCES}
    assert not {path: places for path, places in found.items() if places}


# -- the environment ---------------------------------------------------------------------------------------------------


def locked() -> dict[str, str]:
    return dict(line.split("==") for line in LOCK.read_text().splitlines())


def test_the_lock_holds_names_and_versions_only() -> None:
    lines = LOCK.read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9A-Za-z.]*", line)]
    names = [line.split("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert not {"pip", "uv", PACKAGE.replace("_", "-")} & set(names)


def test_the_lock_fits_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    versions = locked()
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_conda_users_get_the_same_environment() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"] and pip["pip"][0] == f"-r {LOCK.name}"


# -- parameters --------------------------------------------------------------------------------------------------------


def config_of(notebook: Path) -> type[FlatConfig]:
    """The class of a notebook's parameters: what its second code cell imports to validate them."""
    (_, second, *_) = code_cells(json.loads(notebook.read_text()))
    found = re.search(r"^from (esnac_lib[\w.]*) import .*?\b(\w+Config)\b", second[0], re.MULTILINE)
    assert found, f"the cell after the parameters of {notebook.name} imports no config class"
    return getattr(import_module(found[1]), found[2])


def notebook_of(params: str) -> Path:
    """The notebook that a file of parameters is for: the one that its comments name, or else search.ipynb."""
    found = re.search(r"^#.*\bnotebooks/(\w+\.ipynb)", params, re.MULTILINE)
    return ROOT / "notebooks" / (found[1] if found else "search.ipynb")


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_a_file_of_parameters_is_a_study_of_its_own_name(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "the first line says what the study reproduces"
    values = yaml.safe_load(text)
    assert config_of(notebook_of(text)).from_dict(values).to_dict()["study"] == values["study"] == path.stem


def test_the_digits_file_is_the_default_study() -> None:
    values = yaml.safe_load((ROOT / "params" / "digits.yaml").read_text())
    assert StudyConfig.from_dict(values) == StudyConfig() and values["preset"] == StudyConfig().preset


# -- notebooks ---------------------------------------------------------------------------------------------------------


def code_cells(notebook: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [("".join(cell["source"]), cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tagged_parameters(notebook: dict[str, Any]) -> list[str]:
    return [text for text, cell in code_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]


def plain_values(source: str) -> dict[str, Any]:
    """The names that a parameters cell sets. Raises ValueError where one is not set to plain data."""
    values = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(f"not of the form `name: type = value`: {ast.unparse(node)}")
        values[node.target.id] = ast.literal_eval(node.value)
    return values


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_parameter_cell_is_what_its_user_changes(path: Path) -> None:
    """At most 16 fields of the config at their defaults, each with its description; a preset sets the others."""
    (source,) = tagged_parameters(json.loads(path.read_text()))
    config = config_of(path)
    values, fields, varied = plain_values(source), config.model_fields, getattr(config, "varied", ())
    assert len(values) <= 16
    assert values == {name: config().to_dict()[name] for name in values}
    assert source.splitlines() == [
        f"{name}: {type(value).__name__} = {literal(value)}  # {fields[name].description}"
        for name, value in values.items()
    ]
    assert ("preset" in values) == ("preset" in fields and "preset" not in varied)
    if "preset" in values:  # what a preset sets is not given in the cell: it would win over another preset
        assert not set(PRESETS["ours"]) & set(values)


def literal(value: bool | int | float | str) -> str:
    """A value as a parameter cell has it: text in double quotes, unless it has such itself."""
    text = repr(value)
    return f'"{value}"' if isinstance(value, str) and '"' not in value else text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cell_after_the_parameters_shows_all_in_force(path: Path) -> None:
    second, _ = code_cells(json.loads(path.read_text()))[1]
    assert second.splitlines()[-1] == "config"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_rules(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    sources = tagged_parameters(notebook)
    assert len(sources) == 1, "one cell is tagged `parameters`"
    assert plain_values(sources[0])
    for text, cell in code_cells(notebook):
        assert len(text.splitlines()) <= 30, text
        assert not re.search(r"^\s*class\s", text, re.MULTILINE), text
        assert "sys.path" not in text, text
        if "# NBVAL_CHECK_OUTPUT" not in text:
            assert not cell["outputs"] and cell["execution_count"] is None, f"keeps outputs: {text}"


# -- what is committed -------------------------------------------------------------------------------------------------


def committed_files() -> list[Path]:
    """Files that git tracks, or would with `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The file's text; empty if it holds anything else."""
    data = path.read_bytes()
    try:
        return "" if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return ""


ESCAPES = re.compile(r"\\[nrt]|\\u001b\[[0-9;]*m")  # as an executed notebook's JSON has them before a path
MACHINE_PATH = re.compile(r"(?:(?<![\w.~$}/-])|(?<=file://))/(?:" + "|".join(("work", "root", "home")) + r")/[\w.]")


def machine_path(text: str) -> str | None:
    """The first absolute path in a text that names a place on one machine."""
    found = MACHINE_PATH.search(ESCAPES.sub(" ", text))
    return found.group() if found else None


@pytest.mark.parametrize("before", ["open('", "", "file://", "see\\n", "\\u001b[32m", "PATH=a:"])
def test_machine_paths_are_seen(before: str) -> None:
    assert machine_path(before + "/".join(("", "home", "me")))


@pytest.mark.parametrize("before", ["notes", "~", "https://a.b", "$TMP"])
def test_other_paths_are_not_taken_for_machine_paths(before: str) -> None:
    assert not machine_path(before + "/".join(("", "home", "me")))


def test_no_file_names_a_place_on_one_machine() -> None:
    found = {str(path.relative_to(ROOT)): machine_path(text_of(path)) for path in committed_files()}
    assert not {path: place for path, place in found.items() if place}


def test_the_tree_stays_small_and_ledgers_whole() -> None:
    files = committed_files()
    assert sum(map(os.path.getsize, files)) < 12e6
    assert not [path for path in files if re.search(r"sqlite(-wal|-shm|\.lock)$", path.name)]


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
