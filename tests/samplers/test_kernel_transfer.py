"""Kernels on disk, and what they propose elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from esnac_lib.architecture.encoding import KINDS, encode, encoding_size
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, DataError, EsnacError, LedgerError
from esnac_lib.files import save_weights
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.samplers.base import Observation
from esnac_lib.samplers.esnac import EsnacSampler
from esnac_lib.samplers.history import row_of
from esnac_lib.samplers.random import RandomSampler
from esnac_lib.samplers.source_kernels import hold_source, kernel_folder, source_kernels
from esnac_lib.samplers.transfer import TransferSampler
from esnac_lib.seeding import make_rng
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.surrogate.acquisition import expected_improvement
from esnac_lib.surrogate.fitting import KernelSettings
from esnac_lib.surrogate.kernel import Kernel, learn_kernel
from esnac_lib.surrogate.kernel_storage import INDEX, check_readable, index_digest, load_kernels, save_kernels
from esnac_lib.teachers import teacher

QUICK = KernelSettings(max_steps=4)


def space_of(name: str) -> SearchSpace:
    return SearchSpace(trace(teacher(name, 10, 1, 8, seed=0), torch.zeros(1, 1, 8, 8))[0])


@pytest.fixture(scope="module")
def source() -> SearchSpace:
    return space_of("cnn4")


@pytest.fixture(scope="module")
def target() -> SearchSpace:
    return space_of("conv7")


def told(space: SearchSpace, count: int) -> list[Observation]:
    return [
        Observation(p.decisions, p.architecture, 0.1 + 0.05 * i)
        for i, p in enumerate(RandomSampler(space, 0).ask(count))
    ]


@pytest.fixture(scope="module")
def kernels(source: SearchSpace) -> list[Kernel]:
    sampler = EsnacSampler(source, 3, QUICK)
    sampler.tell(told(source, 8))
    return sampler.kernels(3)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_saved_kernel_predicts_the_same(kernels: list[Kernel], target: SearchSpace, tmp_path: Path) -> None:
    save_kernels(tmp_path, kernels, {"study": "there"})
    loaded, learned_on = load_kernels(tmp_path, target.teacher)
    assert learned_on == {"study": "there"}
    students = [encode(target.apply(target.sample(make_rng(0, "s", i)))) for i in range(5)]
    for before, after in zip(kernels, loaded, strict=True):
        for a, b in zip(before.predict(students), after.predict(students), strict=True):
            assert a.tolist() == b.tolist()
        assert after.best == before.best and after.settings == before.settings and after.steps == before.steps
        assert [e.tolist() for e in after.encodings] == [e.tolist() for e in before.encodings]


def test_fewer_kernels_leave_none_of_the_old_in_the_index(
    kernels: list[Kernel], target: SearchSpace, tmp_path: Path
) -> None:
    save_kernels(tmp_path, kernels, {})
    save_kernels(tmp_path, kernels[:1], {})
    assert len(load_kernels(tmp_path, target.teacher)[0]) == 1


def test_an_old_kernel_reads_what_it_knows_with_new_kinds_beside(
    kernels: list[Kernel], target: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library learned two kinds, one in the middle and one at the end: the predictions stay, bit for bit."""
    students = [target.apply(target.sample(make_rng(0, "s", i))) for i in range(4)]
    expected = kernels[0].predict([encode(student) for student in students])
    save_kernels(tmp_path, kernels, {})
    later = (*KINDS[:3], "new in the middle", *KINDS[3:], "new at the end")
    for module in (
        "esnac_lib.architecture.encoding",
        "esnac_lib.surrogate.kernel",
        "esnac_lib.surrogate.kernel_storage",
    ):
        monkeypatch.setattr(f"{module}.KINDS", later)
    from esnac_lib.architecture.encoding import kind_and_attributes

    kind_and_attributes.cache_clear()
    try:
        [kernel, *_] = load_kernels(tmp_path, target.teacher)[0]
        encodings = [encode(student) for student in students]
        assert encodings[0].shape[1] == encoding_size() == len(later) + 6 + 256
        for a, b in zip(kernel.predict(encodings), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    finally:
        kind_and_attributes.cache_clear()


def change_index(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index)
        tensors = {entry["file"]: load_file(folder / entry["file"]) for entry in index["kernels"]}
        index["sha256"] = index_digest({key: value for key, value in index.items() if key != "sha256"}, tensors)
        (folder / INDEX).write_text(json.dumps(index))

    return do


def narrower(folder: Path) -> None:
    tensors = load_file(folder / "kernel00.safetensors")
    tensors["encodings"] = tensors["encodings"][:, :-2].contiguous()
    save_file(tensors, folder / "kernel00.safetensors")
    change_index(lambda index: None)(folder)


def spoiled_index(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"steps": ', '"steps": 1', 1))


def spoiled_kernel(folder: Path) -> None:
    """One weight is another, in a file that is sound by itself."""
    tensors = load_file(folder / "kernel00.safetensors")
    tensors["f"][0] += 0.25
    save_weights(folder / "kernel00.safetensors", tensors)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / INDEX).unlink(), "no kernels are saved"),
        (lambda folder: (folder / INDEX).write_text("{"), "cannot be read"),
        (change_index(lambda index: index.update(format=1)), "format 1, while this version knows 2"),
        (lambda folder: (folder / "kernel00.safetensors").unlink(), r"kernel00.* missing .*: delete \S+ and they are"),
        (lambda folder: (folder / "kernel00.safetensors").write_bytes(b"x" * 50), "kernel00.* damaged .*learned again"),
        (spoiled_index, "not as they were written.*: delete .*learned again"),
        (spoiled_kernel, "not as they were written.*: delete .*learned again"),
        (change_index(lambda index: index["kernels"][0]["kinds"].append("magic")), "knows layers of kind 'magic'"),
        (change_index(lambda index: index["kernels"][0]["kinds"].remove("linear")), "it knows no 'linear', only"),
        (change_index(lambda index: index["kernels"][0]["settings"].update(max_edge=5)), "not a saved kernel"),
        (narrower, "not a saved kernel"),
    ],
)
def test_what_cannot_be_read_says_so_in_one_line(
    damage: Callable[[Path], None], says: str, kernels: list[Kernel], target: SearchSpace, tmp_path: Path
) -> None:
    save_kernels(tmp_path / "kernels", kernels[:1], {})
    damage(tmp_path / "kernels")
    with pytest.raises(DataError, match=says) as caught:
        load_kernels(tmp_path / "kernels", target.teacher)
    assert "\n" not in str(caught.value)


