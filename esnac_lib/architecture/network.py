"""From an architecture to a module that runs, and from a teacher's weights to a student's.

Weights are a dict from "<layer name>.<parameter>" to tensor: "weight" and "bias" of convolutions, linear layers and
norms, the batch norms' "running_mean" and "running_var", and of an opaque layer whatever its code holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import INPUT, Architecture, Layer
from esnac_lib.architecture.layer_types import LAYER_TYPES, Shape, Slot
from esnac_lib.architecture.modules import module_of
from esnac_lib.errors import ArchitectureError

Weights = dict[str, Tensor]


class _Step(NamedTuple):
    """One layer of the execution plan: what it runs, on which sums, and whose outputs nobody needs afterwards."""

    module: nn.Module
    inputs: tuple[Slot, ...]
    position: int
    done: tuple[int, ...]


class Network(nn.Module):
    """The module of an architecture, with PyTorch's default initialisation.

    Maps (B, *architecture.input_shape) to (B, *architecture.output_shape). The order of execution, the sums and the
    moment at which each tensor can be dropped are fixed once, here.

    The name of a layer may hold dots and that of a submodule may not: the layer "stage1.0.conv" is the submodule
    "layers.stage1/0/conv" (`module_name`, `layer_name`), so that its key in `state_dict()` is
    "layers.stage1/0/conv.weight". `weights` and `load_weights` speak of "stage1.0.conv.weight".
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = nn.Module()
        last_use = {i: j for j, layer in enumerate(architecture.layers) for i in layer.sources}
        last_use.update({i: len(architecture.layers) for i, _ in architecture.output})
        self._plan: list[_Step] = []
        for j, (layer, shapes) in enumerate(zip(architecture.layers, architecture.in_shapes, strict=True)):
            module = module_of(layer, shapes[0])
            self.layers.add_module(module_name(layer.name), module)
            done = tuple(i for i in sorted(layer.sources) if last_use[i] == j)
            self._plan.append(_Step(module, layer.inputs, j, done))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *input_shape) to (B, *output_shape)."""
        values: dict[int, Tensor] = {INPUT: x}
        del x
        for module, inputs, position, done in self._plan:
            arguments = [_sum(part, values) for part in inputs]
            for i in done:
                del values[i]
            values[position] = module(*arguments)
        return _sum(self.architecture.output, values)

    def weights(self) -> Weights:
        """Return a copy of all weights, in execution order."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights, once checked, into this network, which keeps its device and dtype."""
        check_weights(self.architecture, weights)
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(weights[name])

    def is_as_described(self) -> bool:
        """Return whether its modules still hold the tensors of its architecture, which pruning in place cuts."""
        return {name: tuple(t.shape) for name, t in self._tensors().items()} == weight_shapes(self.architecture)

    @property
    def runs_own_code(self) -> bool:
        """Whether a layer is opaque: the user's Python may do one thing in one pass and another in the next."""
        return any(layer.kind == "opaque" for layer in self.architecture.layers)

    def layer_modules(self) -> dict[str, nn.Module]:
        """Return the module of each layer by the layer's name, in execution order."""
        return {self.architecture.layers[step.position].name: step.module for step in self._plan}

    def _tensors(self) -> Weights:
        """Return the parameters and buffers themselves by their name in weights."""
        return {
            f"{layer}.{name}": tensor
            for layer, module in self.layer_modules().items()
            for name, tensor in module.state_dict(keep_vars=True).items()
        }


def _sum(part: Slot, values: Mapping[int, Tensor]) -> Tensor:
    """Return the sum of the sources of a slot, each times its multiplicity."""
    (source, count), *others = part
    total = values[source] if count == 1 else values[source] * count
    for source, count in others:
        total = torch.add(total, values[source], alpha=count)
    return total


_ESCAPES = (("~", "~0"), ("/", "~1"), (".", "/"))


def module_name(name: str) -> str:
    """Return the submodule's name of a layer: dots become slashes (slashes "~1", tildes "~0").

    A name that every module has already ("type") gets a tilde at its end.
    """
    for plain, escaped in _ESCAPES:
        name = name.replace(plain, escaped)
    return f"{name}~" if hasattr(nn.Module(), name) else name


def layer_name(name: str) -> str:
    """Return the inverse of `module_name`."""
    name = name.removesuffix("~")
    for plain, escaped in reversed(_ESCAPES):
        name = name.replace(escaped, plain)
    return name


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in an architecture's weights, in execution order."""
    return {f"{layer.name}.{parameter}": shape for layer, parameter, shape in _parameters(architecture)}


def _parameters(architecture: Architecture) -> Iterator[tuple[Layer, str, Shape]]:
    """Return the layer, name and shape of every tensor in an architecture's weights, in execution order."""
    for layer, inputs in zip(architecture.layers, architecture.in_shapes, strict=True):
        for name, shape in LAYER_TYPES[layer.kind].tensors(layer.channels, dict(layer.attrs), inputs[0]).items():
            yield layer, name, shape


