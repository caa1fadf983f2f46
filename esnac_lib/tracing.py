"""From any `nn.Module` of plain layers to an architecture and its weights, by torch.fx.

What is not understood is refused: a module, function or option that would change the result raises `TraceError` in one
line, and every trace is checked by rebuilding the network and comparing outputs.

    >>> architecture, weights = trace(teacher("resnet18", 10), torch.rand(1, 3, 32, 32))
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from esnac_lib import traceable as known
from esnac_lib.architecture import INPUT, Architecture, Layer, Slot, slot, sum_slots
from esnac_lib.errors import ArchitectureError, TraceError
from esnac_lib.layer_types import Shape
from esnac_lib.network import Concat, Network, Weights, build, layer_name, weight_shapes
from esnac_lib.traceable import Refused, bind, known_module


def trace(module: nn.Module, example_input: Tensor) -> tuple[Architecture, Weights]:
    """The architecture of a module, and a copy of its weights.

    Layers are named by their module's path ("layer1.0.conv1"), functions by torch.fx ("relu_1"). Sums are no layers.
    The module is traced as it runs in eval mode, and is left in the mode in which it was. A module without weights may
    be called several times; each call is a layer.

    Args:
        module: convolutions, linear layers, batch norms and whatever else `traceable` lists, joined by sums and
            concatenations of channels.
        example_input: a batch of images (B, C, H, W) on the module's device.

    Raises:
        TraceError: an operation, option or control flow is not known, weights are used twice, a parameter takes part in
            no layer, or the rebuilt network differs from the module.
    """
    if not isinstance(example_input, Tensor):
        raise TraceError(f"the example input is of type {type(example_input).__name__}: give a tensor (B, C, H, W)")
    if example_input.ndim != 4 or not example_input.numel() or not example_input.is_floating_point():
        given = f"{example_input.dtype} of shape {tuple(example_input.shape)}"
        raise TraceError(f"the example input is {given}: give a batch of images (B, C, H, W) as floats")
    with _evaluating(module):
        graph = _follow(module)
        try:
            _Shapes(graph).run(example_input.clone())
        except Refused as error:
            shape = tuple(example_input.shape)
            raise TraceError(
                f"{type(module).__name__} fails on an input of shape {shape} at {_one_line(error)}"
            ) from None
        builder = _Builder(module, graph, tuple(example_input.shape[1:]))
        for node in graph.graph.nodes:
            builder.add(node)
        architecture, weights = builder.finish()
        _check(module, architecture, weights, example_input)
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


class _Tracer(fx.Tracer):
    """Stops at all modules of torch.nn, and at other known ones."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return known_module(m) is not None or type(m) is Concat or super().is_leaf_module(m, module_qualified_name)


