"""From any `nn.Module` that is mostly convolutions to an architecture and its weights, by recording one run of it.

What is not understood becomes an opaque layer, with the reason; every trace is checked by rebuilding the network and
comparing outputs. Nothing that would change the result passes silently.

    >>> architecture, weights = trace(teacher("resnet18", 10), torch.rand(1, 3, 32, 32))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import Architecture, Layer
from esnac_lib.architecture.network import Network, Weights, build
from esnac_lib.architecture.tracing.recording import record
from esnac_lib.architecture.tracing.traceable import is_stochastic_depth
from esnac_lib.architecture.tracing.translation import Translation
from esnac_lib.errors import ArchitectureError, TraceError, one_line


def trace(module: nn.Module, example_input: Tensor) -> tuple[Architecture, Weights]:
    """Return the architecture of a module, and a copy of its weights.

    The module has one input, of which the example is a batch of images (B, C, H, W) on its device, and one output
    tensor. It is traced as it runs in eval mode, and left in the mode in which it was. Layers are named by their
    module's path ("layer1.0.conv1"), by what holds their weights, or by their function ("relu_1"); sums are not layers.
    A module without weights may be called several times; each call is a layer.

    What is not known, or depends on the input's values in Python, is kept as an opaque layer: the function itself, or
    the smallest module around it that takes and returns complete maps (B, C, H, W) or features (B, F). Weights that are
    computed from parameters or buffers are taken as they come out, and are weights like all others; single numbers are
    kept as numbers. Parameters on which the output does not depend are left out, with a warning.

    Raises:
        TraceError: Nothing is left that could be compressed, the module fails, what is not understood is not inside a
            module that could be kept as one layer, weights are used twice, images of a batch influence each other, or
            the rebuilt network differs from the module.
    """
    if not isinstance(example_input, Tensor):
        raise TraceError(f"the example input is of type {type(example_input).__name__}: give a tensor (B, C, H, W)")
    if example_input.ndim != 4 or not example_input.numel() or not example_input.is_floating_point():
        given = f"{example_input.dtype} of shape {tuple(example_input.shape)}"
        raise TraceError(f"the example input is {given}: give a batch of images (B, C, H, W) as floats")
    with _evaluating(module), torch.random.fork_rng([example_input.device] if example_input.is_cuda else []):
        probe = _images(example_input)
        layers = _network_layers(module)
        recording = record(module, probe[:2], lambda part: part in layers or is_stochastic_depth(part))
        translation = Translation(module, recording, layers)
        architecture, tensors = translation.finish()
        weights = _checked(module, architecture, tensors, probe, recording.tensor)
    translation.warn()
    return architecture, weights


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every submodule is in the mode in which it was."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _images(example: Tensor) -> Tensor:
    """Return three images that differ: one or two of the example, unless it is constant, and noise like it."""
    noise = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    if bool(example.min() == example.max()) or not bool(example.isfinite().all()):
        return noise
    noise = noise * example.float().std().to(example) + example.mean()
    return torch.cat([example[:1], noise[:1], example[1:2], noise[1:]])[:3]


def _network_layers(module: nn.Module) -> dict[nn.Module, tuple[str, Layer]]:
    """Return the modules that are layers of a `Network` which is as it was built, each with its name and layer."""
    found = {}
    for path, part in module.named_modules():
        if isinstance(part, Network) and part.is_as_described():
            for layer, own in zip(part.architecture.layers, part.layer_modules().values(), strict=True):
                found[own] = (f"{path}.{layer.name}" if path else layer.name, layer)
    return found


def _checked(module: nn.Module, architecture: Architecture, tensors: Weights, probe: Tensor, before: Tensor) -> Weights:
    """Return a copy of the weights, out of a network rebuilt from the trace and compared with the module.

    probe: three images. before: the module's output for the first two, without the third.
    """
    name = type(module).__name__
    try:
        rebuilt = build(architecture, tensors).eval()
    except ArchitectureError as error:
        raise TraceError(f"{name} cannot be rebuilt: {error}") from None
    try:
        expected = module(probe.clone())
    except Exception as error:
        raise TraceError(f"{name} runs on 2 images and fails on {len(probe)}: {one_line(error, kind=False)}") from None
    if expected.shape != (len(probe), *before.shape[1:]):
        shapes = f"{tuple(before.shape)} of 2 images and {tuple(expected.shape)} of {len(probe)}"
        raise TraceError(f"{name} makes {shapes}: a size of the batch is fixed in it")
    scale = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    if not torch.allclose(before, expected[:2], 0.0, 1e-3 * scale, equal_nan=True):
        raise TraceError(f"{name} gives an image another output in another batch: images must not influence each other")
    found = rebuilt(probe.clone())
    # Rounding alone; on a GPU the same convolution may run in TF32 one time and not the next.
    tolerance = 100 * torch.finfo(expected.dtype).eps if expected.device.type == "cpu" else 2e-3
    if not torch.allclose(found, expected, 0.0, tolerance * scale, equal_nan=True):
        cause = "does a hook or a custom operation change a tensor?"
        raise TraceError(f"{name} and its trace give different outputs: {cause}")
    return {
        f"{layer}.{key}": tensor
        for layer, part in rebuilt.layer_modules().items()
        for key, tensor in part.state_dict().items()
    }