def test_a_kernel_of_another_width_is_refused_before_anything_is_proposed(
    target: SearchSpace, source: SearchSpace
) -> None:
    settings = KernelSettings(max_edge=8, max_steps=0)
    encodings = [encode(source.teacher, 8)]
    kernel = learn_kernel(encodings, [0.0], settings, torch.Generator())
    check_readable(kernel, target.teacher)  # a shorter reach is no fault by itself: its own encoding is used
    kernel.embedding.lstm.input_size += 1
    with pytest.raises(DataError, match="learned on encodings of width"):
        TransferSampler(target, 0, [kernel])
    with pytest.raises(DataError, match="no kernel"):
        TransferSampler(target, 0, [])


# -- proposing ---------------------------------------------------------------------------------------------------------


def test_each_kernel_proposes_the_best_that_it_saw_by_its_own_best_f(
    kernels: list[Kernel], target: SearchSpace
) -> None:
    """The slow twin: the same candidates, one by one, through the plain form of expected improvement."""
    proposals = TransferSampler(target, 5, kernels, candidates=15).ask(5)
    assert [p.kernel for p in proposals] == [0, 1, 2, 0, 1]
    taken: set[str] = {target.teacher.arch_id}
    for index, proposal in enumerate(proposals):
        kernel, rng = kernels[index % 3], make_rng(5, "transfer-candidates", 0, index)
        seen: dict[str, Architecture] = {}
        while len(seen) < 15:
            student = target.apply(target.sample(rng))
            if student.arch_id not in taken:
                seen.setdefault(student.arch_id, student)
        values = {}
        for name, student in seen.items():
            mean, variance = kernel.predict([encode(student)])
            values[name] = float(expected_improvement(mean, variance, kernel.best)[0])
        assert proposal.ei == pytest.approx(max(values.values()), rel=1e-4)
        assert values[proposal.architecture.arch_id] == pytest.approx(max(values.values()), rel=1e-4)
        taken.add(proposal.architecture.arch_id)