def _follow(module: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        graph = fx.GraphModule(module, tracer.trace(module))
    except Exception as error:
        stack = [f"{path!r} ({kind.__name__})" for path, kind in getattr(tracer, "module_stack", {}).values()]
        where = stack[-1] if stack else type(module).__name__
        raise TraceError(f"torch.fx cannot follow {where}: {_one_line(error)}") from None
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if used := [node.name for node in inputs[1:] if node.users]:
        raise TraceError(
            f"{type(module).__name__} reads a second input, {used[0]!r}: only modules of one can be traced"
        )
    return graph


class _Shapes(fx.Interpreter):
    """Runs the graph and notes at every node the shape of its tensor."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise Refused(f"{n.target!r}: {_one_line(error)}") from None
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


_BATCH = object()  # the value of x.size(0)


class _Sizes(tuple[Any, ...]):
    """The value of x.size() or x.shape: `_BATCH`, then numbers."""


class _Builder:
    """Turns the nodes of a torch.fx graph into layers, one by one; `values` has what each node stands for.

    That is a slot for a feature map, and for sizes a number, `_BATCH` or `_Sizes`.
    """

    def __init__(self, module: nn.Module, graph: fx.GraphModule, input_shape: Shape) -> None:
        self.module = module
        self.input_shape = input_shape
        self.layers: list[Layer] = []
        self.shapes: list[Shape] = []
        self.weights: Weights = {}
        self.values: dict[fx.Node, Any] = {}
        self.owners: dict[int, str] = {}  # id of a parameter or buffer -> the layer that holds it
        self.names: set[str] = set()
        self.paths = {self._path_name(node.target) for node in graph.graph.nodes if node.op == "call_module"}
        self.output: Slot = ()

    def add(self, node: fx.Node) -> None:
        """Takes in the next node."""
        try:
            self.values[node] = getattr(self, f"_{node.op}")(node)
        except (Refused, ArchitectureError) as error:
            raise TraceError(f"cannot trace {self._place(node)}: {error}") from None

    def finish(self) -> tuple[Architecture, Weights]:
        """The architecture, whose predicted shapes are those that were seen, and its weights."""
        for name, tensor in self.module.named_parameters():
            if id(tensor) not in self.owners:
                raise TraceError(f"parameter {name!r} takes part in no layer: delete it before tracing")
        try:
            architecture = Architecture(tuple(self.layers), self.input_shape, self.output)
        except ArchitectureError as error:
            raise TraceError(f"{type(self.module).__name__} is no architecture: {error}") from None
        for layer, predicted, seen in zip(architecture.layers, architecture.shapes, self.shapes, strict=True):
            if predicted != seen:
                raise TraceError(f"layer {layer.name!r} ({layer.kind}) puts out {seen}, predicted was {predicted}")
        return architecture, {name: self.weights[name] for name in weight_shapes(architecture)}

    # -- one method for each kind of node: "_" + node.op ---------------------------------------------------------------

    def _placeholder(self, node: fx.Node) -> Slot | None:
        return None if self.values else slot(INPUT)

    def _get_attr(self, node: fx.Node) -> Any:
        raise Refused("a tensor used by itself: only the weights of known layers can be traced")

    def _output(self, node: fx.Node) -> Any:
        self.output = self._slot(node.args[0])

    def _call_module(self, node: fx.Node) -> Slot:
        module = self.module.get_submodule(str(node.target))
        if type(module) is Concat:
            return self._concat(node, node.args, own=True)
        inputs = node.args[0] if node.args else next(iter(node.kwargs.values()))
        part = self._slot(inputs)
        if type(module) is nn.Identity:
            return part
        found = known_module(module)
        if found is None:
            raise Refused("this module is not known")
        kind, reader = found
        name = self._unique(self._path_name(node.target), own=True)
        self._take_weights(name, module)
        channels = {"conv": "out_channels", "linear": "out_features"}.get(kind)
        attrs = reader(module, self._shape(inputs))
        return self._layer(node, name, kind, (part,), attrs, getattr(module, channels) if channels else 0)

    def _call_method(self, node: fx.Node) -> Any:
        return self._call_function(node)

    def _call_function(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target in known.FUNCTIONS:
            kind, reader, arguments = known.FUNCTIONS[target]
            bound = bind(arguments, node.args, node.kwargs)
            attrs = reader(SimpleNamespace(**bound), self._shape(bound["input"]))
            return self._layer(node, self._unique(node.name), kind, (self._slot(bound["input"]),), attrs)
        if target in known.SUMS:
            bound = bind(known.SUM_ARGUMENTS, node.args, node.kwargs)
            terms = [(bound["input"], 1), (bound["other"], self._count(bound["alpha"]))]
            # sum() of Python starts from the number 0
            return sum_slots((self._slot(term), n) for term, n in terms if not (isinstance(term, int) and term == 0))
        if target in known.PRODUCTS:
            bound = bind(known.PRODUCT_ARGUMENTS, node.args, node.kwargs)
            count, factor = sorted(bound.values(), key=lambda value: isinstance(value, fx.Node))
            return sum_slots([(self._slot(factor), self._count(count))])
        if target in known.JOINS:
            bound = bind(known.JOIN_ARGUMENTS, node.args, node.kwargs)
            if bound["dim"] not in (1, 1 - len(node.meta["shape"])):
                raise Refused(f"joins along dimension {bound['dim']}: only channels (dim=1) can be joined")
            return self._concat(node, bound["tensors"])
        if target in known.RESHAPES:
            return self._reshape(node)
        return self._size(node)

    def _concat(self, node: fx.Node, tensors: Any, own: bool = False) -> Slot:
        name = self._unique(self._path_name(node.target) if own else node.name, own)
        return self._layer(node, name, "concat", tuple(self._slot(tensor) for tensor in tensors), {})

    def _reshape(self, node: fx.Node) -> Slot:
        """x.view(x.size(0), -1) and its like: a flatten, if it keeps the batch and nothing else."""
        inputs, *rest = node.args or (node.kwargs.get("input"),)
        sizes: Any = node.kwargs.get("shape", rest)
        if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
            sizes = sizes[0]
        part, features = self._slot(inputs), prod(self._shape(inputs))
        values = [self.values[size] if isinstance(size, fx.Node) else size for size in sizes]
        if values not in ([_BATCH, -1], [_BATCH, features], [-1, features]):
            raise Refused("a reshape that is not x.reshape(x.size(0), -1)")
        return self._layer(node, self._unique(node.name), "flatten", (part,), {})

    def _size(self, node: fx.Node) -> Any:
        """x.size(), x.size(0), x.shape, and the parts of a size."""
        target: Any = node.target
        args: Any = node.args
        if (target == "size" or (target is getattr and args[1] == "shape")) and not node.kwargs:
            sizes = _Sizes((_BATCH, *self._shape(args[0])))
            return sizes[args[1]] if target == "size" and len(args) > 1 else sizes
        if target is operator.getitem and isinstance(self.values[args[0]], _Sizes):
            part = self.values[args[0]][args[1]]
            return _Sizes(part) if isinstance(part, tuple) else part
        raise Refused("this operation is not known")

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _layer(
        self, node: fx.Node, name: str, kind: str, inputs: tuple[Slot, ...], attrs: known.Attrs, channels: int = 0
    ) -> Slot:
        self.layers.append(Layer(name, kind, inputs, channels, attrs, origin=name))
        self.shapes.append(node.meta["shape"][1:])
        return slot(len(self.layers) - 1)

    def _slot(self, value: Any) -> Slot:
        found = self.values.get(value) if isinstance(value, fx.Node) else None
        if not isinstance(found, tuple) or isinstance(found, _Sizes):
            raise Refused(f"{value} is no feature map")
        return found

    def _shape(self, node: Any) -> Shape:
        """The shape of a node's tensor, without the batch."""
        self._slot(node)
        return node.meta["shape"][1:]

    def _count(self, value: Any) -> int:
        if type(value) is not int or value < 1:
            raise Refused(f"times {value}: a feature map can only be multiplied by a positive integer")
        return value

    def _take_weights(self, name: str, module: nn.Module) -> None:
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if key not in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                raise Refused(f"it holds {key!r}: parametrised layers are not known")
            owner = self.owners.setdefault(id(tensor), name)
            if owner != name:
                raise Refused(f"its {key} is already used by layer {owner!r}: shared weights are not supported")
            self.weights[f"{name}.{key}"] = tensor.detach().clone()

    def _unique(self, wanted: str, own: bool = False) -> str:
        """The name of a layer. A module's path (`own`) is kept free for it."""
        name, count = wanted, 0
        while name in self.names or (name in self.paths and not (own and name == wanted)):
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def _path_name(self, path: Any) -> str:
        return layer_name(path.removeprefix("layers.")) if isinstance(self.module, Network) else str(path)

    def _place(self, node: fx.Node) -> str:
        """Where a node stands, in words."""
        if node.op == "call_module":
            return f"module {node.target!r} ({type(self.module.get_submodule(str(node.target))).__name__})"
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path, kind = stack[-1] if stack else ("", type(self.module))
        where = f"module {path!r} ({kind.__name__})" if path else kind.__name__
        operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{node.op.removeprefix('call_')} {operation!r} ({node.name}) in {where}"


def _check(module: nn.Module, architecture: Architecture, weights: Weights, example_input: Tensor) -> None:
    """Compares the module with the network rebuilt from its trace, on the example or, if that is constant, on noise."""
    probe = example_input
    if bool(probe.min() == probe.max()):
        probe = torch.randn(probe.shape, generator=torch.Generator().manual_seed(0)).to(probe)
    try:
        rebuilt = build(architecture, weights).eval()
    except ArchitectureError as error:
        raise TraceError(f"{type(module).__name__} cannot be rebuilt: {error}") from None
    expected, found = module(probe.clone()), rebuilt(probe.clone())
    # Rounding alone; on a GPU the same convolution may run in TF32 one time and not the next.
    tolerance = 100 * torch.finfo(expected.dtype).eps if expected.device.type == "cpu" else 2e-3
    scale = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max())
    if found.shape != expected.shape or not torch.allclose(found, expected, 0.0, tolerance * scale, equal_nan=True):
        raise TraceError(
            f"{type(module).__name__} and its trace give different outputs: does an in-place operation (inplace=True, "
            "+=) change a tensor that is read again, or does a hook change one?"
        )
