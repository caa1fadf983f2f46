"""Data sets: what is refused and how, how they are split, and the batches that come of them."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import pickle
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esnac_lib.config.paths import data_root
from esnac_lib.data import sources as data_sources
from esnac_lib.data.batches import DeviceData, crop_padding, normalisation
from esnac_lib.data.datasets import Dataset, dataset_from_arrays, load_dataset
from esnac_lib.data.registry import DATASETS
from esnac_lib.data.splits import split
from esnac_lib.data.stratification import stratified
from esnac_lib.errors import DataError
from esnac_lib.seeding import make_generator, make_rng

CHECKOUT = Path(__file__).resolve().parents[2]


def small_arrays(count: int = 20, size: int = 6, channels: int = 3, classes: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % classes
    return arrays


def refusal(name: str, root: str | Path = "") -> str:
    """The message of the error that loading raises: always one line."""
    with pytest.raises(DataError) as caught:
        load_dataset(name, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --------------------------------------------------------------------------------------------------- named data sets


def test_digits_need_no_file_and_are_split_once_and_for_all(tmp_path: Path) -> None:
    digits = load_dataset("digits", tmp_path / "nowhere")
    assert digits.train_images.shape == (1297, 8, 8, 1) and digits.test_images.shape == (500, 8, 8, 1)
    assert (digits.num_classes, digits.in_channels, digits.image_size, digits.flip) == (10, 1, 8, False)
    assert digits.train_images.dtype == np.uint8 and digits.train_labels.dtype == np.int64
    everything = np.concatenate([digits.train_images, digits.test_images])
    assert everything.min() == 0 and everything.max() == 255 and len(np.unique(everything)) == 17
    _, sizes = np.unique(np.concatenate([digits.train_labels, digits.test_labels]), return_counts=True)
    _, test_sizes = np.unique(digits.test_labels, return_counts=True)
    assert np.abs(test_sizes - sizes * 500 / 1797).max() < 1
    assert not (tmp_path / "nowhere").exists()
    # Results on digits can be compared only as long as this split stays what it is.
    digest = hashlib.sha256(digits.test_images.tobytes() + digits.test_labels.tobytes()).hexdigest()
    assert digest[:16] == "f7f477e976967742"


def test_digits_hold_scikit_learns_images_in_its_order() -> None:
    from sklearn.datasets import load_digits

    def items(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]

    digits, source = load_dataset("digits"), load_digits()
    train, test = items(digits.train_images, digits.train_labels), items(digits.test_images, digits.test_labels)
    for item in items(np.rint(source.images / 16 * 255).astype(np.uint8), source.target):
        part = test if test and test[0] == item else train
        assert part.pop(0) == item  # each is the next one of one of the two
    assert not train and not test


@pytest.mark.skipif(
    not data_sources.DEBIAN_FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not here"
)
def test_fashion_mnist_is_read_from_debians_files(tmp_path: Path) -> None:
    fashion = load_dataset("fashion_mnist", tmp_path)
    assert fashion.train_images.shape == (60000, 28, 28, 1) and fashion.test_images.shape == (10000, 28, 28, 1)
    assert np.bincount(fashion.train_labels).tolist() == [6000] * 10
    assert fashion.classes[fashion.train_labels[0]] == "Ankle boot" and fashion.flip
    mean, std = normalisation(fashion.train_images)
    assert mean[0] == pytest.approx(0.2860, abs=1e-4) and std[0] == pytest.approx(0.3530, abs=1e-4)
    assert not list(tmp_path.iterdir())


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=1)


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small Fashion-MNIST in Debian's form."""
    folder = tmp_path / "debian"
    folder.mkdir()
    for stem in ("train", "t10k"):
        images = np.arange(20 * 28 * 28).reshape(20, 28, 28).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    monkeypatch.setattr(data_sources, "DEBIAN_FASHION", folder)
    return folder


def test_idx_files_are_read_as_written(debian: Path, tmp_path: Path) -> None:
    fashion = load_dataset("fashion_mnist", tmp_path)
    assert fashion.train_images[3, 5, 7, 0] == (3 * 784 + 5 * 28 + 7) % 256
    assert fashion.test_labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("harm", ["missing", "cut", "not gzip", "short", "wrong magic", "counts differ"])
