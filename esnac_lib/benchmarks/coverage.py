"""How much of a model can be compressed: a census of one teacher, from its trace to verified students.

>>> row = survey("resnet18", torchvision.models.resnet18(), (3, 64, 64), students=20)
>>> row.traced, row.proved, row.times
(True, True, 81.3)
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from esnac_lib.architecture.network import Weights
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.base import nearest
from esnac_lib.config.coverage import CoverageConfig
from esnac_lib.config.paths import outputs_root
from esnac_lib.errors import ConfigError, EsnacError, one_line
from esnac_lib.files import write_atomically
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.space.verification import verify, verify_teacher

FOURFOLD, MOSTLY = 4.0, 0.9
_TRANSFORMERS = ("vit_", "swin_", "maxvit_")


@dataclass(frozen=True)
class Survey:
    """What was found of one model."""

    model: str
    params: int = 0
    layers: int = 0
    removable: int = 0
    shrinkable: int = 0  # convolutions and linear layers of which a ratio drops filters
    connectable: int = 0  # pairs that a skip connection can join
    own_share: float = 0.0  # share of the parameters in layers whose output channels can be dropped
    share: float = 0.0  # also in those that lose parameters because they read dropped channels
    opaque: Mapping[str, str] = field(default_factory=dict)  # layer that was not understood -> reason
    frozen: Mapping[str, str] = field(default_factory=dict)  # other layer with filters, none of which can go -> reason
    students: int = 0
    proved: int = 0  # random students that passed every check
    times: float = 1.0  # of the smallest verified student, a uniformly shrunk one if no random one was small enough
    trace_seconds: float = 0.0
    seconds: float = 0.0
    failure: str = ""  # why the model was refused, or a check failed

    @property
    def traced(self) -> bool:
        """Whether the model became an architecture."""
        return self.layers > 0


def survey(
    name: str, make: Callable[[], nn.Module], input_shape: tuple[int, int, int], students: int = 20, seed: int = 0
) -> Survey:
    """Trace a model, and verify random students of it made by all operators, in the space of `grouping="dependency"`.

    Never raises for what is wrong with a model: that is its `failure`. input_shape: (channels, height, width).
    """
    began = time.perf_counter()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(seed)
            module = make().eval()
            architecture, weights = trace(module, torch.randn(1, *input_shape))
        traced = time.perf_counter() - began
        space = SearchSpace(architecture, grouping="dependency")
    except Exception as error:  # whatever the model's code raises
        return Survey(name, seconds=time.perf_counter() - began, failure=one_line(error))
    found = _facts(space) | _verified(module, space, weights, students, seed)
    return Survey(name, **found, students=students, trace_seconds=traced, seconds=time.perf_counter() - began)


def _facts(space: SearchSpace) -> dict[str, Any]:
    architecture, grouping = space.teacher, space.grouping
    params = architecture.layer_params
    trainable = max(1, sum(params))
    narrower = [i for i in range(len(params)) if grouping.flow.why_fixed(i) is None]
    filters = [i for i, layer in enumerate(architecture.layers) if layer.kind in ("conv", "linear")]
    frozen = {
        architecture.layers[i].name: grouping.flow.why_fixed(i) or "" for i in filters if i not in grouping.lighter
    }
    return {
        "params": architecture.num_params, "layers": len(architecture.layers), "removable": len(space.removable),
        "shrinkable": len(set(filters) & set(narrower)), "connectable": len(space.connectable),
        "own_share": sum(params[i] for i in narrower) / trainable,
        "share": sum(params[i] for i in grouping.lighter) / trainable,
        "opaque": {layer.name: layer.reason for layer in architecture.layers if layer.kind == "opaque"},
        "frozen": frozen,
    }  # fmt: skip


def _verified(module: nn.Module, space: SearchSpace, weights: Weights, students: int, seed: int) -> dict[str, Any]:
    proved, times, failure = 0, 1.0, ""
    try:
        verify_teacher(module, space, weights, seed=seed)
        for index in range(students):
            student = space.apply(space.sample(make_rng(seed, "survey", index)))
            verify(student, weights, seed=seed)
            proved += 1
            times = max(times, space.teacher.num_params / student.num_params)
        if times < FOURFOLD:
            quarter = space.apply(space.narrow(int(space.teacher.num_params / FOURFOLD / 1.05)))
            verify(quarter, weights, seed=seed)
            times = max(times, space.teacher.num_params / quarter.num_params)
    except (EsnacError, RuntimeError) as error:
        failure = one_line(error)
    return {"proved": proved, "times": times, "failure": failure}


def census(zoo: str, config: CoverageConfig, note: Callable[[str], None] = print) -> list[Survey]:
    """Survey the models of a zoo ("torchvision" or "timm") that the config names.

    Each is written to the census's folder when it is done, and what is there already is not done again. Raises
    ConfigError, before anything is surveyed, for a model that the zoo has not, or a zoo that is not installed.
    """
    rows = []
    for name, (make, size) in _models(zoo, config).items():
        path = outputs_root() / config.study / "surveys" / f"{zoo}-{name}-{size}-{config.students}-{config.seed}.json"
        if path.exists():
            rows.append(Survey(**json.loads(path.read_text())))
            continue
        row = survey(name, make, (3, size, size), config.students, config.seed)
        write_atomically(path, json.dumps(asdict(row), indent=1) + "\n")
        note(f"{zoo} {name}: {row.failure or f'{row.proved} students verified'}, {row.seconds:.0f} s")
        rows.append(row)
    return rows


def _models(zoo: str, config: CoverageConfig) -> dict[str, tuple[Callable[[], nn.Module], int]]:
    known = _torchvision_models() if zoo == "torchvision" else _timm_models(bool(config.timm.strip()))
    named = config.models(zoo)
    if (size := named.pop("all", None)) is not None:
        named = dict.fromkeys(known, size) | named
    for name in named:
        if name not in known:
            raise ConfigError(f"{zoo} = {name!r} is unknown: the nearest known one is {nearest(name, known)!r}")
    return {name: (known[name], size) for name, size in named.items()}


def _torchvision_models() -> dict[str, Callable[[], nn.Module]]:
    """Return every CNN among torchvision's classifiers."""
    from torchvision import models

    names = models.list_models(module=models)
    return {name: partial(models.get_model, name, weights=None) for name in names if not name.startswith(_TRANSFORMERS)}


