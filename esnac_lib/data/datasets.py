"""Data sets as arrays. Imports no torch: a missing or damaged file is reported at once.

The on-disk form of a data set is one file ``<root>/<name>.npz`` with

    train_images, test_images   uint8, (N, H, W, C) or (N, H, W), H = W, values 0 … 255
    train_labels, test_labels   any integer type, (N,), values 0 … number of classes - 1
    classes                     optional: the class names in label order
    flip                        optional, a user's own data set only: true if a mirrored image keeps its class

A user's own data set is one such file, named by its path. A named set without a file comes from where its row in
`esnac_lib.data.registry` says; a download is stored in this form. Nothing here reads a pickle of ours or of a user:
object arrays are refused unread.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from esnac_lib.config.base import OWN_IMAGES, show, unknown_choice
from esnac_lib.config.paths import data_root
from esnac_lib.data.registry import DATASETS, DatasetEntry
from esnac_lib.errors import DataError, one_line

MOST_NAMES = 8  # of a file's arrays, in a message
KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_PARTS = {"train": "training", "test": "test"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. The arrays are read-only."""

    name: str
    train_images: np.ndarray  # uint8 (N, H, W, C)
    train_labels: np.ndarray  # int64 (N,)
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    flip: bool  # whether a mirrored image keeps its class, so that augmentation may flip

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

    @cached_property
    def content(self) -> dict[str, str]:
        """What each part holds, in words with a digest, so that other images under the same name are noticed."""
        found = {}
        for part in ("train", "test"):
            images, labels, name = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels"), _PARTS[part]
            shape = "×".join(map(str, images.shape[1:]))
            found[f"{name} images"] = f"{len(images):,} of {shape} {_digest(images)}"
            found[f"{name} labels"] = f"{len(labels):,} of {self.num_classes} classes {_digest(labels)}"
        return found | {"flip": "a mirrored image keeps its class" if self.flip else "a mirrored image may not"}

    def with_channels(self, channels: int) -> Dataset:
        """Return the same images with this number of channels, 0 as they are; only grey ones can be repeated."""
        if channels in (0, self.in_channels):
            return self
        if self.in_channels != 1:
            raise DataError(
                f"image_channels = {channels}: the images of {self.name} have {self.in_channels} channels, and only "
                "grey ones can be repeated; give 0"
            )
        train, test = (np.repeat(images, channels, axis=3) for images in (self.train_images, self.test_images))
        train.flags.writeable = test.flags.writeable = False
        return replace(self, train_images=train, test_images=test)


def _digest(array: np.ndarray) -> str:
    found = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=8)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def load_dataset(name: str, root: str | Path = "") -> Dataset:
    """Load a data set named in `DATASETS`, or a user's own ``….npz``, which is looked for as given, then in `root`.

    `root` is the folder of the .npz files; empty means the environment's ESNAC_DATA, else ``data`` in the checkout.

    Raises:
        DataError: The name is unknown, or the file is missing (and cannot be downloaded), damaged or not of the form
            that this module's header describes.
    """
    folder = data_root() if root == "" else Path(root).expanduser()
    if name.endswith(".npz"):
        return _own_file(name, folder)
    if name not in DATASETS:
        raise DataError(unknown_choice(f"dataset = {show(name)}", name, DATASETS, [*DATASETS, OWN_IMAGES]))
    entry, path = DATASETS[name], folder / f"{name}.npz"
    if os.path.exists(path):  # false, where Path.exists would raise, if a folder may not be entered
        return dataset_from_arrays(entry.name, _read_npz(path), str(path))
    if entry.load and (arrays := entry.load()) is not None:
        return dataset_from_arrays(entry.name, arrays, entry.package or entry.label)
    return _downloaded(entry, path)