def test_what_is_told_changes_no_prediction(kernels: list[Kernel], target: SearchSpace) -> None:
    sampler = TransferSampler(target, 5, kernels, candidates=10)
    sampler.tell(told(target, 3))
    assert [kernel.f.tolist() for kernel in sampler.kernels] == [kernel.f.tolist() for kernel in kernels]


# -- the source --------------------------------------------------------------------------------------------------------


def finished_source(space: SearchSpace, evaluated: int = 4, best: float = 0.2) -> None:
    config = StudyConfig(study="exp/source_seed0", K=2, steps=2, final="none")
    folder = outputs_root() / config.study
    with Ledger.start(folder / "ledger.sqlite", config.to_dict()) as ledger:
        ledger.result("teacher", "search", {"architecture": space.teacher.to_json()})
        trials = ledger.record(0, [row_of(p, 0.0) for p in RandomSampler(space, 0).ask(4)])
        for trial in trials[:evaluated]:
            ledger.complete(trial, 0.9, best * trial, 1, 1.0)


def test_kernels_of_a_source_are_learned_once_and_then_read(
    source: SearchSpace, target: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_source(source)
    [first] = source_kernels("exp/source_seed0", 1, target.teacher)
    again = source_kernels("exp/source_seed0", 3, target.teacher)  # more than are saved: learned again
    assert again[0].predict([encode(target.teacher)]) == first.predict([encode(target.teacher)])
    assert len({tuple(kernel.f) for kernel in again}) > 1  # on subsets of their own
    index = json.loads((kernel_folder("exp/source_seed0") / INDEX).read_text())
    assert index["learned_on"] == {
        "study": "exp/source_seed0", "teacher": "cnn4", "dataset": "digits", "sampler": "esnac",
        "operators": "remove,shrink,skip", "seed": 0, "observations": 4, "objective": "posterior",
        "trials": index["learned_on"]["trials"],
    }  # fmt: skip
    monkeypatch.setattr("esnac_lib.samplers.source_kernels.EsnacSampler", lambda *_: pytest.fail("learned again"))
    assert len(source_kernels("exp/source_seed0", 2, target.teacher)) == 2


def test_a_source_that_is_another_study_by_now(source: SearchSpace, target: SearchSpace) -> None:
    """New studies get the kernels of what is there now; one that was begun with the old ones is refused."""
    config = StudyConfig(study="new", sampler="transfer", source="exp/source_seed0", K=2)
    finished_source(source)
    [before] = source_kernels(config.source, 1, target.teacher)
    with Ledger.start(outputs_root() / "new" / "ledger.sqlite", config.to_dict()) as ledger:
        hold_source(ledger, config)
        hold_source(ledger, config)
        (outputs_root() / config.source / "ledger.sqlite").unlink()
        finished_source(source, best=0.3)
        [after] = source_kernels(config.source, 1, target.teacher)
        assert after.best > before.best
        with pytest.raises(ConfigError, match=r"\Astudy 'new' was started with other kernels [^\n]*4 trials[^\n]+\Z"):
            hold_source(ledger, config)


def test_a_source_that_is_not_there_or_not_finished(source: SearchSpace, target: SearchSpace) -> None:
    with pytest.raises(LedgerError):
        source_kernels("nowhere", 1, target.teacher)
    finished_source(source, evaluated=3)
    with pytest.raises(ConfigError, match="has evaluated 3 of its 4 architectures"):
        source_kernels("exp/source_seed0", 1, target.teacher)


def test_the_parameter_belongs_to_the_sampler() -> None:
    for values in ({"sampler": "transfer"}, {"source": "x"}):
        with pytest.raises(EsnacError, match="source = "):
            StudyConfig(**values)
