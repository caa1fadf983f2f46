"""The embedding against PyTorch's own LSTM, packed and one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esnac_lib.embedding import Embedding, pad
from esnac_lib.errors import ArchitectureError

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


def twin(embedding: Embedding, batch: Tensor, lengths: Tensor) -> Tensor:
    """The definition: nn.LSTM on the packed batch, hidden states averaged, normalised."""
    packed = nn.utils.rnn.pack_padded_sequence(batch, lengths, batch_first=True, enforce_sorted=False)
    states, _ = nn.utils.rnn.pad_packed_sequence(embedding.lstm(packed)[0], batch_first=True)
    mean = torch.stack([row[:n].mean(0) for row, n in zip(states, lengths.tolist(), strict=True)])
    return mean / mean.norm(dim=1, keepdim=True)


def test_pad() -> None:
    encodings = sequences()
    batch, lengths = pad(encodings)
    assert batch.shape == (7, max(map(len, encodings)), WIDTH)
    assert batch.dtype == torch.float32
    assert lengths.tolist() == [len(encoding) for encoding in encodings]
    for row, encoding in zip(batch.numpy(), encodings, strict=True):
        np.testing.assert_array_equal(row[: len(encoding)], encoding)
        assert not row[len(encoding) :].any()


@pytest.mark.parametrize(
    "encodings", [[], [np.zeros((0, 3), np.float32)], [np.ones((2, 3)), np.ones((2, 4))], [np.ones(3)]]
)
def test_pad_refuses(encodings: list[np.ndarray]) -> None:
    with pytest.raises(ArchitectureError):
        pad(encodings)


@pytest.mark.parametrize("sizes", [{}, {"hidden": 8, "layers": 1}])
def test_forward_and_gradients_equal_the_packed_lstm(sizes: dict[str, int]) -> None:
    embedding = new(**sizes)
    batch, lengths = pad(sequences())
    ours, theirs = embedding(batch, lengths), twin(embedding, batch, lengths)
    assert ours.shape == (7, embedding.size)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    direction = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    parameters = list(embedding.parameters())
    our_gradients = torch.autograd.grad((ours * direction).sum(), parameters)
    for mine, other in zip(our_gradients, torch.autograd.grad((theirs * direction).sum(), parameters), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6 * max(1.0, other.abs().max().item()), rtol=1e-4)


def test_double_precision_agrees_to_rounding() -> None:
    embedding = new().double()
    batch, lengths = pad(sequences())
    ours = embedding(batch.double(), lengths)
    torch.testing.assert_close(ours, twin(embedding, batch.double(), lengths), atol=1e-14, rtol=0)


def test_padding_and_company_change_nothing() -> None:
    embedding = new()
    encodings = sequences(12, seed=2)
    batch, lengths = pad(encodings)
    together = embedding(batch, lengths)
    alone = torch.cat([embedding(*pad([encoding])) for encoding in encodings])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    longer = torch.cat([batch, torch.zeros(12, 9, WIDTH)], dim=1)
    torch.testing.assert_close(together, embedding(longer, lengths), atol=2e-6, rtol=0)
    for row, n in zip(longer, lengths.tolist(), strict=True):
        row[n:] = 7.0  # not even what the padding holds
    torch.testing.assert_close(together, embedding(longer, lengths), atol=2e-6, rtol=0)


def test_unit_vectors_that_depend_on_the_order() -> None:
    embedding = new()
    encoding = sequences(3)[2]
    assert len(encoding) > 2
    both = embedding(*pad([encoding, encoding[::-1]]))
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    assert (both[0] - both[1]).norm() > 1e-4


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
