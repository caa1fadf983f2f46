"""Training steps on a device: batch buffers, steps captured as CUDA graphs, and a CUDA stream for each trainee.

On a CPU a step is a call. On CUDA the step of a small network is hundreds of kernels that take longer to launch than
to run. So it is captured once, as a CUDA graph, and replayed from then on; and each trainee works in a stream of its
own, so that several share the device. A captured step reads nothing from Python: images, labels, targets and learning
rate are in tensors with fixed addresses that are filled anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from esnac_lib.architecture.network import Network
from esnac_lib.errors import one_line

WARM_UP = 3  # steps before one is captured: the optimiser makes its state, cuDNN chooses its algorithms

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Captures what a call launches on the device, without doing it, and returns what replays it."""


@dataclass
class Batch:
    """Images x (B, C, H, W), labels y (B,), and the teacher's logits (B, classes) once they are computed.

    `fixed`: its tensors are filled anew for the next batch of that size, so that a step on it can be captured.
    """

    x: Tensor
    y: Tensor
    target: Tensor | None = None
    fixed: bool = False


class BatchBuffer:
    """Copies batches to a device; with `fixed`, all that have the first one's size into the same tensors."""

    def __init__(self, device: torch.device, fixed: bool = False) -> None:
        self.device, self.fixed = device, fixed
        self._batch: Batch | None = None

    def load(self, x: Tensor, y: Tensor) -> Batch:
        """Copy images (B, C, H, W) and labels (B,) to the device, in channels-last memory."""
        x = x.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        y = y.to(self.device, non_blocking=True)
        if not self.fixed or (self._batch is not None and x.shape != self._batch.x.shape):
            return Batch(x, y)
        if self._batch is None:
            self._batch = Batch(x.clone(), y.clone(), fixed=True)
        else:
            self._batch.x.copy_(x)
            self._batch.y.copy_(y)
        return self._batch


class CapturedStep:
    """A step that is called for `WARM_UP` batches, then captured on the fixed batch, and replayed.

    On a batch that is not fixed, the last of an epoch, it is always called. Where capturing fails, it is called every
    time, and a warning says so once.
    """

    def __init__(self, step: Callable[[Batch], None], capture: Capture, name: str) -> None:
        self._step, self._capture, self._name, self._taken = step, capture, name, 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> None:
        """Take one step."""
        if batch.fixed and self._taken == WARM_UP:
            try:
                self._replay = self._capture(lambda: self._step(batch))
            except Exception as error:  # whatever cannot be captured can still be called, or fails there for itself
                text = f"{self._name} cannot be captured and goes on more slowly: {one_line(error)}"
                warnings.warn(text, stacklevel=2)
        self._taken += batch.fixed
        if batch.fixed and self._replay is not None:
            self._replay()
        else:
            self._step(batch)


class Stream:
    """A CUDA stream of one network's own; on other devices nothing.

    >>> for stream in streams: stream.begin()     # each waits for what was launched so far, not for the other streams
    >>> with stream: ...                          # launch work
    >>> for stream in streams: stream.finish()    # what is launched from now on waits for all
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self) -> None:
        """Let this stream wait for the caller's."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    def finish(self) -> None:
        """Let the caller's stream wait for this one."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def __enter__(self) -> None:
        self._context = torch.cuda.stream(self._stream)
        self._context.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._context.__exit__(kind, error, at)


def capture_on(device: torch.device) -> Capture | None:
    """Return what captures steps on a device; None where a step is just called."""
    return _capture_cuda_graph if device.type == "cuda" else None


def captured(
    step: Callable[[Batch], None], network: nn.Module, capture: Capture | None, name: str
) -> Callable[[Batch], None]:
    """Return a network's step, captured where that is possible and changes nothing.

    A captured pass of code that is not this library's (an opaque layer) would do for ever what it did once.
    """
    own_code = isinstance(network, Network) and network.runs_own_code
    return step if capture is None or own_code else CapturedStep(step, capture, name)


def _capture_cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay
