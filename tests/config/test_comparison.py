"""Who is compared, on equal terms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esnac_lib.config.comparison import ComparisonConfig, sampler_variants
from esnac_lib.config.study import PRESETS, StudyConfig
from esnac_lib.errors import ConfigError


def test_every_search_has_the_same_number_of_evaluations_and_the_same_training() -> None:
    config = ComparisonConfig(compared="all", K=4, steps=3, runs=2, sizes=5)
    assert config.compared_names == tuple(sampler_variants())
    studies = [study for study in config.studies() if "/proxy" not in study.study]
    assert len(studies) == 2 * len(sampler_variants())
    by_sampler = {study.study: study for study in studies}
    for name, study in by_sampler.items():
        wanted = 5 if study.sampler == "narrow" else 12
        assert study.num_evaluations == wanted, name
        same = {
            "sampler",
            "sampling",
            "first",
            "surrogate",
            "acquisition",
            "subset",
            "K",
            "steps",
            "study",
            "seed",
            "kernel_loss",
        }
        theirs = {key: value for key, value in study.to_dict().items() if key not in same}
        assert theirs == {key: value for key, value in studies[0].to_dict().items() if key not in same}


def test_variants_keep_their_names_and_order() -> None:
    """Committed ledgers and parameter files use them."""
    published = ["narrow", "random", "evolution", "tpe", "tpe_multivariate", "n2n", "esnac_k1", "esnac_k8"]
    beyond = ["random_mild", "evolution_mild", "evolution_narrowed"]
    beyond += [f"esnac_ours_{name}" for name in ("f_k8", "evolution_k8", "random_k8", "half_k8", "k1", "k8")]
    assert list(sampler_variants()) == published + beyond


def test_studies_run_seed_by_seed_and_the_proxy_after_the_first() -> None:
    names = [study.study for study in ComparisonConfig(compared="random,tpe", runs=2, seed=3, study="c").studies()]
    assert names == ["c/random_seed3", "c/tpe_seed3", "c/proxy_seed3", "c/random_seed4", "c/tpe_seed4"]
    assert len(ComparisonConfig(compared="random", runs=1, proxy_students=0).studies()) == 1


def test_the_proxy_trains_all_its_students_to_the_end() -> None:
    proxy = ComparisonConfig(proxy_students=5, proxy_epochs=7).proxy_study()
    assert proxy.num_evaluations == proxy.top == 5 and proxy.epochs == 7 and proxy.final == "validated"


def test_esnac_as_published_is_what_a_study_is_by_default() -> None:
    default = StudyConfig().to_dict()
    assert all(default[name] == value for name, value in PRESETS["paper"].items())
    assert set(PRESETS["ours"]) == set(PRESETS["paper"]) and PRESETS["ours"] != PRESETS["paper"]
    for preset in PRESETS.values():
        StudyConfig.from_dict(preset)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"compared": "random,esnak_k8"}, "'esnak_k8' is unknown"),
        ({"sampling": "mild"}, "varies 'sampling' by itself"),
        ({"compared": "tpe"}, "'random' must be among them"),
        ({"proxy_students": 2, "final_epochs": 0}, "or proxy_students = 0"),
        ({"operators": "remove"}, "sampler = 'narrow' only shrinks"),
    ],
)
def test_what_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        ComparisonConfig.from_dict(values)
    assert "\n" not in str(caught.value)


def test_it_needs_no_torch() -> None:
    code = "import sys, esnac_lib.config.comparison; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