def test_damaged_debian_files_are_refused_in_one_line(harm: str, debian: Path, tmp_path: Path) -> None:
    path = debian / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    raw = gzip.decompress(whole)
    match harm:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "not gzip":
            path.write_bytes(b"no such thing" * 9)
        case "short":
            path.write_bytes(gzip.compress(raw[:-1]))
        case "wrong magic":
            path.write_bytes(gzip.compress(b"\0\0\x0d\3" + raw[4:]))
        case "counts differ":
            path.write_bytes(idx(np.zeros((19, 28, 28), np.uint8)))
    message = refusal("fashion_mnist", tmp_path)
    assert "dataset-fashion-mnist" in message and (str(debian) in message or "need (19,)" in message)


def test_a_named_file_goes_before_other_sources_and_must_be_what_its_name_says(tmp_path: Path, debian: Path) -> None:
    path = tmp_path / "fashion_mnist.npz"
    np.savez(path, **small_arrays(size=28, channels=1))
    fashion = load_dataset("fashion_mnist", tmp_path)
    assert len(fashion.train_images) == 20 and fashion.num_classes == 10 and fashion.flip
    np.savez(path, **small_arrays(size=32, channels=3))
    assert "(28, 28, 1)" in refusal("fashion_mnist", tmp_path)
    np.savez(path, **small_arrays(size=28, channels=1), classes=np.array(["a", "b", "c", "d"]))
    assert "4 names" in refusal("fashion_mnist", tmp_path)
    np.savez(path, **small_arrays(size=28, channels=1, classes=11))
    assert "hold 10; allowed are 0 to 9" in refusal("fashion_mnist", tmp_path)


def test_an_unknown_name_is_told_with_the_nearest_known_one() -> None:
    message = refusal("cifar-10")
    assert "'cifar-10'" in message and "did you mean 'cifar10'?" in message and "svhn" in message
    assert "did you mean" not in refusal("zzz") + refusal("folder")


def test_the_root_is_the_environments_then_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "cifar10.npz", **small_arrays(size=32))
    monkeypatch.setenv("ESNAC_DATA", str(tmp_path))
    assert len(load_dataset("cifar10").train_images) == 20
    monkeypatch.delenv("ESNAC_DATA")
    assert data_root() == CHECKOUT / "data"


def test_loading_imports_no_torch(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **small_arrays(size=32))
    code = "import sys, esnac_lib.data.datasets as d; d.load_dataset('cifar10'); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "ESNAC_DATA": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment).returncode == 0


# ---------------------------------------------------------------------------------------------------- a user's files


def test_a_users_file_is_found_as_given_then_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "mine.npz", **small_arrays(), flip=np.True_, classes=np.array(["a", "b", "c", "d"]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, root in ((str(tmp_path / "mine.npz"), ""), ("../mine.npz", ""), ("mine.npz", tmp_path)):
        mine = load_dataset(name, root)
        assert (mine.name, mine.classes, mine.flip) == ("mine", ("a", "b", "c", "d"), True)
    message = refusal("other.npz", tmp_path)
    assert "other.npz nor " in message and str(tmp_path / "other.npz") in message and "train_images" in message


def test_grey_images_any_integer_labels_and_missing_extras_are_taken(tmp_path: Path) -> None:
    arrays = small_arrays(channels=1)
    arrays = {key: value[..., 0] if value.ndim == 4 else value.astype(">u2") for key, value in arrays.items()}
    np.savez_compressed(tmp_path / "grey.npz", **arrays)
    grey = load_dataset("grey.npz", tmp_path)
    assert grey.train_images.shape == (20, 6, 6, 1) and grey.train_labels.dtype == np.dtype(np.int64)
    assert grey.classes == ("0", "1", "2", "3") and not grey.flip
    assert np.array_equal(grey.test_images[..., 0], arrays["test_images"])
    with pytest.raises(ValueError, match="read-only"):
        grey.train_images[0] = 0


def test_a_users_file_named_like_a_known_set_is_not_taken_for_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **small_arrays())
    own = load_dataset(str(tmp_path / "cifar10.npz"))
    assert own.name == "own-cifar10" and own.num_classes == 4 and not own.flip


