"""Where the named data sets come from: scikit-learn, Debian's package, or torchvision's downloads.

Each source returns arrays in the on-disk form of `esnac_lib.data.datasets`, which checks them. Offline, a download
fails within seconds.
"""

from __future__ import annotations

import gzip
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from esnac_lib.data.stratification import stratified
from esnac_lib.errors import DataError, one_line
from esnac_lib.seeding import make_rng

Arrays = dict[str, np.ndarray]

DIGITS_TEST = 500
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_CLASSES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PROBE_SECONDS = 3.0  # how long to wait for any answer before a download
STALL_SECONDS = 60.0  # how long a running download may stand still


def digits() -> Arrays:
    """Return scikit-learn's 1,797 digits, (8, 8, 1), their values 0 … 16 scaled to 0 … 255.

    They are split once and for all, stratified, by no study's seed: 1,297 training and 500 test images.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images, labels = np.rint(loaded.images * (255 / 16)).astype(np.uint8)[..., None], loaded.target
    test = stratified(labels, DIGITS_TEST, make_rng(0, "digits-test-split"))
    train = np.setdiff1d(np.arange(len(labels)), test)
    return _arrays(train=(images[train], labels[train]), test=(images[test], labels[test]))


def debian_fashion() -> Arrays | None:
    """Return Fashion-MNIST from the four original .gz files in `DEBIAN_FASHION`; None without that folder."""
    if not DEBIAN_FASHION.is_dir():
        return None
    arrays = {"classes": np.array(FASHION_CLASSES)}
    for part, stem in (("train", "train"), ("test", "t10k")):
        arrays[f"{part}_images"] = _read_idx(DEBIAN_FASHION / f"{stem}-images-idx3-ubyte.gz", dimensions=3)
        arrays[f"{part}_labels"] = _read_idx(DEBIAN_FASHION / f"{stem}-labels-idx1-ubyte.gz", dimensions=1)
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped IDX file: two zeros, 8 (unsigned byte), the number of dimensions, their sizes, the data."""
    try:
        with gzip.open(path) as file:
            raw = file.read()
        if raw[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError("not an IDX file of bytes")
        shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=dimensions, offset=4))
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except Exception as error:  # gzip, zlib and numpy each have errors of their own
        raise DataError(
            f"{path} cannot be read ({one_line(error, kind=False)}): reinstall Debian's package dataset-fashion-mnist"
        ) from None


def torchvision(name: str) -> Callable[[Path], Arrays]:
    """Return the download of a data set of torchvision: "CIFAR10", "CIFAR100", "FashionMNIST" or "SVHN".

    It is called with a folder for the archives, which torchvision checks by their MD5, and raises whatever the network,
    the disk or torchvision raise. SVHN's training split is the 73,257 images without the "extra" ones.
    """

    def download(folder: Path) -> Arrays:
        from torchvision import datasets  # here, since it loads PyTorch

        source: Any = getattr(datasets, name)
        svhn = name == "SVHN"
        choices = {part: {"split": part} if svhn else {"train": part == "train"} for part in ("train", "test")}
        probe(source.split_list["train"][0] if svhn else source.url if hasattr(source, "url") else source.mirrors[0])
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(STALL_SECONDS)  # torchvision itself would wait forever
        try:
            loaded = {part: source(str(folder), download=True, **choice) for part, choice in choices.items()}
        finally:
            socket.setdefaulttimeout(before)
        if svhn:  # (N, C, H, W) to (N, H, W, C)
            return _arrays(**{part: (data.data.transpose(0, 2, 3, 1), data.labels) for part, data in loaded.items()})
        arrays = _arrays(**{part: (data.data, data.targets) for part, data in loaded.items()})
        return arrays | {"classes": np.array(loaded["test"].classes)}

    return download


def _arrays(**parts: tuple[Any, Any]) -> Arrays:
    """Return the images and labels of each part, (N, H, W, C) or (N, H, W) and (N,), under their names on the disk."""
    arrays: Arrays = {}
    for part, (images, labels) in parts.items():
        arrays |= {f"{part}_images": np.ascontiguousarray(images), f"{part}_labels": np.asarray(labels)}
    return arrays


def probe(url: str) -> None:
    """Raise `ConnectionError` unless the server answers within `PROBE_SECONDS`; in a thread, as a name lookup may hang.

    Any answer will do, even an error: the download itself then says what is wrong.
    """
    reason = f"no answer within {PROBE_SECONDS:g} s"

    def ask() -> None:
        nonlocal reason
        try:
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            reason = ""
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except Exception as error:  # name lookup, TLS, proxies: each has errors of its own
            reason = one_line(error, kind=False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if reason:
        raise ConnectionError(f"the server cannot be reached: {reason}")
