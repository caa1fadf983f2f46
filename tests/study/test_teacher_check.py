"""A teacher that comes with weights is evaluated before the search; one that only guesses makes no headline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from study.helpers import Listening
from torch import nn

from esnac_lib import report
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.noise import commonest_share, is_near_chance, noise_band
from esnac_lib.data.splits import StudyData
from esnac_lib.report.statistics import Difference
from esnac_lib.study.plan import make_plan
from esnac_lib.study.study import Study
from esnac_lib.study.teacher_check import reestimate_batch_norm

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 10),
        )
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `net.py`, weights trained on the library's own normalisation, and weights of no training."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    net = scope["Net"]()
    save_file(net.state_dict(), folder / "untrained.safetensors")
    data = StudyData(study(folder, "").data.dataset, StudyConfig(device="cpu"), "cpu")
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for epoch in range(6):
        for x, y in data.training.batches(64, torch.Generator().manual_seed(epoch), augment=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    save_file(net.state_dict(), folder / "trained.safetensors")
    yield folder


def study(folder: Path, weights: str, **changes: Any) -> Study:
    values: dict[str, Any] = {"study": "own", "device": "cpu", "teacher": f"{folder}/net.py:Net", "K": 2, "steps": 1}
    values |= {"teacher_weights": f"{folder}/{weights}.safetensors"} if weights else {}
    return Study(StudyConfig(**values | changes), Listening())


# -- what an accuracy is worth -----------------------------------------------------------------------------------------


def test_the_noise_of_a_difference() -> None:
    band = noise_band(0.9, 0.8, 400)
    assert band == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 400 + 0.8 * 0.2 / 400), rel=0.01)
    rng = np.random.default_rng(0)  # 95 % of the differences of two equal networks lie within it
    apart = (rng.binomial(400, 0.9, 20_000) - rng.binomial(400, 0.9, 20_000)) / 400
    assert np.mean(np.abs(apart) <= noise_band(0.9, 0.9, 400)) == pytest.approx(0.95, abs=0.01)
    few = rng.binomial(60, 0.98, (20_000, 2)) / 60  # nor is it too narrow where hardly any answer is wrong
    covered = [abs(one - other) <= noise_band(one, other, 60) for one, other in few]
    assert 0.95 <= np.mean(covered) < 1 and noise_band(1, 1, 60) == pytest.approx(1.96 * math.sqrt(2 * 61 / 62**3))
    found = Difference.of(0.80, 0.82, 400)
    assert found.within_noise and found.amount == "2.00 ± 5.44 points" and found.signed.startswith("-2.00 ± ")
    assert not Difference.of(0.80, 0.90, 400).within_noise and Difference.of(0.8, 0.9, 400).caveat == ""
    assert Difference.of(0.8, 0.9, None).amount == "10.00 points"  # an old ledger of a user's own images


def test_what_chance_is() -> None:
    share = commonest_share(np.array([0, 1, 1, 2]))
    assert share == 0.5
    assert is_near_chance(0.5 + 2 * math.sqrt(0.25 / 100) - 1e-9, 0.5, 100) and not is_near_chance(0.61, 0.5, 100)
    assert is_near_chance(0.206, 1 / 6, 60) and not is_near_chance(0.206, 1 / 6, 6000)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_fitting_teacher_is_shown_with_its_accuracy_and_no_warning_but_one(nets: Path) -> None:
    plan = make_plan(study(nets, "trained"))
    assert plan.check is not None and plan.check.accuracy > 0.8 and plan.check.images == 197
    row = plan.summary.loc["teacher's accuracy", ""]
    assert row.startswith(f"{plan.check.accuracy:.2%} on 197 validation images; always the commonest class: 1")
    assert plan.summary.loc["normalisation of the images", ""].endswith("(of the training images)")
    assert plan.warning.count("**Warning.**") == 1 and "flatters" in plan.warning


def test_another_normalisation_is_noticed(nets: Path) -> None:
    plan = make_plan(study(nets, "trained", normalise="0.5/2.0"))  # the images of its training had a mean of 0
    assert plan.check is not None and plan.check.reestimated is not None
    assert plan.check.reestimated > plan.check.accuracy
    assert "it was probably trained with another normalisation" in plan.warning
    assert f"{plan.check.reestimated:.2%} instead of {plan.check.accuracy:.2%}" in plan.warning
    assert plan.summary.loc["normalisation of the images", ""] == "mean 0.500; std 2.000 (as given)"


def test_a_teacher_near_chance_is_warned_of_before_the_search(nets: Path) -> None:
    plan = make_plan(study(nets, "untrained"))
    assert plan.check is not None and "The teacher hardly beats guessing: " in plan.warning
    assert f"{plan.check.accuracy:.2%} where always naming the commonest class gives 1" in plan.warning


def test_a_teacher_that_is_trained_here_is_not_evaluated(nets: Path) -> None:
    plan = make_plan(study(nets, ""))
    assert plan.check is None and "Warning" not in plan.warning
    assert plan.summary.loc["teacher's accuracy", ""] == "not known before it is trained here"
    assert "about" in plan.summary.loc["time: the narrowed teacher", ""]


def test_statistics_are_plain_averages_and_nothing_else_changes(nets: Path) -> None:
    data = study(nets, "").data
    norm = nn.BatchNorm2d(1)
    network = nn.Sequential(norm, nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10))
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    assert reestimate_batch_norm(network, data.training)
    x = next(iter(data.training.evaluation_batches(10_000)))[0]
    batches = [part for part in x.split(256) if len(part) > 1]
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(np.mean([part.mean() for part in batches]), abs=1e-5)
    assert norm.running_var.item() == pytest.approx(np.mean([part.var() for part in batches]), rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_parameters())
    assert norm.momentum == 0.1 and not norm.training
    assert not reestimate_batch_norm(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data.training)


# -- the study ---------------------------------------------------------------------------------------------------------


def test_a_study_of_a_guessing_teacher_warns_before_the_search_and_has_no_headline(nets: Path) -> None:
    begun = study(nets, "untrained", sampler="random", epochs=1, final_epochs=1, top=1, search_images=100)
    assert begun.run() is not None
    assert isinstance(begun.progress, Listening)
    [warned] = [line for line in begun.progress.said if line.startswith("warning: the search teacher hardly beats")]
    steps = [number for number, line in enumerate(begun.progress.said) if line.startswith("step 1")]
    assert begun.progress.said.index(warned) < min(steps)
    text = report.claim(report.read("own"))
    assert text.startswith("**The teacher hardly beats guessing: ") and text.count("**") == 2
    assert "The student that random search found has" in text