def test_arrays_handed_in_stay_writable() -> None:
    arrays = small_arrays()
    dataset_from_arrays("mine", arrays, "arrays")
    arrays["train_images"][0] = 0
    arrays["train_labels"][0] = 0


def changed(**changes: Any) -> dict[str, Any]:
    """The small arrays with some of them replaced, or dropped where the change is None."""
    return {key: value for key, value in {**small_arrays(), **changes}.items() if value is not None}


images, labels = small_arrays()["train_images"], small_arrays()["train_labels"]
WRONG = {
    "missing key": (changed(test_labels=None), r"no array test_labels \(it has: train_images, "),
    "other names": (
        {"x_train": images, "y_train": labels, "x_test": np.array([None])},
        r"no array train_images, train_labels, test_images, test_labels \(it has: x_train, y_train, x_test\)",
    ),
    "many names": ({f"arr_{n}": labels for n in range(99)}, r"\(it has: arr_0, .*, arr_7, \.\.\.\)"),
    "no arrays": ({}, r"\(it has: none\)"),
    "float images": (changed(train_images=images / 255), "train_images are float64"),
    "bool images": (changed(test_images=images > 9), "test_images are bool"),
    "flat images": (changed(train_images=images.reshape(20, -1)), r"train_images are \(20, 108\)"),
    "channels first": (changed(train_images=images.transpose(0, 3, 1, 2)), "H = W"),
    "no images": (changed(train_images=images[:0], train_labels=labels[:0]), "N > 0"),
    "other test size": (changed(test_images=images[:, :4, :4]), "they must agree"),
    "float labels": (changed(train_labels=labels / 1), "train_labels are float64"),
    "bool labels": (changed(train_labels=labels > 1), "train_labels are bool"),
    "one-hot labels": (changed(test_labels=np.eye(4, dtype=int)[labels]), r"test_labels have shape \(20, 4\)"),
    "fewer labels": (changed(train_labels=labels[:-1]), r"need \(20,\)"),
    "negative label": (changed(test_labels=labels - 1), "run from -1 to 2"),
    "huge label": (changed(train_labels=labels.astype(np.uint64) + np.uint64(2**63)), "count from 0"),
    "labels from one": (changed(train_labels=labels + 1, test_labels=labels + 1), "no training label is 0"),
    "gap": (changed(train_labels=np.where(labels == 2, 1, labels)), "no training label is 2"),
    "test label above": (changed(test_labels=labels + 1), "test_labels hold 4; allowed are 0 to 3"),
    "label above classes": (changed(classes=np.array(["a", "b", "c"])), "train_labels hold 3; allowed are 0 to 2"),
    "one class": (changed(train_labels=labels * 0), "one class only|hold 3"),
    "one class of named": (
        changed(train_labels=labels * 0, test_labels=labels * 0, classes=np.array(["a", "b"])),
        "one class only",
    ),
    "classes not text": (changed(classes=np.arange(4)), "class names"),
    "classes not a row": (changed(classes=np.array("abcd")), "class names"),
    "flip not bool": (changed(flip=np.array(1)), "flip must be one bool"),
    "objects": (changed(train_labels=np.array([None] * 20)), "it holds Python objects"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_of_the_wrong_form_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    arrays, expected = WRONG[case]
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=expected) as caught:
        load_dataset("mine.npz", tmp_path)
    assert str(tmp_path / "mine.npz") in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    arrays = small_arrays()
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        whole = path.read_bytes()
        for length in (0, 1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert str(path) in refusal("mine.npz", tmp_path)
        refused = 0
        places = range(7, len(whole), 97)
        for place in places:  # a flipped byte either is caught, or lies where it changes nothing that we read
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            try:
                read = load_dataset("mine.npz", tmp_path)
            except DataError:
                refused += 1
            else:
                assert all(np.array_equal(getattr(read, key), arrays[key]) for key in arrays)
        assert refused > 0.8 * len(places)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("no archive at all")
    assert str(path) in refusal("mine.npz", tmp_path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert "not an .npz archive" in refusal("mine.npz", tmp_path)
    path.unlink()
    path.mkdir()
    assert "no file" in refusal("mine.npz", tmp_path)


class _Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_refused_without_being_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "mine.npz", tmp_path / "executed"
    path.write_bytes(pickle.dumps(_Trap(mark)))
    refusal("mine.npz", tmp_path)
    np.savez(path, **changed(classes=np.array([_Trap(mark)], dtype=object)))
    refusal("mine.npz", tmp_path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Trap(mark)))
    assert mark.exists()  # the trap works


# --------------------------------------------------------------------------------------------------------- downloads


def fake_source(size: int = 32, fails: str = "") -> type:
    """What torchvision's CIFAR10 is to us, without a network."""

    class Source:
        url = "http://unused.invalid/"

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert download and Path(root).is_dir()
            (Path(root) / "archive.tar.gz").write_bytes(b"left behind")
            if fails:
                raise RuntimeError(fails)
            arrays, part = small_arrays(size=size, classes=10), "train" if train else "test"
            self.data, self.targets = arrays[f"{part}_images"], arrays[f"{part}_labels"].tolist()
            self.classes = [f"class {n}" for n in range(10)]

    return Source


def test_a_download_is_stored_once_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    root = tmp_path / "new" / "folder"
    monkeypatch.setattr(data_sources, "probe", lambda url: None)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_source())
    first = load_dataset("cifar10", root)
    assert [path.name for path in root.iterdir()] == ["cifar10.npz"]
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_source(fails="fetched a second time"))
    second = load_dataset("cifar10", root)
    assert np.array_equal(first.train_images, second.train_images) and first.classes == second.classes
    assert second.classes[3] == "class 3" and second.flip


