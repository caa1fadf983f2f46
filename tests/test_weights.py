"""Weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esnac_lib.errors import TrainingError
from esnac_lib.weights import load_weights, save_weights


def test_round_trip(tmp_path: Path) -> None:
    weights = {"a.weight": torch.randn(3, 4).T, "b": torch.arange(3.0)}
    save_weights(tmp_path / "deep" / "w.safetensors", weights)
    found = load_weights(tmp_path / "deep" / "w.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04cos\nsystem\n", b"\x10\0\0\0\0\0\0\0{"])
def test_missing_or_damaged_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value) and "w.safetensors" in str(caught.value)
