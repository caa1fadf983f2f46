"""Data sets as arrays, and how they are split. Imports no torch: a missing or damaged file is told at once.

The on-disk form of a data set is one file ``<root>/<name>.npz`` with

    train_images, test_images   uint8, (N, H, W, C) or (N, H, W), H = W, values 0 … 255
    train_labels, test_labels   any integer type, (N,), values 0 … number of classes - 1
    classes                     optional: the class names in label order
    flip                        optional, a user's own data set only: true if a mirrored image keeps its class

A user's own data set is one such file, named by its path. Digits come with scikit-learn and need no file; Fashion-MNIST
is also read from Debian's package; the other named sets are downloaded through torchvision where no file is found, and
stored in this form. Nothing here reads a pickle of ours or of a user: object arrays are refused unread.

How the arrays reach a device, and augmentation: `esnac_lib.data.batches`.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from esnac_lib.data.registry import DATASETS, DatasetEntry
from esnac_lib.data.sources import DEBIAN_FASHION, debian_fashion, digits, download
from esnac_lib.errors import DataError, one_line
from esnac_lib.files import write_atomically
from esnac_lib.seeding import make_rng

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
DIGITS_TEST = 500


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. The arrays are read-only.

    ``train_images`` and ``test_images`` are uint8 (N, H, W, C), the labels int64 (N,). ``flip`` says whether a mirrored
    image keeps its class, so that augmentation may flip.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    flip: bool

    def __repr__(self) -> str:
        size = f"{self.image_size}×{self.image_size}×{self.in_channels}"
        counts = f"{len(self.train_labels):,} training and {len(self.test_labels):,} test images"
        return f"Dataset({self.name!r}: {counts}, {size}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """The channels C of an image."""
        return int(self.train_images.shape[3])

    @property
    def image_size(self) -> int:
        """The edge H = W of an image, in pixels."""
        return int(self.train_images.shape[1])

    def with_channels(self, channels: int) -> Dataset:
        """The same images with so many channels: grey ones are repeated, 0 leaves them as they are.

        Raises `DataError` for images that have another number of channels already.
        """
        if channels in (0, self.in_channels):
            return self
        if self.in_channels != 1:
            raise DataError(
                f"image_channels = {channels}: the images of {self.name} have {self.in_channels} channels, and only "
                "grey ones can be repeated; give 0"
            )
        train, test = (np.repeat(images, channels, axis=3) for images in (self.train_images, self.test_images))
        for images in (train, test):
            images.setflags(write=False)
        return replace(self, train_images=train, test_images=test)


# ---------------------------------------------------------------------------------------------------------- loading


def load_dataset(name: str, root: str | Path = "") -> Dataset:
    """Load a named data set, or a user's own ``….npz``.

    ``root`` is the folder of the .npz files; empty means the environment's ESNAC_DATA, else ``data`` in the checkout. A
    name that ends in .npz is looked for as given, then in ``root``.

    Raises `DataError`, one line, if the name is unknown or the file is missing (and cannot be downloaded), damaged or
    not of the form that this module's header describes.
    """
    folder = default_root() if root == "" else Path(root).expanduser()
    if name.endswith(".npz"):
        return _own_file(name, folder)
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), DATASETS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"no data set {name!r}: allowed are {', '.join(DATASETS)}, or a path that ends in .npz{hint}")
    if name == "digits":
        return _digits()
    path = folder / f"{name}.npz"
    if os.path.exists(path):  # false, where Path.exists would raise, if a folder may not be entered
        return dataset_from_arrays(name, _read_npz(path), str(path))
    if name == "fashion_mnist" and DEBIAN_FASHION.is_dir():
        return dataset_from_arrays(name, debian_fashion(DEBIAN_FASHION), str(DEBIAN_FASHION))
    return _download(name, path)


def check_dataset(name: str, root: str | Path = "") -> None:
    """Raise what `load_dataset` would raise, before any expensive work: under a second for CIFAR-10.

    Everything is read and checked, and a data set that is not there yet is downloaded, so that a study that starts
    after this check does not stop for want of data.
    """
    load_dataset(name, root)


def default_root() -> Path:
    """The folder of the .npz files: the environment's ESNAC_DATA, else ``data``; as a study has it with no data_root.

    A relative one starts at the checkout, at the working folder where there is no checkout.
    """
    checkout = Path(__file__).resolve().parents[2]
    base = checkout if (checkout / "notebooks").is_dir() else Path.cwd()
    return base / Path(os.environ.get("ESNAC_DATA") or "data").expanduser()


def dataset_from_arrays(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
    """Check arrays in the on-disk form (see the module's header) and make a `Dataset` of them.

    ``where`` is what a message calls the source. Without ``classes`` a user's labels must be 0 … K-1 without a gap, so
    that labels counted from 1 are noticed. Raises `DataError`.
    """
    known = DATASETS.get(name)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise DataError(
            f"{where} has no array {missing[0]!r} (it has: {', '.join(arrays) or 'none'}); needed: {', '.join(KEYS)}"
        )
    train_images, test_images = (_checked_images(arrays[f"{part}_images"], part, where) for part in ("train", "test"))
    shape = train_images.shape[1:]
    if test_images.shape[1:] != shape:
        raise DataError(f"{where}: test images are {test_images.shape[1:]}, training images {shape}; they must agree")
    if known and shape != known.image_shape:
        raise DataError(f"{where}: images are {shape}; those of {name} are {known.image_shape} (H, W, C)")
    train_labels, test_labels = (
        _checked_labels(arrays[f"{part}_labels"], part, len(images), where)
        for part, images in (("train", train_images), ("test", test_images))
    )
    classes = _checked_classes(arrays.get("classes"), train_labels, known, where)
    for part, labels in (("train", train_labels), ("test", test_labels)):
        if labels.max() >= len(classes):
            raise DataError(f"{where}: {part}_labels hold {labels.max()}; allowed are 0 to {len(classes) - 1}")
    if len(np.unique(train_labels)) < 2:
        raise DataError(f"{where}: train_labels hold one class only; at least two are needed")
    flip = known.flip if known else _checked_flip(arrays.get("flip", np.False_), where)
    for array in (train_images, train_labels, test_images, test_labels):
        array.flags.writeable = False  # each is a view or a copy of our own
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes, flip)


def _checked_images(array: Any, part: str, where: str) -> np.ndarray:
    """Images as a uint8 view (N, H, W, C)."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"{where}: {part}_images are {kind}; images must be uint8, 0 to 255")
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[1] != images.shape[2] or 0 in images.shape:
        raise DataError(f"{where}: {part}_images are {array.shape}; need (N, H, W, C) or (N, H, W), H = W, N > 0")
    return np.ascontiguousarray(images).view()


def _checked_labels(array: Any, part: str, count: int, where: str) -> np.ndarray:
    """Labels as an int64 copy (N,), none negative."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"{where}: {part}_labels are {kind}; labels must be integers")
    if array.shape != (count,):
        raise DataError(f"{where}: {part}_labels have shape {array.shape}; {part}_images need ({count},)")
    if array.min() < 0 or array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: {part}_labels run from {array.min()} to {array.max()}; labels count from 0")
    return array.astype(np.int64)


def _checked_classes(array: Any, labels: np.ndarray, known: DatasetEntry | None, where: str) -> tuple[str, ...]:
    """The class names; numbers where the source names none. ``labels`` are the training labels, none negative."""
    if array is not None:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "US" or array.ndim != 1:
            raise DataError(f"{where}: classes must be one row of text, the class names in label order")
        names = tuple(np.char.decode(array, "utf-8", "replace").tolist() if array.dtype.kind == "S" else array.tolist())
        if known and len(names) != known.num_classes:
            raise DataError(f"{where}: classes has {len(names)} names; this data set has {known.num_classes} classes")
        return names
    if known:
        return tuple(str(label) for label in range(known.num_classes))
    present = np.unique(labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise DataError(f"{where}: no training label is {gaps[0]}, yet some are above it; count from 0, or add classes")
    return tuple(str(label) for label in present)


def _checked_flip(array: Any, where: str) -> bool:
    if not isinstance(array, np.ndarray | np.bool_) or array.dtype != np.bool_ or array.shape != ():
        raise DataError(f"{where}: flip must be one bool: true if a mirrored image keeps its class")
    return bool(array)


def _own_file(name: str, folder: Path) -> Dataset:
    places = list(dict.fromkeys((Path(name).expanduser(), folder / name)))
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        raise DataError(f"no file {' nor '.join(map(str, places))}; give the path of an .npz with {', '.join(KEYS)}")
    return dataset_from_arrays(
        path.stem if path.stem not in DATASETS else f"own-{path.stem}", _read_npz(path), str(path)
    )


def _read_npz(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file that we know; reading them to the end checks their CRC-32. No pickle is executed."""
    try:
        with open(path, "rb") as file:  # numpy leaves a file open that it fails to read
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an .npz archive")
            with archive:
                return {key: archive[key] for key in archive.files if key in (*KEYS, "classes", "flip")}
    except Exception as error:  # a damaged file fails in zipfile, zlib, struct or numpy, each with errors of its own
        # numpy answers what it cannot read with the advice to unpickle it, which nobody should follow
        reason = "it holds Python objects or is no archive" if "pickle" in str(error) else one_line(error, kind=False)
        raise DataError(
            f"{path} cannot be read ({reason}): damaged, cut short, or Python objects; replace or delete it"
        ) from None


def _write_npz(arrays: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # numpy would put .npz at the end of the name
        np.savez(file, **arrays)


def _digits() -> Dataset:
    """scikit-learn's digits in one fixed stratified split that depends on no seed of a study: 1,297 / 500 images."""
    images, labels = digits()
    test = stratified(labels, DIGITS_TEST, make_rng(0, "digits-test-split"))
    train = np.setdiff1d(np.arange(len(labels)), test)
    arrays = {"train_images": images[train], "train_labels": labels[train]}
    arrays |= {"test_images": images[test], "test_labels": labels[test]}
    return dataset_from_arrays("digits", arrays, "scikit-learn's digits")


def _download(name: str, path: Path) -> Dataset:
    """Fetch a named data set, check it, and store it as ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as scratch:
            arrays: dict[str, Any] = download(name, Path(scratch))
            dataset = dataset_from_arrays(name, arrays, f"the download of {name}")
            write_atomically(path, partial(_write_npz, arrays))
        return dataset
    except Exception as error:  # whatever went wrong between here and a far server, the user needs the one line
        package = "; Debian's package dataset-fashion-mnist also serves" if name == "fashion_mnist" else ""
        raise DataError(
            f"{name} is not at {path} and cannot be downloaded ({one_line(error, kind=False)}); go online, set "
            f"ESNAC_DATA or the data root to the folder that has {path.name}, or put such a file there "
            f"({', '.join(KEYS)}){package}"
        ) from None


# ----------------------------------------------------------------------------------------------------------- splits


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator, leave: int = 0) -> np.ndarray:
    """``count`` sorted positions in ``labels`` (N,), each class in proportion, rounded by largest remainder.

    Ties go to the lower label. Of every class at least ``leave`` are not taken; what a class cannot give, the next
    remainders give. Raises ValueError unless 0 ≤ count ≤ what the classes can give.
    """
    present, sizes = np.unique(labels, return_counts=True)
    if not 0 <= count <= np.maximum(sizes - leave, 0).sum():
        raise ValueError(f"cannot take {count} of {len(labels)} labels and leave {leave} a class")
    share, remainder = np.divmod(sizes * count, len(labels))  # exact: integers
    limit = np.maximum(sizes - leave, 0)
    quota = np.minimum(share, limit)
    order = np.argsort(-remainder, kind="stable")
    while (short := count - int(quota.sum())) > 0:  # each round adds at least one
        open_classes = order[quota[order] < limit[order]][:short]
        quota[open_classes] += 1
    picked = [rng.permutation(np.flatnonzero(labels == label))[:n] for label, n in zip(present, quota, strict=True)]
    return np.sort(np.concatenate(picked))