def test_svhn_is_turned_to_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    arrays = small_arrays(size=32, classes=10)

    class Source:
        split_list: ClassVar = {"train": ["http://unused.invalid/"]}

        def __init__(self, root: str, split: str, download: bool) -> None:
            self.data = arrays[f"{split}_images"].transpose(0, 3, 1, 2)
            self.labels = arrays[f"{split}_labels"]

    monkeypatch.setattr(data_sources, "probe", lambda url: None)
    monkeypatch.setattr(torchvision.datasets, "SVHN", Source)
    svhn = load_dataset("svhn", tmp_path)
    assert np.array_equal(svhn.train_images, arrays["train_images"]) and not svhn.flip
    assert svhn.classes == tuple("0123456789")


@pytest.mark.parametrize(("size", "fails"), [(32, "MD5 differs\nby far"), (28, "")])
def test_a_failed_download_is_one_line_and_leaves_nothing(
    size: int, fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(data_sources, "probe", lambda url: None)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_source(size, fails))
    message = refusal("cifar10", tmp_path)
    assert ("MD5 differs by far" if fails else "(32, 32, 3)") in message
    assert str(tmp_path / "cifar10.npz") in message and "train_labels" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_offline_torchvision_is_not_even_asked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def offline(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network here")

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("torchvision was asked")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", never)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", never)
    monkeypatch.setattr(data_sources, "DEBIAN_FASHION", tmp_path / "nowhere")
    message = refusal(name, tmp_path)
    assert "cannot be reached: no network here" in message and str(tmp_path / f"{name}.npz") in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert not list(tmp_path.iterdir())


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sources, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: time.sleep(5))
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.1 s"):
        data_sources.probe("http://unused.invalid/")
    assert time.perf_counter() - start < 2


def test_any_answer_of_the_server_lets_the_download_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.HTTPError("http://unused.invalid/", 405, "no HEAD here", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr("urllib.request.urlopen", refuses)
    data_sources.probe("http://unused.invalid/")
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: SimpleNamespace(close=lambda: None))
    data_sources.probe("http://unused.invalid/")


# ------------------------------------------------------------------------------------------------------------ splits


