"""What tracing knows: tables of the functions of PyTorch that are layers, that move numbers, that combine maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esnac_lib.architecture.layer_types import REQUIRED
from esnac_lib.architecture.tracing import readers as read
from esnac_lib.architecture.tracing.readers import Attrs, Reader


class Function(NamedTuple):
    """A function or method that is a chain of layers."""

    read: Reader
    arguments: Mapping[str, Any]  # in order, with their defaults
    layouts: tuple[str, ...] = ()  # in which it can read its input; empty: any, since it treats every number alike


def functions(*names: str) -> list[Any]:
    """Return everything of these names in torch, torch.nn.functional and torch.Tensor."""
    found = [getattr(space, name, None) for name in names for space in (torch, F, Tensor)]
    other_order = (None, torch.batch_norm, torch.instance_norm)  # of arguments than in torch.nn.functional
    return [function for function in found if function not in other_order]


_INPUT = {"input": REQUIRED}
_IN_PLACE = _INPUT | {"inplace": False}
_WEIGHTED = {"weight": None, "bias": None}
_POOL = _INPUT | {"kernel_size": REQUIRED, "stride": None, "padding": 0}
_MAPS = ("chw",)
_CHANNELS_FIRST = ("chw", "cn", "f")
_CHANNELS_LAST = ("hwc", "nc", "f")

_ELEMENTWISE: Mapping[str, dict[str, float]] = {
    "elu": {"alpha": 1.0}, "celu": {"alpha": 1.0}, "leaky_relu": {"negative_slope": 0.01},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0}, "softplus": {"beta": 1.0, "threshold": 20.0},
    **{name: {} for name in ("relu6", "silu", "hardswish", "hardsigmoid", "selu", "mish", "tanh", "softsign", "square",
                             "abs", "logsigmoid")},
}  # fmt: skip
_BY_NAME: Mapping[str, Function] = {
    "conv2d": Function(
        read.conv,
        _INPUT | {"weight": REQUIRED, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}, _MAPS,
    ),
    "linear": Function(read.linear, _INPUT | {"weight": REQUIRED, "bias": None}, _CHANNELS_LAST),
    "batch_norm": Function(
        read.batch_norm,
        _INPUT | {"running_mean": REQUIRED, "running_var": REQUIRED} | _WEIGHTED
        | {"training": False, "momentum": 0.1, "eps": 1e-5},
        _CHANNELS_FIRST,
    ),
    "layer_norm": Function(
        read.layer_norm, _INPUT | {"normalized_shape": REQUIRED} | _WEIGHTED | {"eps": 1e-5}, _CHANNELS_LAST
    ),
    "rms_norm": Function(
        read.rms_norm, _INPUT | {"normalized_shape": REQUIRED, "weight": None, "eps": None}, _CHANNELS_LAST
    ),
    "group_norm": Function(
        read.group_norm, _INPUT | {"num_groups": REQUIRED} | _WEIGHTED | {"eps": 1e-5}, ("chw", "cn")
    ),
    "instance_norm": Function(
        read.instance_norm,
        _INPUT | {"running_mean": None, "running_var": None} | _WEIGHTED
        | {"use_input_stats": True, "momentum": 0.1, "eps": 1e-5},
        _MAPS,
    ),
    "prelu": Function(read.prelu, _INPUT | {"weight": REQUIRED}, _CHANNELS_FIRST),
    "max_pool2d": Function(
        read.max_pool, _POOL | {"dilation": 1, "ceil_mode": False, "return_indices": False}, _MAPS
    ),
    "avg_pool2d": Function(
        read.avg_pool, _POOL | {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}, _MAPS
    ),
    "adaptive_avg_pool2d": Function(read.adaptive("adaptive_avg_pool"), _INPUT | {"output_size": REQUIRED}, _MAPS),
    "adaptive_max_pool2d": Function(
        read.adaptive("adaptive_max_pool"), _INPUT | {"output_size": REQUIRED, "return_indices": False}, _MAPS
    ),
    "channel_shuffle": Function(read.channel_shuffle, _INPUT | {"groups": REQUIRED}, _MAPS),
    "interpolate": Function(
        read.interpolate,
        _INPUT | {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None,
                  "recompute_scale_factor": None, "antialias": False},
        _MAPS,
    ),
    "dropout": Function(read.dropout, _INPUT | {"p": 0.5, "training": True, "inplace": False}),
    "relu": Function(read.kind("relu"), _IN_PLACE),
    "sigmoid": Function(read.kind("sigmoid"), _INPUT),
    "gelu": Function(read.gelu, _INPUT | {"approximate": "none"}),
    "clamp": Function(read.clamp, _INPUT | {"min": None, "max": None}),
    "clamp_min": Function(read.clamp, _INPUT | {"min": REQUIRED, "max": None}),
    "pow": Function(read.power, _INPUT | {"exponent": REQUIRED}),
    "neg": Function(read.negative, _INPUT),
    **{
        name: Function(read.activation(name, *options), _INPUT | options | {"inplace": False})
        for name, options in _ELEMENTWISE.items()
    },
}  # fmt: skip

_ALIASES = {"clip": "clamp", "absolute": "abs", "negative": "neg", "log_sigmoid": "logsigmoid", "__pow__": "pow",
            "__neg__": "neg", "__abs__": "abs"}  # fmt: skip


def _by_object(table: Iterable[tuple[str, Any]]) -> dict[Any, Any]:
    """Return a table by functions, from one by names: with the forms that work in place."""
    return {function: entry for name, entry in table for function in functions(name, f"{name}_")}


FUNCTIONS: Mapping[Any, Function] = _by_object(
    [*_BY_NAME.items(), *((alias, _BY_NAME[name]) for alias, name in _ALIASES.items())]
)

# What only moves numbers about, with a tensor whose numbers are read as the first argument.
MOVES = frozenset(
    functions(
        "view", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "swapaxes", "swapdims", "movedim",
        "moveaxis", "squeeze", "unsqueeze", "chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk",
        "unsafe_split", "unbind", "__getitem__", "narrow", "select", "index_select", "expand", "expand_as", "view_as",
        "reshape_as", "flip", "t", "broadcast_to",
    )
) | {Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]  # fmt: skip

# What gives the same numbers again (a change of type is found by the result's).
COPIES = frozenset(
    functions("contiguous", "clone", "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu",
              "cuda", "requires_grad_")
) | {Tensor.data.__get__}  # type: ignore[attr-defined]  # fmt: skip
# Of these, what stops gradients.
STOPS_GRADIENTS = frozenset([*functions("detach"), Tensor.data.__get__])  # type: ignore[attr-defined]

# What does nothing in eval mode and has no layer of its own for training.
LEFT_OUT = frozenset(
    functions("dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout")
)
LEFT_OUT_ARGUMENTS = _INPUT | {"p": 0.5, "training": True, "inplace": False}

# The options of modules that are one layer, which is known by the name of the class: every library has its own.
_STOCHASTIC_DEPTHS = {"StochasticDepth": {"p": "p", "mode": "mode"}, "DropPath": {"p": "drop_prob"}}


def is_stochastic_depth(module: nn.Module) -> bool:
    """Return whether a module drops its input at random in training, image by image, and is the identity otherwise."""
    options = _STOCHASTIC_DEPTHS.get(type(module).__name__)
    return options is not None and all(hasattr(module, name) for name in options.values())


def stochastic_depth(module: nn.Module) -> Attrs | None:
    """Return the attributes of the layer that such a module is; None if it does nothing."""
    attrs = {key: getattr(module, name) for key, name in _STOCHASTIC_DEPTHS[type(module).__name__].items()}
    return attrs if attrs["p"] else None


# What may stand before a function that is not defined for all numbers, and belongs to it then: element-wise functions,
# pools and movement.
FREE = MOVES | (COPIES - STOPS_GRADIENTS) | frozenset(
    function
    for name, entry in [*_BY_NAME.items(), *((alias, _BY_NAME[name]) for alias, name in _ALIASES.items())]
    if name not in ("conv2d", "linear", "dropout", "prelu") and "norm" not in name
    for function in functions(name, f"{name}_")
)  # fmt: skip

# Functions without a layer of their own that are defined for all numbers.
TOTAL = MOVES | COPIES | frozenset(
    functions(
        "pixel_shuffle", "pixel_unshuffle", "roll", "rot90", "unfold", "fold", "grid_sample", "affine_grid",
        "interpolate", "softmax", "log_softmax", "softmin", "logsumexp", "matmul", "__matmul__", "mm", "bmm", "einsum",
        "addmm", "baddbmm", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
        "conv_transpose3d", "linear", "sign", "sgn", "round", "floor", "ceil", "trunc", "frac", "erf", "sin", "cos",
        "atan", "sinh", "cosh", "asinh", "exp", "expm1", "max", "min", "amax", "amin", "maximum", "minimum", "argmax",
        "argmin", "sort", "topk", "sum", "mean", "var", "norm", "cumsum", "where", "stack", "cat", "concat",
        "normalize", "layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm", "lp_pool2d", "threshold",
        "glu", "rrelu", "hardshrink", "softshrink", "tanhshrink", "logaddexp", "clamp", "clip", "clamp_min",
        "gt", "ge", "lt", "le", "eq", "ne", "__gt__", "__ge__", "__lt__", "__le__", "logical_not", "addcmul", "lerp",
        "scaled_dot_product_attention", "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "avg_pool1d",
        "avg_pool3d", "tile", "repeat", "repeat_interleave", "diagonal", "tril", "triu", "masked_fill", "nan_to_num",
        "index_select", "gather", "add", "sub", "mul", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__",
        "__rmul__", "dropout",
    )
)  # fmt: skip
