"""The Bi-LSTM against PyTorch's own, packed; several networks with different numbers of sequences in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esnac_lib.surrogate.lstm import BiLstm, Weights, linear
from esnac_lib.surrogate.packing import Packing

WIDTH, HIDDEN, DEPTH = 5, 4, 3
LENGTHS = [[3, 1, 6, 6], [2, 4], [7, 1, 1, 5, 2]]
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def sequences(lengths: list[int], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in lengths]


def networks(dtype: torch.dtype) -> list[nn.LSTM]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [nn.LSTM(WIDTH, HIDDEN, DEPTH, bidirectional=True).to(dtype) for _ in LENGTHS]


def stacked(found: list[nn.LSTM], of: str = "data") -> list[Weights]:
    """The weights of the networks (or of="grad") in our form."""

    def part(name: str, layer: int) -> Tensor:
        ways = (f"{name}_l{layer}", f"{name}_l{layer}_reverse")
        return torch.stack([torch.stack([getattr(getattr(lstm, way), of) for way in ways]) for lstm in found])

    return [Weights(*(part(name, layer) for name in NAMES)) for layer in range(DEPTH)]


def ours(dtype: torch.dtype) -> tuple[BiLstm, Packing, list[list[np.ndarray]]]:
    given = [sequences(lengths, seed) for seed, lengths in enumerate(LENGTHS)]
    packing = Packing(LENGTHS)
    rows = np.stack([packing.arrange(k, items) for k, items in enumerate(given)])
    return BiLstm(packing, torch.from_numpy(rows).to(dtype), HIDDEN, DEPTH), packing, given


def theirs(lstm: nn.LSTM, items: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    """(n, 2·HIDDEN): the hidden states averaged over each sequence."""
    packed = nn.utils.rnn.pack_sequence([torch.from_numpy(item).to(dtype) for item in items], enforce_sorted=False)
    states, lengths = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)
    return states.sum(1) / lengths.unsqueeze(1)


def test_rows_hold_every_element_once() -> None:
    packing = Packing(LENGTHS)
    assert packing.total == sum(packing.counts)
    assert packing.counts == sorted(packing.counts, reverse=True)
    assert len(packing.counts) == max(map(max, LENGTHS))
    for k, lengths in enumerate(LENGTHS):
        names = [np.array([[100 * i + t] for t in range(n)]) + 1 for i, n in enumerate(lengths)]
        rows = packing.arrange(k, names)[:, 0]
        assert sorted(rows[rows > 0]) == sorted(np.concatenate(names)[:, 0])
        for i, n in enumerate(lengths):  # element t of the sequence lies in block t, at the sequence's rank
            assert [int(rows[packing.starts[t] + packing.ranks(k)[i]]) for t in range(n)] == names[i][:, 0].tolist()
        mirror = packing.mirror[k].numpy()
        np.testing.assert_array_equal(mirror[mirror], np.arange(packing.total))
        first = packing.starts[0] + packing.ranks(k)
        np.testing.assert_array_equal(rows[mirror[first]], [item[-1, 0] for item in names])
        assert packing.lengths[k].tolist() == sorted(lengths, reverse=True) + [0] * (5 - len(lengths))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_states_and_gradients_are_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    reference = networks(dtype)
    lstm, packing, given = ours(dtype)
    with torch.no_grad():
        means = lstm.forward(stacked(reference))
    assert means.shape == (3, 5, 2 * HIDDEN)
    direction = torch.linspace(-1, 2, means.numel(), dtype=dtype).view_as(means)
    for k, (network, items) in enumerate(zip(reference, given, strict=True)):
        expected = theirs(network, items, dtype)
        found = means[k, packing.ranks(k)]
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
        assert not means[k, len(items) :].any()
        (expected * direction[k, packing.ranks(k)]).sum().backward()
    with torch.no_grad():
        gradients = lstm.backward(direction)
    for layer, expected_layer in zip(gradients, stacked(reference, "grad"), strict=True):
        for name, part, expected_part in zip(NAMES, layer, expected_layer, strict=True):
            scale = max(1.0, expected_part.abs().max().item())
            torch.testing.assert_close(part, expected_part, atol=10 * tolerance * scale, rtol=0, msg=name)


def test_buffers_are_used_again() -> None:
    weights = stacked(networks(torch.float64))
    others = [Weights(*(part + 0.1 for part in layer)) for layer in weights]
    kept, _, _ = ours(torch.float64)
    with torch.no_grad():
        first = kept.forward(weights)
        gradient = kept.backward(torch.ones_like(first))
        second = kept.forward(others)
        kept.backward(torch.ones_like(first))
        assert not torch.allclose(first, second)
        torch.testing.assert_close(kept.forward(weights), first, atol=0, rtol=0)
        for layer, before in zip(kept.backward(torch.ones_like(first)), gradient, strict=True):
            for part, part_before in zip(layer, before, strict=True):
                torch.testing.assert_close(part, part_before, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_products_are_products(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, bias = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((70, 33), (17, 33), (17,)))
    exact = a.double() @ b.double().T
    for left, right in ((a, b), (a, b.T.contiguous().T)):  # as it lies, and transposed
        torch.testing.assert_close(linear(left, right, bias).double(), exact + bias, atol=1e-5, rtol=0)
        torch.testing.assert_close(linear(left, right).double(), exact, atol=1e-5, rtol=0)