def naive_quotas(sizes: list[int], count: int, leave: int) -> list[int]:
    """Largest remainder, one image after the other."""
    exact = [size * count / sum(sizes) for size in sizes]
    quotas = [min(math.floor(size * count // sum(sizes)), max(size - leave, 0)) for size in sizes]
    turn = sorted(range(len(sizes)), key=lambda c: (-(sizes[c] * count % sum(sizes)), c))
    while sum(quotas) < count:
        for c in turn:
            if sum(quotas) < count and quotas[c] < sizes[c] - leave:
                quotas[c] += 1
    if leave == 0:
        assert all(abs(quota - part) < 1 for quota, part in zip(quotas, exact, strict=True))
    return quotas


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_stratified_gives_what_counting_one_by_one_gives(draw: st.DataObject) -> None:
    sizes = draw.draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))
    leave = draw.draw(st.integers(0, 2))
    count = draw.draw(st.integers(0, sum(max(size - leave, 0) for size in sizes)))
    seed = draw.draw(st.integers(0, 99))
    labels = make_rng(seed, "shuffle").permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    picked = stratified(labels, count, make_rng(seed, "pick"), leave)
    assert len(np.unique(picked)) == len(picked) == count and np.all(np.diff(picked) > 0)
    assert [int((labels[picked] == 3 * c).sum()) for c in range(len(sizes))] == naive_quotas(sizes, count, leave)
    assert np.array_equal(picked, stratified(labels, count, make_rng(seed, "pick"), leave))


def test_stratified_refuses_more_than_there_is() -> None:
    labels = np.array([0, 0, 1])
    for count, leave in ((4, 0), (2, 1), (-1, 0)):
        with pytest.raises(ValueError, match=f"cannot take {count} of 3"):
            stratified(labels, count, make_rng(0, "x"), leave)


def labelled(sizes: list[int]) -> Dataset:
    """A data set with that many images of each class, and no others."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return Dataset("mine", images, labels, images, labels, tuple(map(str, range(len(sizes)))), False)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_split_is_exact_disjoint_and_keeps_every_class(draw: st.DataObject) -> None:
    sizes = draw.draw(st.lists(st.integers(1, 20), min_size=2, max_size=6).filter(lambda s: sum(s) > len(s)))
    dataset = labelled(sizes)
    validation = draw.draw(st.integers(1, sum(sizes) - len(sizes)))
    search = draw.draw(st.integers(0, sum(sizes) - validation))
    parts = split(dataset, validation, draw.draw(st.integers(0, 5)), search)
    assert len(parts.validation) == validation and not np.intersect1d(parts.train, parts.validation).size
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation])), np.arange(sum(sizes)))
    assert set(dataset.train_labels[parts.train]) == set(range(len(sizes)))
    assert len(parts.search) == (search or len(parts.train)) and np.isin(parts.search, parts.train).all()


def test_the_split_depends_on_the_seed_and_the_search_subset_does_not_move_it() -> None:
    digits = load_dataset("digits")
    parts, again, other = (split(digits, 297, seed) for seed in (0, 0, 1))
    assert np.array_equal(parts.validation, again.validation) and np.array_equal(parts.search, parts.train)
    assert not np.array_equal(parts.validation, other.validation)
    smaller = split(digits, 297, 0, search_images=100)
    assert np.array_equal(smaller.validation, parts.validation) and np.array_equal(smaller.train, parts.train)
    share = np.bincount(digits.train_labels[parts.train]) / len(parts.train) * 100
    assert np.abs(np.bincount(digits.train_labels[smaller.search]) - share).max() < 1


def test_another_process_splits_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **small_arrays(count=200, size=2))
    code = (
        "import sys; from esnac_lib.data.datasets import load_dataset; from esnac_lib.data.splits import split;"
        "parts = split(load_dataset(sys.argv[1]), 50, 5, 40);"
        "print(parts.validation.tolist(), parts.search.tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mine.npz")]
    out = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    parts = split(load_dataset("mine.npz", tmp_path), 50, 5, 40)
    assert out.strip() == f"{parts.validation.tolist()} {parts.search.tolist()}"


@pytest.mark.parametrize(
    ("validation", "search", "expected"),
    [(0, 0, "1 to 7"), (-3, 0, "1 to 7"), (8, 0, "1 to 7"), (7, 4, "0 .all. to 3"), (1, -1, "0 .all. to 9")],
)
def test_a_split_that_cannot_be_is_refused(validation: int, search: int, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        split(labelled([1, 2, 7]), validation, 0, search)


# ----------------------------------------------------------------------------------------------------------- batches


def device_data(dataset: dict[str, Any], **options: Any) -> DeviceData:
    mean, std = normalisation(dataset["train_images"])
    return DeviceData(dataset["train_images"], dataset["train_labels"], mean, std, **options)


def naive_normalise(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """One image (H, W, C) to float32 (C, H, W)."""
    planes = []
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        plane = image[..., channel].astype(np.float32) * np.float32(1 / (255 * s)) + np.float32(-m / s)
        assert np.allclose(plane, (image[..., channel] / 255 - m) / s, atol=1e-5)
        planes.append(plane)
    return np.stack(planes)


def naive_epoch(
    arrays: dict[str, Any], batch_size: int, generator: torch.Generator, flip: bool, padding: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The slow twin: image after image, with the draws that `DeviceData.batches` documents."""
    images, labels = arrays["train_images"], arrays["train_labels"]
    mean, std = normalisation(images)
    count, size = images.shape[:2]
    order = torch.randperm(count, generator=generator).tolist()
    corners = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator).tolist()
    flips = torch.randint(0, 2, (count,), generator=generator).tolist() if flip else [0] * count
    done = []
    for which, (top, left), mirrored in zip(order, corners, flips, strict=True):
        framed = np.zeros((size + 2 * padding, size + 2 * padding, images.shape[3]), np.uint8)
        framed[padding : padding + size, padding : padding + size] = images[which]
        crop = framed[top : top + size, left : left + size]
        done.append((naive_normalise(crop[:, ::-1] if mirrored else crop, mean, std), labels[which]))
    parts = [done[start : start + batch_size] for start in range(0, count, batch_size)]
    return [(np.stack([x for x, _ in part]), np.array([y for _, y in part])) for part in parts]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("size", "channels", "flip", "padding"),
    [(8, 1, False, None), (28, 1, True, None), (32, 3, True, None), (6, 3, True, 0), (5, 2, False, 7)],
)
def test_augmented_batches_are_those_of_the_slow_twin(
    size: int, channels: int, flip: bool, padding: int | None, channels_last: bool
) -> None:
    arrays = small_arrays(37, size, channels)
    images = device_data(arrays, flip=flip, padding=padding, channels_last=channels_last)
    expected = naive_epoch(
        arrays, 8, make_generator(3, "twin"), flip, crop_padding(size) if padding is None else padding
    )
    got = list(images.batches(8, make_generator(3, "twin")))
    assert [len(x) for x, _ in got] == [8, 8, 8, 8, 5]
    for (x, y), (x_twin, y_twin) in zip(got, expected, strict=True):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert np.array_equal(x.numpy(), x_twin) and np.array_equal(y.numpy(), y_twin)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert x.is_contiguous(memory_format=layout)


