"""A sampler from outside the library: registered in one line, and known to the config, studies, tables and figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samplers.test_evolution import ids, space_of

from esnac_lib import report
from esnac_lib.config.base import check_resume
from esnac_lib.config.comparison import ComparisonConfig, sampler_variants
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError
from esnac_lib.report.tables.samplers import comparison_table, label_of
from esnac_lib.samplers.base import Observation, Proposal, SamplerEntry
from esnac_lib.samplers.registry import SAMPLERS
from esnac_lib.samplers.unseen import Unseen
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.study.study import Study
from esnac_lib.training.progress import Progress

TINY: dict[str, Any] = {
    "K": 2, "steps": 2, "epochs": 1, "teacher_epochs": 2, "final_epochs": 1, "top": 2, "search_images": 300,
    "final": "none", "baseline": False, "device": "cpu",
}  # fmt: skip


class LocalSearch:
    """Changes of the best student so far, at first of the teacher."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.observations: list[Observation] = []

    def ask(self, n: int) -> list[Proposal]:
        best = max(self.observations, key=lambda trial: trial.f or 0.0, default=None)
        decisions = best.decisions if best else self.space.nothing
        unseen, rng = Unseen(self.space, self.observations), make_rng(self.seed, "toy", len(self.observations))
        draws = unseen.among(self.space.mutate(decisions, rng) for _ in range(100))
        return [proposal for proposal, _ in zip(draws, range(n), strict=False)]

    def tell(self, trials: Sequence[Observation]) -> None:
        self.observations.extend(trials)


def make(space: SearchSpace, config: StudyConfig) -> LocalSearch:
    return LocalSearch(space, config.seed)


def check(config: StudyConfig) -> Iterator[str]:
    if config.K > 4:
        yield f"K = {config.K}: the toy proposes at most 4 students a step"


@pytest.fixture(autouse=True)
def toy() -> Iterator[SamplerEntry]:
    yield SAMPLERS.register(SamplerEntry("toy", "local search", "#123456", make, check))
    SAMPLERS.unregister("toy")


def test_a_study_runs_with_it() -> None:
    config = StudyConfig(study="toy", sampler="toy", **TINY)
    Study(config, Progress()).run()
    record = report.read("toy")
    assert record.name == "local search"
    assert (record.trials["state"] == "complete").all()
    assert len(record.trials) == 4 and record.trials["arch_id"].is_unique


def test_its_rules_are_the_config_s() -> None:
    with pytest.raises(ConfigError, match=r"^K = 5: the toy proposes at most 4"):
        StudyConfig(sampler="toy", K=5)
    for values in ({"first": "narrowed"}, {"surrogate": "accuracy"}, {"source": "digits"}):
        with pytest.raises(ConfigError, match="with sampler = 'toy'"):
            StudyConfig.from_dict({"sampler": "toy", **values})
    old = StudyConfig(sampler="toy", K=2, steps=2)
    check_resume(old.to_dict(), StudyConfig(sampler="toy", K=2, steps=3))


def test_a_comparison_knows_it() -> None:
    config = ComparisonConfig(compared="random,toy", runs=1, proxy_students=0, **{**TINY, "top": 1})
    assert "toy" in ComparisonConfig(compared="all").compared_names
    assert label_of("toy") == "local search" and sampler_variants()["toy"].colour == "#123456"
    for study in config.studies():
        Study(study, Progress()).run()
    experiment = report.read_experiment(config)
    assert list(comparison_table(experiment)["sampler"]) == ["random", "local search"]
    left, _ = report.samplers_figure(experiment).axes
    [line] = [line for line in left.get_lines() if line.get_label() == "local search"]
    assert line.get_color() == "#123456" and len(np.asarray(line.get_ydata())) == 4


def test_the_name_is_taken() -> None:
    with pytest.raises(ConfigError, match="sampler 'random' is registered already"):
        SAMPLERS.register(SamplerEntry("random", "another", "black", make))


def test_every_config_is_checked_without_torch() -> None:
    code = """
import sys
from esnac_lib.config.comparison import ComparisonConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.samplers.base import SamplerEntry
from esnac_lib.samplers.registry import SAMPLERS
SAMPLERS.register(SamplerEntry("toy", "local search", "#123456", make=None))
for name in SAMPLERS:
    StudyConfig(sampler=name, source="digits" if name == "transfer" else "")
ComparisonConfig(compared="random,toy")
print([name for name in ("torch", "pandas") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_is_new_is_proposed_and_no_more_drawn_than_needed() -> None:
    space, drawn = space_of(), 0

    def draws() -> Iterator[Any]:
        nonlocal drawn
        for index in (0, 0, 1, 1, 2):
            drawn += 1
            yield space.sample(make_rng(0, "unseen", index))

    unseen = Unseen(space, [])
    found = unseen.among(draws())
    first, second = next(found), next(found)
    assert len(set(ids([first, second]))) == 2 and drawn == 3
    known = Unseen(space, [Observation(first.decisions, first.architecture, None)], [second])
    assert next(known.among([first.decisions, second.decisions, space.nothing]), None) is None
