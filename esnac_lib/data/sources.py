"""Where the named data sets come from: scikit-learn, Debian's package, or torchvision's downloads.

Each source gives raw arrays; `esnac_lib.data` checks and divides them. Offline, a download fails within seconds.
"""

from __future__ import annotations

import gzip
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from esnac_lib.errors import DataError, one_line

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_CLASSES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PROBE_SECONDS = 3.0  # how long to wait for any answer before a download
STALL_SECONDS = 60.0  # how long a running download may stand still


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits: images uint8 (N, 8, 8, 1), their values 0 … 16 scaled to 0 … 255, and labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.rint(loaded.images * (255 / 16)).astype(np.uint8)[..., None], loaded.target


def debian_fashion(folder: Path) -> dict[str, np.ndarray]:
    """Fashion-MNIST from the four original .gz files, in the on-disk form. Raises `DataError` if one is damaged."""
    arrays = {"classes": np.array(FASHION_CLASSES)}
    for part, stem in (("train", "train"), ("test", "t10k")):
        arrays[f"{part}_images"] = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz", dimensions=3)
        arrays[f"{part}_labels"] = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", dimensions=1)
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A gzipped IDX file of bytes: two zeros, 8 (unsigned byte), the number of dimensions, their sizes, the data."""
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


def download(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of cifar10, cifar100, fashion_mnist or svhn in the on-disk form of `esnac_lib.data`.

    ``folder`` receives the archives, which torchvision checks by their MD5. The training split of SVHN is its 73,257
    images without the "extra" ones. Raises whatever the network, the disk or torchvision raise; the caller words it.
    """
    from torchvision import datasets

    arrays: dict[str, np.ndarray] = {}
    with _stall_limit(STALL_SECONDS):
        if name == "svhn":
            probe(datasets.SVHN.split_list["train"][0])
            for part in ("train", "test"):
                svhn = datasets.SVHN(str(folder), split=part, download=True)
                arrays[f"{part}_images"] = np.ascontiguousarray(svhn.data.transpose(0, 2, 3, 1))  # (N, H, W, C)
                arrays[f"{part}_labels"] = np.asarray(svhn.labels)
            return arrays
        sources = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}
        source: Any = getattr(datasets, sources[name])
        probe(source.mirrors[0] if name == "fashion_mnist" else source.url)
        for part in ("train", "test"):
            loaded = source(str(folder), train=part == "train", download=True)
            arrays[f"{part}_images"] = np.asarray(loaded.data)  # (N, H, W, C), or (N, H, W)
            arrays[f"{part}_labels"] = np.asarray(loaded.targets)
        arrays["classes"] = np.array(loaded.classes)
    return arrays


def probe(url: str) -> None:
    """Raise `ConnectionError` unless the server answers within `PROBE_SECONDS`; in a thread, as a name lookup may hang.

    Any answer will do, also a refusal: the download itself then says what is wrong.
    """
    answers: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answers.append("")
        except urllib.error.HTTPError:
            answers.append("")
        except urllib.error.URLError as error:
            answers.append(str(error.reason))
        except Exception as error:  # name lookup, TLS, proxies: each has errors of its own
            answers.append(one_line(error, kind=False))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    reason = answers[0] if answers else f"no answer within {PROBE_SECONDS:g} s"
    if reason:
        raise ConnectionError(f"the server cannot be reached: {reason}")


@contextmanager
def _stall_limit(seconds: float) -> Iterator[None]:
    """A limit for each read from the network, which torchvision leaves open; put back afterwards."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