def check_weights(architecture: Architecture, weights: Mapping[str, Tensor]) -> None:
    """Raise ArchitectureError unless the weights are exactly those that the architecture has."""
    shapes = weight_shapes(architecture)
    for name, shape in shapes.items():
        if name not in weights:
            raise ArchitectureError(f"the weights lack {name!r} of shape {shape}: are they of another architecture?")
        if tuple(weights[name].shape) != shape:
            raise ArchitectureError(f"weight {name!r} has shape {tuple(weights[name].shape)}: it must be {shape}")
    if unknown := [name for name in weights if name not in shapes]:
        raise ArchitectureError(f"weights hold {unknown[0]!r}, which the architecture does not have: leave it out")


def build(architecture: Architecture, weights: Mapping[str, Tensor] | None = None) -> Network:
    """Return the module of an architecture, in training mode.

    Without weights it is freshly initialised, as PyTorch does, from PyTorch's global state. With weights, which must
    be exactly its own, the module holds copies of them, with their device and dtype, and no random number is drawn.
    """
    if weights is None:
        return Network(architecture)
    check_weights(architecture, weights)
    with torch.device("meta"):
        network = Network(architecture)
    for layer, step in zip(architecture.layers, network._plan, strict=True):
        state: Weights = {}
        tied: dict[Tensor, Tensor] = {}  # opaque code may hold one tensor by two names
        for name, own in step.module.state_dict(keep_vars=True).items():
            copy = weights[f"{layer.name}.{name}"].detach().clone()
            kept = nn.Parameter(copy, own.requires_grad) if isinstance(own, nn.Parameter) else copy
            state[name] = tied.setdefault(own, kept)
        learned = {name for name, parameter in step.module.named_parameters() if parameter.requires_grad}
        step.module.load_state_dict(state, assign=True)
        for name, parameter in step.module.named_parameters():
            parameter.requires_grad_(name in learned)  # which a scripted module forgets
    return network


def inherit(teacher_weights: Mapping[str, Tensor], student_architecture: Architecture) -> Weights:
    """Return the weights that a student starts from: its teacher's, cut to the channels that it keeps (ESNAC §3.2).

    A layer without an origin inherits from the layer of its own name. A tensor that loses nothing is the teacher's own,
    not a copy. Batch norms keep their channels' running statistics.

    In a grouped convolution the weight between an output o and an input i stands at position i mod (inputs a group) of
    filter o. A student may put both into one group where the teacher did not connect them (possible only if there is
    more than one group and more than one channel a group); then the weight at that position is taken all the same,
    which is what filter o uses for the input at i's place in its own group.

    Raises ArchitectureError if the origin of a layer is unknown, or its tensors do not fit what the student keeps.
    """
    weights: Weights = {}
    for layer, parameter, shape in _parameters(student_architecture):
        name, origin = repr(layer.name), layer.origin or layer.name
        if (source := teacher_weights.get(key := f"{origin}.{parameter}")) is None:
            raise ArchitectureError(f"layer {name} cannot inherit: the teacher's weights have no {key!r}")
        try:
            tensor = _cut(source, layer)
        except IndexError:
            held = f"its {parameter} has the shape {tuple(source.shape)}"
            raise ArchitectureError(f"layer {name} keeps channels that {origin!r} does not have: {held}") from None
        if (found := tuple(tensor.shape)) != shape:
            raise ArchitectureError(
                f"layer {name} needs a {parameter} of shape {shape}, and what it keeps of {origin!r} has {found}: "
                "kept_out and kept_in do not fit"
            )
        weights[f"{layer.name}.{parameter}"] = tensor
    return weights


def _cut(tensor: Tensor, layer: Layer) -> Tensor:
    """Return the rows kept_out and, of filters, the columns kept_in."""
    if layer.kept_out is not None:
        tensor = tensor[_indices(layer.kept_out, tensor)]
    if layer.kept_in is None or tensor.ndim == 1 or not layer.has_filters:
        return tensor
    columns = _indices(layer.kept_in, tensor)
    groups = layer["groups"] if layer.kind == "conv" else 1
    if groups == 1 and tensor.shape[1] > 1:
        return tensor[:, columns]
    columns = columns.view(groups, -1) % tensor.shape[1]  # (groups, inputs a group)
    columns = columns.repeat_interleave(len(tensor) // groups, 0)  # (channels, inputs a group)
    rows = torch.arange(len(tensor), device=tensor.device)[:, None]
    return tensor[rows, columns]  # (channels, inputs a group, height, width)


def _indices(kept: np.ndarray, tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(kept, dtype=np.int64)).to(tensor.device)