def _timm_models(wanted: bool) -> dict[str, Callable[[], nn.Module]]:
    if not wanted:
        return {}
    try:
        import timm
    except ImportError:
        raise ConfigError("timm is not installed: pip install 'esnac_lib[zoo]', or leave timm empty") from None
    return {name: partial(timm.create_model, name, pretrained=False) for name in timm.list_models()}


def totals(surveys: Iterable[Survey]) -> dict[str, Any]:
    """Return the counts of a zoo."""
    rows = list(surveys)
    return {
        "models": len(rows),
        "traced": sum(row.traced for row in rows),
        "proved": sum(row.traced and row.proved == row.students and not row.failure for row in rows),
        "fourfold": sum(row.times >= FOURFOLD for row in rows),
        "mostly_shrinkable": sum(row.share >= MOSTLY for row in rows),
        "mostly_own_filters": sum(row.own_share >= MOSTLY for row in rows),
        "half_shrinkable": sum(row.share > 0.5 for row in rows),
        "without_opaque": sum(row.traced and not row.opaque for row in rows),
        "seconds": round(sum(row.seconds for row in rows), 1),
        "refused": {row.model: row.failure for row in rows if row.failure},
    }


def table(surveys: Iterable[Survey]) -> pd.DataFrame:
    """Return one row a model."""
    return pd.DataFrame(
        {
            "model": row.model, "parameters": row.params, "layers": row.layers, "removable": row.removable,
            "shrinkable": row.shrinkable, "connectable": row.connectable, "share shrinkable": row.share,
            "share of own filters": row.own_share, "opaque": len(row.opaque),
            "proved": f"{row.proved} of {row.students}", "compression (×)": row.times, "trace s": row.trace_seconds,
            "all s": row.seconds,
        }
        for row in surveys
    )  # fmt: skip


def reasons(surveys: Iterable[Survey]) -> pd.DataFrame:
    """Return what was refused, not understood or kept, and why: one row a model and reason."""
    rows = []
    for row in surveys:
        if row.failure:
            rows.append((row.model, "refused", "", row.failure))
        for what, found in (("opaque", row.opaque), ("frozen", row.frozen)):
            for why in dict.fromkeys(found.values()):
                names = [name for name, reason in found.items() if reason == why]
                more = f" and {len(names) - 2} more" if names[2:] else ""
                rows.append((row.model, what, ", ".join(names[:2]) + more, why))
    return pd.DataFrame(rows, columns=["model", "what", "layers", "why"])
