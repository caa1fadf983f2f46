"""Learning kernels: against a plain loop, against separate calls, and on data with something to learn."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import spearmanr
from torch import nn

from esnac_lib.architecture.encoding import KINDS, encoding_size
from esnac_lib.errors import ConfigError, DataError, TrainingError
from esnac_lib.surrogate import gp
from esnac_lib.surrogate import kernel as kernels
from esnac_lib.surrogate.embedding import Embedding
from esnac_lib.surrogate.fitting import KernelSettings, Learner
from esnac_lib.surrogate.kernel import Kernel, choose_subset, learn_kernel, learn_kernels

EDGE = 3
SHORT = KernelSettings(max_steps=6, tolerance=0.0, max_edge=EDGE)


def observations(n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Encodings of 2 to 9 layers; f, from 0 to 1, falls with the number of layers of the second kind."""
    rng = np.random.default_rng(seed)
    width = encoding_size(EDGE)
    encodings, f = [], []
    for _ in range(n):
        length = int(rng.integers(2, 10))
        rows = np.zeros((length, width), np.float32)
        kinds = rng.integers(0, 2, length)
        rows[np.arange(length), kinds] = 1
        rows[:, len(KINDS)] = kinds == 0
        rows[1:, -2 * EDGE] = rows[:-1, -EDGE] = 1
        encodings.append(rows)
        f.append(1 / (1 + kinds.sum()))
    return encodings, np.array(f)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_weights(a: Embedding, b: Embedding) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [("objective", "map"), ("noise", 0.0), ("sigma2", math.nan), ("lr", -1.0), ("average", 1.5), ("max_steps", -1),
     ("subset_probability", -0.1), ("max_edge", 0), ("weight_decay", math.inf)],
)  # fmt: skip
def test_settings_refuse(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        KernelSettings(**{name: value})  # type: ignore[arg-type]


def test_subsets_hold_the_teacher_and_half_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    subsets = [choose_subset(21, rng) for _ in range(2000)]
    counts = np.bincount(np.concatenate(subsets), minlength=21)
    assert counts[0] == 2000
    assert np.abs(counts[1:] / 2000 - 0.5).max() < 0.06  # 5 standard deviations
    assert all((np.diff(subset) > 0).all() for subset in subsets)
    assert choose_subset(1, rng).tolist() == [0]
    assert choose_subset(5, rng, 0.0).tolist() == [0]
    assert choose_subset(5, rng, 1.0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("objective", ["posterior", "marginal", "euclidean"])
def test_against_a_plain_loop(objective: str) -> None:
    """Packed LSTM, textbook Adam with L2 weight decay, the objectives as they are defined."""
    encodings, f = observations(8)
    kernel = learn_kernel(encodings, f, replace(SHORT, objective=objective), generator())
    assert kernel.steps == 6

    source = generator()
    embedding = Embedding(encoding_size(EDGE), generator=source).requires_grad_(True)
    weight, bias = (torch.empty(shape).uniform_(-(128**-0.5), 128**-0.5, generator=source) for shape in ((128,), ()))
    parameters = [*embedding.parameters(), weight.requires_grad_(), bias.requires_grad_()]
    items = [torch.from_numpy(encoding) for encoding in encodings]
    target = torch.from_numpy(f)

    def embedded() -> torch.Tensor:
        packed = nn.utils.rnn.pack_sequence(items, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(embedding.lstm(packed)[0], batch_first=True)
        return nn.functional.normalize(states.sum(1), dim=1)

    def loss() -> torch.Tensor:
        h = embedded()
        if objective == "euclidean":
            return (h @ weight + bias - target).square().mean()
        return getattr(gp, f"{objective}_objective")(h, target, 0.01, 0.05)

    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(1, 7):
        for p, g, m, v in zip(
            parameters, torch.autograd.grad(loss(), parameters, materialize_grads=True), first, second, strict=True
        ):
            if objective != "euclidean" and (p is weight or p is bias):
                continue
            with torch.no_grad():
                g = g + 5e-4 * p
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).add_(g * g, alpha=0.001)
                p -= 1e-3 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    assert kernel.loss == pytest.approx(loss().item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(kernel.embed(encodings), embedded().detach(), atol=2e-5, rtol=0)


def test_objectives_start_from_the_same_embedding() -> None:
    encodings, f = observations(6)
    kernels = [
        learn_kernel(encodings, f, replace(SHORT, objective=objective, max_steps=0), generator())
        for objective in ("posterior", "marginal", "euclidean")
    ]
    assert all(same_weights(kernel.embedding, kernels[0].embedding) for kernel in kernels)
    assert len({kernel.loss for kernel in kernels}) == 3
    assert {kernel.steps for kernel in kernels} == {0}


STOPPING = replace(SHORT, lr=3e-3, max_steps=20)


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The log likelihood after 0, 1, 2 … steps."""
    found: list[float] = []
    objective = gp.posterior_objective

    def recording(h: torch.Tensor, f: torch.Tensor, sigma2: float, noise: float) -> torch.Tensor:
        value = objective(h, f, sigma2, noise)
        found.append(-value.item())
        return value

    with monkeypatch.context() as patch:
        patch.setattr(gp, "posterior_objective", recording)
        learn_kernel(*observations(8), STOPPING, generator())
    assert len(found) == STOPPING.max_steps + 1
    return found


@pytest.mark.parametrize(
    ("tolerance", "minimum"), [(0.015, 5), (0.015, 0), (1e9, 5), (1e9, 0), (1e9, 3), (0.0, 5)]
)  # fmt: skip
def test_early_stop(values: list[float], tolerance: float, minimum: int) -> None:
    expected, average = 0, values[0]
    while expected < STOPPING.max_steps:
        expected += 1
        if expected >= minimum and abs(average - values[expected]) < tolerance:
            break
        average = 0.5 * average + 0.5 * values[expected]
    encodings, f = observations(8)
    kernel = learn_kernel(encodings, f, replace(STOPPING, tolerance=tolerance, min_steps=minimum), generator())
    assert kernel.steps == expected
    assert kernel.loss == pytest.approx(-values[expected], abs=1e-12)
    if tolerance == 1e9:
        assert expected == max(minimum, 1)
    elif tolerance == 0:
        assert expected == STOPPING.max_steps
    else:
        assert 5 < expected < STOPPING.max_steps  # the case that tells the rule from its neighbours


def test_fewer_than_two_observations_teach_nothing() -> None:
    encodings, f = observations(1)
    kernel = learn_kernel(encodings, f, SHORT, generator())
    assert kernel.steps == 0
    assert math.isnan(kernel.loss)
    assert same_weights(kernel.embedding, Embedding(encoding_size(EDGE), generator=generator()))
    mean, variance = kernel.predict(encodings)
    assert mean[0] == pytest.approx(f[0] / 1.05)
    assert variance[0] == pytest.approx(1.05 - 1 / 1.05)


def test_two_observations_are_enough_to_learn() -> None:
    kernel = learn_kernel(*observations(2), SHORT, generator())
    assert kernel.steps == SHORT.max_steps
    assert not same_weights(kernel.embedding, Embedding(encoding_size(EDGE), generator=generator()))


def test_learning_ranks_architectures_it_has_not_seen() -> None:
    """f hangs on the kind of the last layer alone, which an embedding as it is drawn hardly shows."""
    encodings, _ = observations(90)
    f = np.array([0.9 * rows[-1, 1] for rows in encodings])
    settings = KernelSettings(max_edge=EDGE)
    kernel = learn_kernel(encodings[:50], f[:50], settings, generator())
    untrained = learn_kernel(encodings[:50], f[:50], replace(settings, max_steps=0), generator())
    before, after = (np.mean((model.predict(encodings[50:])[0] - f[50:]) ** 2) for model in (untrained, kernel))
    assert kernel.loss < untrained.loss - 0.3
    assert after < 0.5 * before
    assert spearmanr(kernel.predict(encodings[50:])[0], f[50:]).statistic > 0.8  # at most 0.87 where f has two values
    variance = kernel.predict(encodings[50:])[1]
    assert ((variance > 0.05) & (variance < 1.05)).all()
    assert not any(weight.requires_grad for weight in kernel.embedding.parameters())
    assert kernel.best == f[:50].max()


def test_prediction_is_the_posterior() -> None:
    encodings, f = observations(9)
    others, _ = observations(12, seed=7)
    kernel = learn_kernel(encodings, f, SHORT, generator())
    asked = [*others, others[3], encodings[0]]
    h, alone = (torch.cat([kernel.embed([item]) for item in items]) for items in (encodings, asked))
    expected = gp.posterior(h, torch.from_numpy(f), alone, 0.01, 0.05)
    for ours, theirs in zip(kernel.predict(asked), expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert [part.shape for part in kernel.predict([])] == [(0,), (0,)]


def test_equal_encodings_are_learned_from_once() -> None:
    encodings, f = observations(4)
    learner = Learner([*encodings, encodings[1].copy()], np.array([*f, 0.3]), SHORT, generator())
    assert len(learner.encodings) == 4
    assert learner.places.tolist() == [0, 1, 2, 3, 1]
    kernel = learn_kernel([*encodings, encodings[1].copy()], [*f, 0.3], SHORT, generator())
    assert math.isfinite(kernel.loss)


SUBSETS: list[list[int]] = [[0, 2, 5, 7], [0, 1, 9], [0], [0, 3, 4, 6, 8]]
SEEDS = [11, 12, 2**62, 13]


@pytest.mark.parametrize("rows", [1, 40, 10_000])  # each kernel in a pass of its own, two together, all together
def test_k_kernels_are_k_separate_calls(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To float32's rounding, which Adam makes larger where a gradient is hardly more than that."""
    encodings, f = observations(10)
    monkeypatch.setattr(kernels, "ROWS", {"cpu": rows})
    settings = replace(SHORT, lr=3e-3, tolerance=0.03, max_steps=12)  # kernels stop after different numbers of steps
    together = learn_kernels(encodings, f, [np.array(subset) for subset in SUBSETS], settings, SEEDS)
    for kernel, subset, seed in zip(together, SUBSETS, SEEDS, strict=True):
        alone = learn_kernel([encodings[i] for i in subset], f[subset], settings, generator(seed))
        np.testing.assert_array_equal(kernel.f, f[subset])
        assert kernel.steps == alone.steps
        assert kernel.loss == pytest.approx(alone.loss, abs=5e-5, nan_ok=True)
        torch.testing.assert_close(kernel.embed(encodings), alone.embed(encodings), atol=1e-4, rtol=0)
    assert not same_weights(together[0].embedding, together[1].embedding)
    assert len({kernel.steps for kernel in together}) == 4


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    encodings, f = observations(10)
    monkeypatch.setattr(kernels, "ROWS", {"cpu": 1})
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(learn_kernels(encodings, f, SUBSETS, SHORT, SEEDS))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert same_weights(one.embedding, other.embedding)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    encodings, f = observations(5)
    settings = replace(SHORT, objective="euclidean", max_steps=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = learn_kernel(encodings, f, settings, generator())
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(2)
        second = learn_kernel(encodings, f, settings, generator())
    assert same_weights(first.embedding, second.embedding)


@pytest.mark.parametrize("n", [1, 5])
def test_saved_and_read_again(n: int) -> None:
    encodings, f = observations(n)
    kernel = learn_kernel(encodings, f, replace(SHORT, noise=0.07), generator())
    tensors, info = kernel.state()
    again = Kernel.from_state(safetensors.torch.load(safetensors.torch.save(tensors)), json.loads(json.dumps(info)))
    asked, _ = observations(6, seed=3)
    for ours, theirs in zip(again.predict(asked), kernel.predict(asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.settings == kernel.settings
    assert (again.steps, again.best) == (kernel.steps, kernel.best)
    assert again.loss == pytest.approx(kernel.loss, nan_ok=True)


def test_a_damaged_kernel_is_refused() -> None:
    encodings, f = observations(3)
    tensors, info = learn_kernel(encodings, f, replace(SHORT, max_steps=0), generator()).state()
    no_f = {name: value for name, value in tensors.items() if name != "f"}
    no_weight = {name: value for name, value in tensors.items() if name != "embedding.lstm.weight_hh_l0"}
    for bad_tensors, bad_info in [
        (no_f, info),
        (no_weight, info),
        (tensors | {"f": tensors["f"][:2]}, info),
        (tensors | {"lengths": tensors["lengths"] + 1}, info),
        (tensors, info | {"kinds": info["kinds"][::-1]}),
        (tensors, info | {"settings": info["settings"] | {"noise": 0.0}}),
        (tensors, info | {"settings": info["settings"] | {"max_edge": 9}}),
        (tensors, {"settings": info["settings"]}),
    ]:
        with pytest.raises(DataError, match="not a saved kernel") as caught:
            Kernel.from_state(bad_tensors, bad_info)
        assert "\n" not in str(caught.value)


def test_observations_that_are_refused() -> None:
    encodings, f = observations(3)
    cases: list[tuple[list[np.ndarray], list[float] | np.ndarray]] = [
        ([], []),
        (encodings, f[:2]),
        (encodings, [0.1, math.nan, 0.2]),
        ([*encodings[:2], encodings[2][:, :-1]], f),
        ([*encodings[:2], encodings[2][:0]], f),
    ]
    for bad_encodings, bad_f in cases:
        with pytest.raises(TrainingError):
            learn_kernel(bad_encodings, bad_f, SHORT, generator())


@pytest.mark.parametrize("objective", ["posterior", "euclidean"])
def test_divergence_is_told(objective: str) -> None:
    encodings, f = observations(4)
    settings = replace(SHORT, objective=objective, lr=3e37)
    with pytest.raises(TrainingError, match="diverged after 1 steps"):
        learn_kernel(encodings, f, settings, generator())