def test_the_padding_is_black_and_an_eighth_of_the_image() -> None:
    assert [crop_padding(size) for size in (2, 8, 28, 32, 64)] == [0, 1, 4, 4, 8]
    white = np.full((64, 8, 8, 1), 255, np.uint8)
    images = DeviceData(white, np.zeros(64, int), (0.5,), (0.25,))
    ((x, _),) = images.batches(64, make_generator(0, "x"))
    assert set(x.unique().tolist()) == {-2.0, 2.0}  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25


def test_crops_and_flips_take_every_form_they_can() -> None:
    image = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8, 1)
    images = DeviceData(np.repeat(image, 2000, 0), np.zeros(2000, int), (0.0,), (1.0,), flip=True)
    ((x, _),) = images.batches(2000, make_generator(0, "x"))
    forms, counts = torch.unique((x * 255).round().flatten(1), dim=0, return_counts=True)
    assert len(forms) == 3 * 3 * 2 and counts.min() > 60  # 111 are expected of each


def test_without_augmentation_the_images_are_plain_and_in_the_same_order() -> None:
    arrays = small_arrays(21)
    images = device_data(arrays, flip=True)
    mean, std = normalisation(arrays["train_images"])
    order = torch.randperm(21, generator=make_generator(1, "x"))
    plain = list(images.batches(10, make_generator(1, "x"), augment=False))
    expected = np.stack([naive_normalise(arrays["train_images"][which], mean, std) for which in order])
    assert np.array_equal(torch.cat([x for x, _ in plain]).numpy(), expected)
    augmented = list(images.batches(10, make_generator(1, "x"), augment=True))
    assert torch.equal(torch.cat([y for _, y in plain]), torch.cat([y for _, y in augmented]))
    assert not torch.equal(plain[0][0], augmented[0][0])
    never = device_data(arrays, flip=True, augment=False)
    assert torch.equal(next(never.batches(10, make_generator(1, "x")))[0], plain[0][0])