def dataset_from_arrays(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
    """Check arrays in the on-disk form (see the module's header) and make a `Dataset` of them.

    They must fit the row of `DATASETS` with this name, if there is one. Without ``classes`` a user's labels must be
    0 … K-1 without a gap, so that labels counted from 1 are noticed.

    Raises:
        DataError: The arrays are not of that form. The message calls their source `where`.
    """
    known = DATASETS.get(name)
    if missing := [key for key in KEYS if key not in arrays]:
        held = ", ".join([*islice(arrays, MOST_NAMES), *(["..."] if len(arrays) > MOST_NAMES else [])]) or "none"
        raise DataError(
            f"{where} has no array {', '.join(missing)} (it has: {held}); it needs {', '.join(KEYS)}: save them under "
            "these names"
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
    flip = known.flip if known else arrays.get("flip", np.False_)
    if not known and (not isinstance(flip, np.ndarray | np.bool_) or flip.dtype != np.bool_ or flip.shape != ()):
        raise DataError(f"{where}: flip must be one bool: true if a mirrored image keeps its class")
    checked = (train_images, train_labels, test_images, test_labels)
    for array in checked:
        array.flags.writeable = False  # each is a view or a copy of our own
    return Dataset(name, *checked, classes, bool(flip))


def _checked_images(array: Any, part: str, where: str) -> np.ndarray:
    """Return images as a uint8 view (N, H, W, C)."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"{where}: {part}_images are {kind}; images must be uint8, 0 to 255")
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[1] != images.shape[2] or 0 in images.shape:
        raise DataError(f"{where}: {part}_images are {array.shape}; need (N, H, W, C) or (N, H, W), H = W, N > 0")
    return np.ascontiguousarray(images).view()


def _checked_labels(array: Any, part: str, count: int, where: str) -> np.ndarray:
    """Return labels as an int64 copy (N,), none negative."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        kind = getattr(array, "dtype", type(array).__name__)
        raise DataError(f"{where}: {part}_labels are {kind}; labels must be integers")
    if array.shape != (count,):
        raise DataError(f"{where}: {part}_labels have shape {array.shape}; {part}_images need ({count},)")
    if array.min() < 0 or array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: {part}_labels run from {array.min()} to {array.max()}; labels count from 0")
    return array.astype(np.int64)


def _checked_classes(array: Any, labels: np.ndarray, known: DatasetEntry | None, where: str) -> tuple[str, ...]:
    """Return the class names; numbers where the source names none. `labels` are the training labels, none negative."""
    if array is not None:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "US" or array.ndim != 1:
            raise DataError(f"{where}: classes must be one row of text, the class names in label order")
        names = tuple(np.char.decode(array, "utf-8", "replace").tolist() if array.dtype.kind == "S" else array.tolist())
        if known and len(names) != known.num_classes:
            raise DataError(f"{where}: classes has {len(names)} names; this data set has {known.num_classes} classes")
        return names
    if known:
        return tuple(map(str, range(known.num_classes)))
    present = np.unique(labels)
    if len(gaps := np.flatnonzero(present != np.arange(len(present)))):
        raise DataError(f"{where}: no training label is {gaps[0]}, yet some are above it; count from 0, or add classes")
    return tuple(map(str, present))


def _own_file(name: str, folder: Path) -> Dataset:
    places = list(dict.fromkeys((Path(name).expanduser(), folder / name)))
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        raise DataError(f"no file {' nor '.join(map(str, places))}; give the path of an .npz with {', '.join(KEYS)}")
    own = f"own-{path.stem}" if path.stem in DATASETS else path.stem
    return dataset_from_arrays(own, _read_npz(path), str(path))


def _read_npz(path: Path) -> dict[str, Any]:
    """Return the arrays of an .npz file, those of other names unread; reading checks CRC-32. No pickle is executed."""
    try:
        with open(path, "rb") as file:  # numpy leaves a file open that it fails to read
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an .npz archive")
            with archive:
                return {key: archive[key] if key in (*KEYS, "classes", "flip") else None for key in archive.files}
    except Exception as error:  # a damaged file fails in zipfile, zlib, struct or numpy, each with errors of its own
        # numpy advises to unpickle what it cannot read, which nobody should do
        reason = "it holds Python objects or is no archive" if "pickle" in str(error) else one_line(error, kind=False)
        raise DataError(
            f"{path} cannot be read ({reason}): damaged, cut short, or Python objects; replace or delete it"
        ) from None


def _downloaded(entry: DatasetEntry, path: Path) -> Dataset:
    """Download a named data set, check it, and store it as `path`."""
    try:
        if entry.download is None:
            raise DataError("no download is known")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{entry.name}-") as scratch:
            arrays: dict[str, Any] = entry.download(Path(scratch))
            dataset = dataset_from_arrays(entry.name, arrays, f"the download of {entry.name}")
            partial = Path(scratch) / path.name
            np.savez(partial, **arrays)
            partial.replace(path)
        return dataset
    except Exception as error:  # whatever went wrong between here and a far server, the user needs the one line
        package = f", or install {entry.package}" if entry.package else ""
        raise DataError(
            f"{entry.name} is not at {path} and cannot be downloaded ({one_line(error, kind=False)}): go online, set "
            f"ESNAC_DATA or the data root to the folder that has {path.name}, put such a file there "
            f"({', '.join(KEYS)}){package}"
        ) from None
