"""Whole Architecture Compression studies, small but real: digits, real trainings, all stages and baselines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from esnac_lib.config.base import check_resume
from esnac_lib.config.latent_descent import BASELINES, CompressionConfig
from esnac_lib.config.paths import outputs_root
from esnac_lib.errors import ConfigError, LedgerError
from esnac_lib.latent_descent.study import CompressionStudy
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.report import latent_descent as compression
from esnac_lib.report.records.study import read
from esnac_lib.training.progress import Progress

TINY: dict[str, Any] = {
    "study": "tiny", "architectures": 8, "search_images": 300, "iterations": 30, "unlabelled": 20, "embedding": 8,
    "max_length": 32, "rounds": 1, "candidates": 2, "descent_steps": 6, "path_steps": 2, "starts": 2, "top": 1,
    "final_epochs": 1, "hint_epochs": 1, "pruning_runs": 1, "pruning_filters": 40, "pruning_images": 64, "n2n_steps": 1,
    "n2n_epochs": 1, "widths": "8", "device": "cpu",
}  # fmt: skip
SAME = ["trial", "step", "arch_id", "state", "accuracy", "params", "macs", "f", "decisions", "architecture"]


class Killed(Exception):
    pass


class Scripted(Progress):
    """Says nothing, and dies when it is told of `deadly`."""

    def __init__(self, deadly: str = "") -> None:
        super().__init__()
        self.deadly = deadly

    def note(self, text: str) -> None:
        if self.deadly and text.startswith(self.deadly):
            raise Killed

    def begin(self, label: str) -> None:
        self.note(label)


def study(deadly: str = "", **changes: Any) -> CompressionStudy:
    return CompressionStudy(CompressionConfig(**TINY | changes), Scripted(deadly))


def trials(name: str = "tiny") -> pd.DataFrame:
    return Ledger(outputs_root() / name / "ledger.sqlite", read_only=True).trials()


def without_seconds(found: Any) -> Any:
    """A summary without what may differ between two runs: times, and where it ran."""
    if not isinstance(found, dict):
        return found
    return {name: without_seconds(value) for name, value in found.items() if name not in ("seconds", "environment")}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compression")


@pytest.fixture(autouse=True)
def _outputs(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESNAC_OUTPUTS", str(outputs))


@pytest.fixture(scope="module")
def finished(outputs: Path) -> dict[str, Any]:
    """The summary of a study that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESNAC_OUTPUTS", str(outputs))
        assert study().run()
    return json.loads((outputs / "tiny" / "summary.json").read_text())


def test_from_random_architectures_to_a_student_and_its_baselines(finished: dict[str, Any]) -> None:
    teacher, student = finished["teacher"], finished["student"]
    assert finished["random_architectures"] == 8 < finished["architectures_trained"] == len(trials())
    for entry in (student, *(finished[name] for name in BASELINES if finished[name]), *finished["widths"].values()):
        assert entry["times"] == pytest.approx(teacher["params"] / entry["params"])
        assert entry["delta_accuracy"] == pytest.approx(entry["accuracy"] - teacher["accuracy"], abs=1e-12)
    assert {"fitnet", "pruning", "n2n", "narrowed"} <= {name for name in BASELINES if finished[name]}
    assert finished["fitnet"]["params"] <= student["params"]
    assert 0 <= finished["reconstruction"]["layers_exact"] <= 1
    for name in ("accuracy_regressor", "params_regressor"):
        assert finished[name].keys() >= {"rank_correlation", "mean_absolute_error", "baseline_error"}
    row = trials().set_index("trial").loc[student["trial"]]
    assert json.loads(row["decisions"])["source"] == "descent"
    assert row["params"] == student["params"]


def test_a_study_that_is_killed_in_any_stage_goes_on_to_the_same_end(finished: dict[str, Any]) -> None:
    for deadly in ("4 of 8", "round 1", "final training of the student", "FitNet: distillation", "final training: N2N"):
        with pytest.raises(Killed):
            study(deadly, study="killed").run()
    assert study(study="killed").run()
    pd.testing.assert_frame_equal(trials()[SAME], trials("killed")[SAME])
    summary = json.loads((outputs_root() / "killed" / "summary.json").read_text())
    assert without_seconds(summary) == without_seconds(finished) | {"study": "killed"}


