"""How the steps of a training reach the device: batches that keep their place, recorded steps, lanes side by side.

On a CPU a step is a call. On CUDA the step of a small network is hundreds of kernels that take longer to launch than
to run. So it is recorded once, as a CUDA graph, and replayed from then on; and each student works in a lane, a stream
of its own, so that several share the device. A recorded step reads nothing from Python: images, labels, targets and
learning rate stand in tensors that keep their place and are filled anew.
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

WARM_UP = 3
"""Steps that are taken before one is recorded: the optimiser makes its state, cuDNN chooses its algorithms."""

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a call puts on the device, without doing it, and returns what does it."""


@dataclass
class Batch:
    """Images x (B, C, H, W), labels y (B,), and the teacher's logits (B, classes) once it has seen them.

    `fixed`: its tensors are filled anew for the next batch of that size, so that a step on it can be recorded.
    """

    x: Tensor
    y: Tensor
    target: Tensor | None = None
    fixed: bool = False


class Feed:
    """Puts batches on a device; with `fixed`, all that have the first one's size into the same tensors."""

    def __init__(self, device: torch.device, fixed: bool = False) -> None:
        self.device, self.fixed = device, fixed
        self._place: Batch | None = None

    def batch(self, x: Tensor, y: Tensor) -> Batch:
        """Images (B, C, H, W) and labels (B,) on the device, in channels-last memory."""
        x = x.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        y = y.to(self.device, non_blocking=True)
        if not self.fixed:
            return Batch(x, y)
        if self._place is None:
            self._place = Batch(x.clone(), y.clone(), fixed=True)
        elif x.shape == self._place.x.shape:
            self._place.x.copy_(x)
            self._place.y.copy_(y)
        else:
            return Batch(x, y)
        return self._place


class CapturedStep:
    """A step that is taken as it is for `WARM_UP` batches, then recorded on the fixed batch, and replayed.

    A batch that is not fixed, the last of an epoch, is always taken as it is. Where recording fails, all are, and a
    warning says so once.
    """

    def __init__(self, step: Callable[[Batch], None], record: Record, name: str) -> None:
        self._step, self._record, self._name = step, record, name
        self._taken = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> None:
        """One step."""
        if batch.fixed and self._taken == WARM_UP:
            try:
                self._replay = self._record(lambda: self._step(batch))
            except Exception as error:  # whatever cannot be recorded can still be done, or fails there for itself
                warnings.warn(
                    f"{self._name} cannot be recorded and goes on more slowly: {one_line(error)}", stacklevel=2
                )
        self._taken += batch.fixed
        if batch.fixed and self._replay is not None:
            self._replay()
        else:
            self._step(batch)


class Lane:
    """A CUDA stream of one network's own; elsewhere nothing.

    >>> for lane in lanes: lane.fork()        # each waits for what was asked for so far, not for its neighbours
    >>> with lane: ...                        # work
    >>> for lane in lanes: lane.join()        # what is asked for from now on waits for all
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fork(self) -> None:
        """Starts where the caller's stream stands."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    def join(self) -> None:
        """Lets the caller's stream wait for the lane."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def __enter__(self) -> None:
        self._inside = torch.cuda.stream(self._stream)
        self._inside.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inside.__exit__(kind, error, at)


def recorder(device: torch.device) -> Record | None:
    """What records steps on a device; None where a step is just called."""
    return _cuda_graph if device.type == "cuda" else None


def steps_of(
    step: Callable[[Batch], None], network: nn.Module, record: Record | None, name: str
) -> Callable[[Batch], None]:
    """The steps of a network as they are to be taken: recorded where that is possible, and where it changes nothing.

    A recorded pass of code that is not this library's (an opaque layer) would do for ever what it did once.
    """
    if record is None or (isinstance(network, Network) and network.runs_own_code):
        return step
    return CapturedStep(step, record, name)


def _cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay
