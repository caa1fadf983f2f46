"""The embedding against PyTorch's own LSTM, packed and one sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esnac_lib.errors import ArchitectureError
from esnac_lib.surrogate import embedding as module
from esnac_lib.surrogate.embedding import Embedding, used_columns
from esnac_lib.surrogate.lstm import averaged
from esnac_lib.surrogate.packing import Packing

WIDTH = 22


def sequences(count: int = 7, seed: int = 0, width: int = WIDTH) -> list[np.ndarray]:
    """Sparse rows of different lengths, one of them a single row; the last columns are zero everywhere."""
    rng = np.random.default_rng(seed)
    lengths = [1, *rng.integers(2, 14, count - 1)]
    found = [(rng.random((n, width)) < 0.2) * rng.integers(1, 9, (n, width)) for n in lengths]
    for rows in found:
        rows[:, -5:] = 0
    return [rows.astype(np.float32) for rows in found]


def new(seed: int = 5, **sizes: int) -> Embedding:
    return Embedding(WIDTH, generator=torch.Generator().manual_seed(seed), **sizes)


def twin(embedding: Embedding, encodings: list[np.ndarray]) -> Tensor:
    """The definition: nn.LSTM on the packed batch, hidden states averaged, normalised."""
    items = [torch.from_numpy(encoding) for encoding in encodings]
    packed = nn.utils.rnn.pack_sequence(items, enforce_sorted=False)
    states, _ = nn.utils.rnn.pad_packed_sequence(embedding.lstm(packed)[0], batch_first=True)
    mean = torch.stack([row[: len(item)].mean(0) for row, item in zip(states, items, strict=True)])
    return mean / mean.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("sizes", [{}, {"hidden": 8, "layers": 1}])
def test_embeddings_are_those_of_the_packed_lstm(sizes: dict[str, int]) -> None:
    embedding, encodings = new(**sizes), sequences()
    found = embedding.embed(encodings)
    assert found.shape == (7, embedding.size)
    torch.testing.assert_close(found, twin(embedding, encodings), atol=1e-6, rtol=0)


def test_chunks_and_company_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, encodings = new(), sequences(12, seed=2)
    together = embedding.embed(encodings)
    alone = torch.cat([embedding.embed([encoding]) for encoding in encodings])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    monkeypatch.setattr(module, "CHUNK", 20)  # rows: one or two sequences at a time
    torch.testing.assert_close(embedding.embed(encodings), alone, atol=2e-6, rtol=0)
    assert embedding.embed([]).shape == (0, embedding.size)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no more than CHUNK rows, or one sequence, go through the LSTM at once."""
    lengths: list[list[int]] = []

    def counting(packing: Packing, *rest: Any) -> Tensor:
        lengths.append(packing.lengths[0].tolist())
        return averaged(packing, *rest)

    monkeypatch.setattr(module, "averaged", counting)
    monkeypatch.setattr(module, "CHUNK", 12)
    encodings = sequences(60, seed=3)
    new().embed(encodings)
    assert all(sum(some) <= 12 or len(some) == 1 for some in lengths)
    assert any(len(some) > 1 for some in lengths)
    assert sorted(length for some in lengths for length in some) == sorted(map(len, encodings))


@pytest.mark.parametrize("bad", [np.zeros((0, WIDTH), np.float32), np.ones((2, WIDTH - 1)), np.ones(WIDTH)])
def test_encodings_that_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ArchitectureError, match="is needed"):
        new().embed([*sequences(2), bad])


def test_used_columns() -> None:
    encodings = sequences()
    used = used_columns(encodings)
    assert used.max() < WIDTH - 5
    np.testing.assert_array_equal(used, np.flatnonzero(np.concatenate(encodings).any(0)))


def test_unit_vectors_that_depend_on_the_order() -> None:
    encoding = sequences(3)[2]
    assert len(encoding) > 2
    both = new().embed([encoding, np.ascontiguousarray(encoding[::-1])])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    assert (both[0] - both[1]).norm() > 1e-4


def test_weights_out_and_in() -> None:
    one, other = new(1), new(2)
    other.set_weights(one.weights())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.weights()[0].ih.shape == (1, 2, 256, WIDTH)
    assert one.weights()[3].hh.shape == (1, 2, 256, 64)


def test_initial_weights_are_pytorchs_own_for_that_seed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        reference = nn.LSTM(WIDTH, 64, 4, batch_first=True, bidirectional=True)
    ours = new(5).lstm.state_dict()
    assert list(ours) == list(reference.state_dict())
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(ours[name], weight, atol=0, rtol=0)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = new()
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(2)
        second = new()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(new(6).parameters()))
