"""How weights are drawn before training: He et al.'s for convolutions, PyTorch's for all else, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build

Module = TypeVar("Module", bound=nn.Module)


def fresh_network(architecture: Architecture, seed: int) -> Network:
    """Return an architecture's network on the CPU, initialised like a teacher; its weights depend on `seed` alone."""
    return seeded(lambda: build(architecture), seed)


def seeded(make: Callable[[], Module], seed: int) -> Module:
    """Return the module that `make` builds, initialised on the CPU from `seed` alone; global state is restored."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed other devices too
        return initialise(make())


def initialise(module: Module) -> Module:
    """Draw a module's weights afresh, in place, from PyTorch's global random state, and return the module.

    Convolutions as He et al. (2015) for ReLU, from the number of inputs of a filter (in a grouped convolution those of
    its group); their biases are 0. Everything else as PyTorch does.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    return module
