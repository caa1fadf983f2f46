"""From any `nn.Module` that is mostly convolutions to an architecture and its weights, by recording runs of it.

What is not understood becomes an opaque layer, with the reason; every trace is checked by rebuilding the network and
comparing outputs, gradients and the count of parameters. Nothing that would change the result passes silently.

    >>> architecture, weights = trace(teacher("resnet18", 10), torch.rand(1, 3, 32, 32))
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from itertools import accumulate

import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import Architecture, Layer
from esnac_lib.architecture.network import Network, Weights, build
from esnac_lib.architecture.tracing.calls import Constant, Recording, leaves
from esnac_lib.architecture.tracing.checks import Comparison
from esnac_lib.architecture.tracing.modes import checkpoints_seen_through, left_as_it_was, record_modes
from esnac_lib.architecture.tracing.traceable import is_stochastic_depth
from esnac_lib.architecture.tracing.translation import Translation
from esnac_lib.errors import ArchitectureError, TraceError, one_line

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def trace(module: nn.Module, example_input: Tensor) -> tuple[Architecture, Weights]:
    """Return the architecture of a module, and a copy of its weights, in float32.

    The module has one input, of which the example is a batch of images (B, C, H, W) on its device, and one output
    tensor. It is left as it was. Layers are named by their module's path ("layer1.0.conv1"), by what holds their
    weights, or by their function ("relu_1"); sums are not layers. A module without weights may be called several times;
    each call is a layer.

    What is not known, or depends on the input's values in Python, is kept as an opaque layer: the functions themselves,
    or the smallest module around them that takes and returns complete maps (B, C, H, W) or features (B, F). So is what
    stops or changes gradients, and what computes weights from parameters. Every parameter on which the output depends
    is a parameter of the trace; those on which it does not are left out, with a warning.

    Raises:
        TraceError: Nothing is left that could be compressed, the module fails, what is not understood is not inside a
            module that could be kept as one layer, weights are used twice, images of a batch influence each other, or
            outputs or gradients of the rebuilt network differ from the module's, in eval mode or in training.
    """
    if not isinstance(example_input, Tensor):
        raise TraceError(f"the example input is of type {type(example_input).__name__}: give a tensor (B, C, H, W)")
    if example_input.ndim != 4 or not example_input.numel() or not example_input.is_floating_point():
        given = f"{example_input.dtype} of shape {tuple(example_input.shape)}"
        raise TraceError(f"the example input is {given}: give a batch of images (B, C, H, W) as floats")
    module, precision = plain(module)
    device = example_input.device
    with (
        left_as_it_was(module), checkpoints_seen_through(), torch.no_grad(),
        torch.autocast(device.type, enabled=False), torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):  # fmt: skip
        probe = _images(example_input.float())
        layers = _network_layers(module)
        both = record_modes(module, probe[:2], lambda part: part in layers or is_stochastic_depth(part))
        module(probe[:2].clone())  # so that no attribute of a module holds a graph, which could not be copied
        translation = Translation(module, both.recording, layers)
        architecture, tensors = translation.finish()
        expected = _outputs(module, probe, both.recording.tensor)
        network = _rebuilt(module, architecture, tensors)
        sources = {key: source for key, source in translation.draft.sources.items() if key in tensors}
        comparison = Comparison(module, network, sources)
        comparison.check_outputs(expected, probe)
        used = comparison.check(probe, False, "") | comparison.check(probe, True, both.in_training_alone)
        comparison.check_count(used, _places(both.recording))
        weights = network.weights()
    _warn(module, [*filter(None, [precision]), *translation.draft.notes], {name for name, _ in sources.values()})
    return architecture, weights


def plain(module: nn.Module) -> tuple[nn.Module, str]:
    """Return the module itself, without what `torch.compile` or `nn.DataParallel` put around it, and in float32.

    If it holds other numbers it is a copy, and the text says what they were. Raises TraceError where there is none.
    """
    try:
        with left_as_it_was(module):
            module.train()
    except NotImplementedError:  # of torch.export
        made = f"{type(module).__name__} was made by torch.export for one mode alone"
        raise TraceError(f"{made}: trace the module that it was made from") from None
    for kind, attribute in _WRAPPERS.items():
        if type(module).__name__ == kind and isinstance(inner := getattr(module, attribute, None), nn.Module):
            return plain(inner)
    if whole := [name for name, p in module.named_parameters() if not (p.is_floating_point() or p.is_complex())]:
        what = f"{type(module).__name__} has the parameter {whole[0]} of whole numbers"
        raise TraceError(f"{what}, which cannot be trained: hold it as a buffer")
    found = {t.dtype for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()} - {torch.float32}
    if not found:
        return module, ""
    kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
    try:
        return deepcopy(module).float(), f"the precision of its numbers ({kinds}): the trace is in float32"
    except Exception as error:
        what = f"{type(module).__name__} is in {kinds} and cannot be copied into float32"
        raise TraceError(f"{what}: {one_line(error, kind=False)}") from None


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


def _outputs(module: nn.Module, probe: Tensor, before: Tensor) -> Tensor:
    """Return the module's outputs for three images, of which it gave `before` for the first two.

    Raises TraceError if the images influence each other.
    """
    name = type(module).__name__
    try:
        expected: Tensor = module(probe.clone())
    except Exception as error:
        raise TraceError(f"{name} runs on 2 images and fails on {len(probe)}: {one_line(error, kind=False)}") from None
    if expected.shape != (len(probe), *before.shape[1:]):
        shapes = f"{tuple(before.shape)} of 2 images and {tuple(expected.shape)} of {len(probe)}"
        raise TraceError(f"{name} makes {shapes}: a size of the batch is fixed in it")
    scale = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    if not torch.allclose(before, expected[:2], 0.0, 1e-3 * scale, equal_nan=True):
        raise TraceError(f"{name} gives an image another output in another batch: images must not influence each other")
    return expected


def _rebuilt(module: nn.Module, architecture: Architecture, tensors: Weights) -> Network:
    try:
        return build(architecture, tensors)
    except ArchitectureError as error:
        raise TraceError(f"{type(module).__name__} cannot be rebuilt: {error}") from None


def _places(recording: Recording) -> dict[str, str]:
    """Return where each parameter is read first."""
    found: dict[str, str] = {}
    for call in recording.calls:
        for constant in leaves((call.args, call.kwargs), Constant):
            for name in constant.names:
                found.setdefault(name, str(call.place))
    return found


def _warn(module: nn.Module, notes: list[str], held: set[str]) -> None:
    """Warn once about all that is not in the architecture as it is in the module."""
    notes = list(dict.fromkeys(notes))
    if unused := [name for name, _ in module.named_parameters() if name not in held]:
        notes.append(f"{', '.join(_summarised(module, unused))}, on which the output does not depend")
    if notes:
        warnings.warn(f"left out of {type(module).__name__}: {'; '.join(notes)}", stacklevel=3)
    if frozen := [name for name, p in module.named_parameters() if name in held and not p.requires_grad]:
        what = ", ".join(_summarised(module, frozen))
        warnings.warn(f"frozen in {type(module).__name__}, and trained in students: {what}", stacklevel=3)


def _summarised(module: nn.Module, chosen: list[str]) -> list[str]:
    """Return parameters by name, or the modules of which they are all."""
    others = {name for name, _ in module.named_parameters()} - set(chosen)
    found: dict[str, None] = {}
    for name in chosen:
        heads = accumulate(name.split("."), "{}.{}".format)  # the last one is the parameter
        head = next(head for head in heads if not any(other.startswith(f"{head}.") for other in others))
        found[head] = None
    return list(found)