def test_evaluation_keeps_the_order_and_the_last_smaller_batch() -> None:
    arrays = small_arrays(21)
    images = device_data(arrays, flip=True)
    mean, std = normalisation(arrays["train_images"])
    got = list(images.evaluation_batches(8))
    assert [len(y) for _, y in got] == [8, 8, 5] and len(images) == 21
    expected = np.stack([naive_normalise(image, mean, std) for image in arrays["train_images"]])
    assert np.array_equal(torch.cat([x for x, _ in got]).numpy(), expected)
    assert torch.cat([y for _, y in got]).tolist() == arrays["train_labels"].tolist()


def test_an_epoch_depends_on_its_generator_alone() -> None:
    images = device_data(small_arrays(40), flip=True)

    def epoch(seed: int, batch_size: int) -> torch.Tensor:
        return torch.cat([x for x, _ in images.batches(batch_size, make_generator(seed, "x"))])

    first = epoch(0, 16)
    torch.manual_seed(5)
    assert torch.equal(epoch(0, 7), first)  # neither the batch size nor the global state counts
    assert not torch.equal(epoch(1, 16), first)
    generator = make_generator(0, "x")
    late = images.batches(16, generator)
    torch.rand(3, generator=generator)  # all draws were made before
    assert torch.equal(torch.cat([x for x, _ in late]), first)


def test_read_only_arrays_reach_the_device_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    digits = load_dataset("digits")
    recwarn.clear()
    DeviceData(digits.train_images, digits.train_labels, *normalisation(digits.train_images))
    assert not recwarn.list


def test_normalisation_is_the_mean_and_deviation_of_each_channel() -> None:
    images = small_arrays(1500, 3)["train_images"]
    mean, std = normalisation(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)).tolist(), abs=1e-12)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)).tolist(), abs=1e-12)
    assert normalisation(np.full((2, 2, 2, 1), 51, np.uint8)) == ((pytest.approx(0.2),), (1 / 255,))


def test_what_does_not_fit_together_is_refused() -> None:
    arrays = small_arrays()
    images, labels = arrays["train_images"], arrays["train_labels"]
    one = (0.5,) * 3
    for wrong in (images / 255, images[0], images[:0], images[:, :4]):
        with pytest.raises(DataError, match="need uint8"):
            DeviceData(wrong, labels[: len(wrong)], one, one)
    for some_labels, mean, std in ((labels[1:], one, one), (labels, one[:1], one), (labels, one, (0.5, 0.5, 0.0))):
        with pytest.raises(DataError, match="do not fit"):
            DeviceData(images, some_labels, mean, std)
    with pytest.raises(DataError, match="batch_size = 0"):
        device_data(arrays).batches(0, make_generator(0, "x"))
    with pytest.raises(DataError, match="batch_size = -1"):
        device_data(arrays).evaluation_batches(-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_batches_of_the_cpu() -> None:
    arrays = small_arrays(300, 32)
    here, there = (device_data(arrays, flip=True, device=device) for device in ("cpu", "cuda"))
    for (x, y), (x_gpu, y_gpu) in zip(
        here.batches(64, make_generator(0, "x")), there.batches(64, make_generator(0, "x")), strict=True
    ):
        assert x_gpu.is_cuda and torch.equal(x, x_gpu.cpu()) and torch.equal(y, y_gpu.cpu())