def test_a_study_that_grows_trains_only_what_is_new(finished: dict[str, Any]) -> None:
    assert study(study="grown", stop_after="architectures", architectures=8).run()
    before = trials("grown")
    assert study(study="grown", stop_after="codec", architectures=10).run()
    after = trials("grown")
    assert len(after) == len(before) + 2
    pd.testing.assert_frame_equal(after[: len(before)], before)
    pd.testing.assert_frame_equal(before[SAME], trials()[: len(before)][SAME])


def test_its_record_tells_the_result_in_tables(finished: dict[str, Any]) -> None:
    record = compression.read_compression("tiny")
    claim = compression.compression_claim(record)
    assert f"{finished['student']['params']:,} instead of {finished['teacher']['params']:,}" in claim
    table = compression.compression_table(record).set_index("network")
    row = table.loc["Architecture Compression"]
    assert row["accuracy [%]"] == pytest.approx(100 * finished["student"]["accuracy"])
    assert row["compression (×)"] == pytest.approx(finished["student"]["times"])
    assert table.loc["pruning (Molchanov et al.)", "parameters"] == finished["pruning"]["params"]
    quality = compression.codec_table(record).set_index("architectures").loc["held out, all"]
    assert quality["layers exact [%]"] == pytest.approx(100 * finished["reconstruction"]["layers_exact"])
    draws = compression.rejections_table(record)
    assert draws.loc[draws["outcome"] == "accepted", "draws"].sum() == 8
    assert draws.groupby("distribution")["share [%]"].sum().tolist() == pytest.approx([100.0, 100.0])
    with pytest.raises(LedgerError, match="no Architecture Compression study"):
        compression.read_compression("tiny_n2n")
    assert len(read("tiny_n2n").observed) == finished["n2n"]["evaluations"]


def test_every_figure_of_a_study_and_of_one_that_has_only_begun(finished: dict[str, Any]) -> None:
    begun = compression.read_compression("tiny")
    object.__setattr__(begun, "results", {kind: {} for kind in begun.results})
    object.__setattr__(begun, "trials", begun.trials[:0])
    for record in (compression.read_compression("tiny"), begun):
        for draw in (
            compression.architectures, compression.regressors, compression.joint_loss, compression.first_filters,
            compression.descent_path, compression.accuracy_against_size,
        ):  # fmt: skip
            figure = draw(record)
            assert figure.axes or figure.texts
            assert all(math.isfinite(limit) for axes in figure.axes for limit in (*axes.get_xlim(), *axes.get_ylim()))
    assert compression.compression_claim(begun).startswith("**No result yet.**")


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"baselines": "random,fitnett"}, "'fitnett' is unknown.*did you mean 'fitnet'"),
        ({"widths": "2,x"}, "widths = '2,x': numbers above 1"),
        ({"max_length": 20}, "max_length = 20 is out of range: a multiple of 16"),
        ({"n2n_steps": 1, "K": 1}, "N2N has two stages"),
        ({"held_out": 1.0}, "held_out = 1.0 is out of range: a number above 0 and below 1 is allowed"),
        ({"around": 1.5}, "around = 1.5 is out of range: a number of at least 0 and at most 1 is allowed"),
        ({"archtectures": 9}, "nearest known one is 'architectures'"),
        ({"dataset": "cifar11"}, "cifar11"),
    ],
)
def test_a_wrong_parameter_is_told_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        CompressionConfig(**values)
    assert "\n" not in str(raised.value)


def test_what_defines_the_trained_architectures_stays() -> None:
    old = CompressionConfig()
    check_resume(old.to_dict(), CompressionConfig(architectures=99, iterations=7, target_times=9.0))
    with pytest.raises(ConfigError, match="epochs: stored 1, given 2"):
        check_resume(old.to_dict(), CompressionConfig(epochs=2))
    check_resume(old.to_dict(), CompressionConfig(architectures=10))  # more are trained already: they count
