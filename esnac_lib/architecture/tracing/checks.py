"""The check of every trace: outputs, gradients and the count of parameters are the module's own, in both modes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esnac_lib.architecture.network import Network
from esnac_lib.architecture.tracing.calls import leaves
from esnac_lib.architecture.tracing.modes import WithoutChance, left_as_it_was
from esnac_lib.errors import TraceError, one_line

TOLERANCE = 1e-3  # of a gradient, relative to its largest element; rounding is measured beside it
Sources = Mapping[str, tuple[str, Tensor]]


@dataclass(frozen=True)
class Pass:
    """What one pass through a module gives: its output, and the gradient of each parameter by name (None: none)."""

    output: Tensor
    gradients: dict[str, Tensor | None]


def run(module: nn.Module, parameters: Mapping[str, Tensor], images: Tensor, training: bool) -> Pass:
    """Run a module forth and back, without chance; where it puts out several tensors, of the first."""
    with left_as_it_was(module), torch.enable_grad(), torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        with WithoutChance():
            output = next(leaves(module.train(training)(images.clone()), Tensor))
        learned = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        if not output.requires_grad:
            return Pass(output.detach(), dict.fromkeys(parameters))
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
        found = torch.autograd.grad((output * weights).sum(), list(learned.values()), allow_unused=True)
    return Pass(output.detach(), {**dict.fromkeys(parameters), **dict(zip(learned, found, strict=True))})


class Comparison:
    """A module beside the network that was rebuilt from its trace.

    sources: for each tensor of the network the parameter of the module that it is, and which of its elements each
    element is (empty: the same ones).
    """

    def __init__(self, module: nn.Module, network: Network, sources: Sources) -> None:
        self.module, self.network, self.sources = module, network, sources
        self.name = type(module).__name__
        self.own = dict(module.named_parameters())
        self.tensors = {
            f"{layer}.{key}": tensor
            for layer, part in network.layer_modules().items()
            for key, tensor in part.named_parameters()
        }

    def check_outputs(self, expected: Tensor, images: Tensor) -> None:
        """Compare outputs in eval mode, but for rounding, which on a GPU may be that of TF32."""
        with torch.no_grad():
            found = self.network.eval()(images.clone())
        tolerance = 100 * torch.finfo(torch.float32).eps if expected.device.type == "cpu" else 2e-3
        if found.shape != expected.shape or _apart(found, expected) > tolerance * _largest(expected):
            cause = "does a hook or a custom operation change a tensor?"
            raise TraceError(f"{self.name} and its trace give different outputs: {cause}")

    def check(self, images: Tensor, training: bool, alone: str) -> set[str]:
        """Compare both on images, in one mode. Returns the parameters that the module's output depends on.

        alone: where the module does something else in training. Raises TraceError, with the parameter or the place.
        """
        mode = "in training" if training else "in eval mode"
        try:
            expected = run(self.module, self.own, images, training)
        except Exception as error:
            raise TraceError(
                f"{self.name} fails {mode} on {len(images)} images: {one_line(error, kind=False)}"
            ) from None
        found = run(self.network, self.tensors, images, training)
        cause = "does a hook or a custom operation change a tensor?"
        if training and alone:
            cause = f"it does something else there, at {alone}"
        if (worst := self._worst(expected, found, None)) is not None:  # by more than it does in most networks
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).to(images)
            worst = self._worst(expected, found, run(self.module, self.own, images * (1 + 1e-6 * noise), training))
        if worst == "":
            raise TraceError(f"{self.name} and its trace give different outputs {mode}: {cause}")
        if worst is not None:
            cause = "does a hook or a custom function change gradients?"
            raise TraceError(f"{self.name} and its trace have different gradients {mode}: of {worst}: {cause}")
        return {name for name, gradient in expected.gradients.items() if gradient is not None}

    def _worst(self, expected: Pass, found: Pass, shaken: Pass | None) -> str | None:
        """Return the parameter whose gradient differs by more than rounding does, "" for the output; None if none does.

        shaken: what the module gives for images that were changed by rounding.
        """
        bound = 1e-5 * _largest(expected.output)
        bound += 10 * _largest(shaken.output - expected.output) if shaken else 0
        if found.output.shape != expected.output.shape or _apart(found.output, expected.output) > bound:
            return ""
        floor = 1e-5 * max((_largest(g) for g in expected.gradients.values() if g is not None), default=0.0)
        for key, (name, index) in self.sources.items():
            theirs, ours = self._filled(expected, name), found.gradients[key]
            bound = TOLERANCE * _largest(theirs) + floor
            bound += 10 * _largest(self._filled(shaken, name) - theirs) if shaken else 0
            theirs = theirs.flatten()[index.flatten().to(theirs.device)] if index.numel() else theirs.flatten()
            if _apart(torch.zeros_like(theirs) if ours is None else ours.flatten(), theirs) > bound:
                return name
        return None

    def _filled(self, found: Pass, name: str) -> Tensor:
        gradient = found.gradients[name]
        return torch.zeros_like(self.own[name]) if gradient is None else gradient

    def check_count(self, used: Iterable[str], places: Mapping[str, str]) -> None:
        """Check that each parameter that the output depends on is in the network once, and that its count is theirs."""
        held = [name for name, _ in self.sources.values()]
        if lost := [name for name in used if name not in held]:
            where = f", read at {places[lost[0]]}" if lost[0] in places else ""
            raise TraceError(
                f"{self.name} has the parameter {lost[0]}{where}: it is not in the trace, and would be lost"
            )
        expected = sum(self.own[name].numel() for name in set(held))
        if len(set(held)) < len(held) or self.network.architecture.num_params != expected:
            counts = f"{self.network.architecture.num_params:,} parameters, where {expected:,} are the module's"
            raise TraceError(f"the trace of {self.name} has {counts}")


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()) if tensor.numel() else 0.0


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference; infinite where only one of them is not finite."""
    if bool((a.isnan() != b.isnan()).any()):
        return float("inf")
    return _largest((a - b).nan_to_num(0.0, torch.inf, torch.inf).where(a != b, torch.zeros_like(a)))
