"""Files that are never seen half-written, and weights on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from esnac_lib.errors import TrainingError
from esnac_lib.files import digest, load_weights, save_weights, shown, write_atomically, write_together


def test_a_shown_path_starts_where_the_user_stands_or_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    written = tmp_path / "outputs" / "digits" / "summary.json"
    for place, expected in (
        (tmp_path, "outputs/digits/summary.json"),
        (tmp_path / "notebooks", "../outputs/digits/summary.json"),
        (Path("/"), str(written)[1:]),
        (Path(sys.prefix) / "bin", str(written)),
    ):
        monkeypatch.chdir(place)
        assert shown(written) == expected and Path(expected).resolve() == written.resolve()


def test_bytes_text_and_what_a_function_writes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for content in (b"\xff", "é\n", lambda part: part.write_text("x")):
        write_atomically(path, content)
        assert [found.name for found in path.parent.iterdir()] == ["file"]
    assert path.read_text() == "x"


def test_an_error_leaves_the_old_files_and_no_temporary_ones(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "a", "old")
    with pytest.raises(OSError, match="No space"):
        write_together({tmp_path / "a": "new", tmp_path / "b": fail})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


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


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.tensor(2), "c": torch.zeros(0)})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrainingError, match="a byte has changed"):
        load_weights(path)


def test_weights_without_a_digest_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors")["a"].tolist() == [0, 1, 2]


def test_what_the_digest_depends_on() -> None:
    tensors = {"a": torch.zeros(2, 2), "b": torch.zeros(2)}
    others = [
        {"a": torch.zeros(2, 2), "c": torch.zeros(2)}, {"a": torch.zeros(4), "b": torch.zeros(2)},
        {"a": torch.zeros(2, 2), "b": torch.zeros(2, dtype=torch.int32)}, {"a": torch.zeros(2, 2), "b": torch.ones(2)},
    ]  # fmt: skip
    found = [digest(tensors), digest(tensors, "text"), *map(digest, others)]
    assert len(set(found)) == 6 and digest(dict(reversed(tensors.items()))) == found[0]
