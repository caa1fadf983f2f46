"""Verification that a student is what its architecture says, and that it can be trained, saved and exported.

    >>> verify(space.apply(decisions), weights).checks
    ('shapes', 'parameters', 'macs', 'training', 'json', 'python')

Everything is done on noise and in memory; no data set is needed. `verify_teacher` does it for a traced module, whose
outputs the rebuilt network must give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esnac_lib.architecture.export.python_file import python_weights, to_python
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, Weights, build, inherit
from esnac_lib.architecture.tracing import plain
from esnac_lib.errors import ArchitectureError, VerificationError, one_line
from esnac_lib.space.search_space import SearchSpace

BATCH = 2
# types and scales of the weights with which a student is run until all its numbers are finite
ATTEMPTS = ((torch.float32, 1.0), (torch.float64, 1.0), (torch.float64, 0.01))
TOLERANCE = 1e-4  # between two ways to compute the same outputs, relative to the largest output


@dataclass(frozen=True)
class Verification:
    """What was shown of a student."""

    architecture: Architecture
    checks: tuple[str, ...]  # names of what held
    left_out: Mapping[str, str] = field(default_factory=dict)  # a check that could not be made, and why


def verify(architecture: Architecture, teacher_weights: Mapping[str, Tensor], *, seed: int = 0) -> Verification:
    """Build a student with its inherited weights on the CPU, and check all that is claimed of it.

    shapes: every layer puts out the predicted shape. parameters, macs: the counts are those of the module and of
    PyTorch's FlopCounterMode. training: outputs are finite in train and eval mode, and every parameter gets a finite
    gradient, or none where opaque code stops it (where float32 overflows, in float64, and where that does too, with a
    hundredth of the weights: a student of an untrained teacher may have lost every norm). json: the architecture comes
    back from its JSON the same. python: the exported program gives the student's outputs (left out where a layer is
    opaque).

    seed: of the noise. Raises VerificationError, one line, for the first claim that does not hold.
    """
    inherited = inherit(teacher_weights, architecture)
    for dtype, scale in ATTEMPTS:
        weights = _scaled(inherited, dtype, scale)
        network, noise = build(architecture, weights), _noise(architecture, seed).to(dtype)
        outputs = _counted(network, noise)
        if torch.isfinite(outputs).all() and _learns(network, noise):
            break
    else:
        raise VerificationError(f"{_name(architecture)} has outputs or gradients that are not finite")
    back = Architecture.from_json(text := architecture.to_json())
    if back != architecture or back.arch_id != architecture.arch_id or back.to_json() != text:
        raise VerificationError(f"{_name(architecture)} does not come back from its JSON the same")
    checks = ("shapes", "parameters", "macs", "training", "json")
    if opaque := [layer.name for layer in architecture.layers if layer.kind == "opaque"]:
        return Verification(architecture, checks, {"python": f"layer {opaque[0]!r} is opaque"})
    _exported(architecture, weights, noise, outputs)
    return Verification(architecture, (*checks, "python"))


def verify_teacher(
    module: nn.Module, space: SearchSpace, weights: Mapping[str, Tensor], *, seed: int = 0
) -> Verification:
    """Check, as `verify` does, that deciding nothing gives the module's own outputs, and then what `verify` checks."""
    if (architecture := space.apply(space.nothing)) != space.teacher:
        raise VerificationError("deciding nothing does not give the teacher's architecture")
    module, _ = plain(module)
    modes = {part: part.training for part in module.modules()}
    noise = _noise(architecture, seed)
    try:
        expected = _outputs(module, noise)
    finally:
        for part, mode in modes.items():
            part.training = mode
    found = _outputs(build(architecture, inherit(weights, architecture)), noise)
    _compare("the teacher that was traced and rebuilt", found, expected)
    return verify(architecture, weights, seed=seed)


def _noise(architecture: Architecture, seed: int) -> Tensor:
    return torch.randn(BATCH, *architecture.input_shape, generator=torch.Generator().manual_seed(seed))


def _outputs(module: nn.Module, noise: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = module.eval()(noise)
    return outputs


def _scaled(weights: Weights, dtype: torch.dtype, scale: float) -> Weights:
    if (dtype, scale) == ATTEMPTS[0]:
        return weights
    return {name: w.to(dtype) * scale if w.is_floating_point() else w for name, w in weights.items()}


def _counted(network: Network, noise: Tensor) -> Tensor:
    """Return the outputs in eval mode, of a forward pass in which shapes and operations are counted."""
    architecture = network.architecture
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, result, name=name: seen.update({name: tuple(result.shape[1:])}))
        for name, module in network.layer_modules().items()
    ]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            _outputs(network, noise[:1])  # what is computed from weights alone counts once, whatever the batch
        outputs = _outputs(network, noise)
    except RuntimeError as error:
        raise VerificationError(f"{_name(architecture)} does not run: {one_line(error, kind=False)}") from None
    finally:
        for hook in hooks:
            hook.remove()
    for layer, shape in zip(architecture.layers, architecture.shapes, strict=True):
        if seen[layer.name] != shape:
            raise VerificationError(f"layer {layer.name!r} puts out {seen[layer.name]}, predicted was {shape}")
    name, params, macs = _name(architecture), architecture.num_params, architecture.macs
    real = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if real != params:
        raise VerificationError(f"{name} has {real:,} parameters, predicted were {params:,}")
    if (flops := counter.get_total_flops() / 2) != macs:
        raise VerificationError(f"{name} computes {flops:,.1f} MACs an image, predicted were {macs:,}")
    return outputs


def _learns(network: Network, noise: Tensor) -> bool:
    """Whether a pass and its gradients in train mode are finite, or raise VerificationError for one that is missing."""
    before = [buffer.clone() for buffer in network.buffers()]
    outputs = network.train()(noise)
    outputs.square().mean().backward()
    finite = bool(torch.isfinite(outputs).all())
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.grad is None and not network.runs_own_code:  # which may stop gradients
            raise VerificationError(f"{_name(network.architecture)}: {name} gets no gradient")
        finite = finite and (parameter.grad is None or bool(torch.isfinite(parameter.grad).all()))
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
    network.eval()
    return finite


def _exported(architecture: Architecture, weights: Weights, noise: Tensor, expected: Tensor) -> None:
    """Return the exported program, run, against the network's outputs."""
    names: dict[str, Any] = {"__name__": "student"}
    try:
        exec(compile(to_python(architecture), "student.py", "exec"), names)  # our own text, made a line ago
        model = names["Student"]()
        model.load_state_dict(python_weights(architecture, weights), assign=True)
        model.to(noise.dtype)
        found = _outputs(model, noise)
    except (ArchitectureError, RuntimeError) as error:
        raise VerificationError(f"{_name(architecture)} cannot be exported: {one_line(error, kind=False)}") from None
    _compare(f"the exported program of {_name(architecture)}", found, expected)


def _compare(what: str, found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max()) or 1.0
    if found.shape != expected.shape or (apart := float((found - expected).abs().max())) > TOLERANCE * scale:
        shown = f"{apart:.2g} apart" if found.shape == expected.shape else f"of shape {tuple(found.shape)}"
        raise VerificationError(f"{what} gives other outputs: {shown}, where the largest output is {scale:.2g}")


def _name(architecture: Architecture) -> str:
    return f"student {architecture.arch_id[:8]}"
