"""What training sets on its device: memory and cuDNN, precision, and the random generator that dropout draws from.

On a CPU: memory that a step frees stays with the process. glibc would return it to the system and fetch it back, zeroed
page by page, at every step: with CONV-7 students on 28×28 images, batch 128, 7 to 19 thousand page faults a step, and
a third of the time of the students it hit (0.68 against 1.04 s for ten steps on one core of an AMD EPYC).

On CUDA: cuDNN tries its algorithms once for each shape, as all steps but an epoch's last have the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@contextlib.contextmanager
def device_settings(device: torch.device) -> Iterator[None]:
    """Set the machine up for a training on `device`; afterwards return unused memory to the system."""
    if device.type == "cuda":
        with torch.cuda.device(device), torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
            yield
        torch.cuda.empty_cache()
        return
    malloc_trim = keep_freed_memory()
    try:
        yield
    finally:
        malloc_trim()


def keep_freed_memory() -> Callable[[], object]:
    """Tell glibc to keep what is freed, from now on; return what gives all free memory back. Elsewhere do nothing."""
    if platform.libc_ver()[0] != "glibc":
        return lambda: None
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_MMAP_MAX, 0)
    return lambda: libc.malloc_trim(0)


class RandomState:
    """The state of the device's default generator for one trainee: dropout draws from that generator and no other."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._state = torch.Generator(device).manual_seed(seed).get_state()
        self._generator = torch.default_generator
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            self._generator = torch.cuda.default_generators[number]

    def __enter__(self) -> None:
        self._outer = self._generator.get_state()
        self._generator.set_state(self._state)

    def __exit__(self, *_: object) -> None:
        self._state = self._generator.get_state()
        self._generator.set_state(self._outer)


def compute_logits(network: nn.Module, x: Tensor) -> Tensor:
    """Return float32 logits (B, classes), computed in bfloat16 on CUDA, for a copy of x that may be overwritten."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.is_cuda, cache_enabled=False):
        return network(x.clone()).float()
