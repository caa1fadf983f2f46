"""Pruning by Molchanov et al. (2016): filters go one group after the other, by a first-order Taylor criterion.

Θ(z) = |mean over positions of dC/dz · z| of a feature map z, the mean over images, each layer's scores divided by
their norm (its Eqs. 7 and 8). Between two cuts the network is trained a little. The paper at hand stops where 1. the
accuracy falls 1 point below its own student's, or 2. the parameters are no more than its student's (§5.3.1).

The cuts are this library's own: `shrink` and `inherit`, which are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build, inherit, module_name
from esnac_lib.data.batches import DeviceData
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.trainer import evaluate, train

ACCURACY_MARGIN = 0.01
"""The first stop rule: how far below the student's the accuracy may fall."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a pruning ended with.

    stopped: "size", "accuracy" or "nothing left". accuracy: on the validation images. steps: parameters and accuracy
    after each cut and the training that follows.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    accuracy: float
    stopped: str
    steps: list[dict[str, Any]]


def prune(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    images: Callable[[int], DeviceData],
    judged: DeviceData,
    *,
    least_params: int,
    least_accuracy: float,
    filters: int,
    recipe: Recipe,
    seed: int,
    run: int,
    device: str,
    watch: Callbacks = NO_CALLBACKS,
) -> Pruned:
    """Prune a trained chain until one of the stop rules holds.

    images: what to train on between two cuts, by the number of the cut. filters: how many go at a cut. recipe: of that
    training. least_accuracy: the student's; run: which of several prunings this is.
    """
    network = build(_own(architecture), weights)
    steps: list[dict[str, Any]] = []
    accuracy = evaluate(network, judged, device=device)
    for cut in range(sum(layer.channels for layer in architecture.layers)):
        current = network.architecture
        if current.num_params <= least_params:
            return Pruned(current, network.cpu().weights(), accuracy, "size", steps)
        if steps and accuracy < least_accuracy - ACCURACY_MARGIN:
            return Pruned(current, network.cpu().weights(), accuracy, "accuracy", steps)
        part = images(cut)
        keep = kept_filters(current, taylor_scores(network, part, recipe.batch_size), filters)
        if not keep:
            break
        student = shrink(current, keep)
        network = build(_own(student), inherit(network.cpu().weights(), student))
        purpose = f"pruning-{run}"
        job = TrainingJob(part, None, recipe, seed=seed, purpose=purpose, index=cut, device=device, callbacks=watch)
        outcome = train([Trainee("pruned", network)], job)["pruned"]
        if outcome.state != "complete":
            break
        accuracy = evaluate(network, judged, device=device)
        steps.append({"params": network.architecture.num_params, "accuracy": accuracy})
    return Pruned(network.architecture, network.cpu().weights(), accuracy, "nothing left", steps)


def taylor_scores(network: Network, images: DeviceData, batch_size: int) -> dict[int, np.ndarray]:
    """For every convolution, by its index: the criterion of each filter, divided by the layer's norm.

    z is the map after the convolution's batch norm and activation. Batch norms and dropouts work as in evaluation, so
    that looking at a network does not change it.
    """
    found: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}

    def keep(index: int, module: nn.Module, arguments: Any, output: Tensor) -> None:
        output.retain_grad()
        maps[index] = output

    architecture = network.architecture
    hooks = [
        network.layers.get_submodule(module_name(architecture.layers[last].name)).register_forward_hook(
            partial(keep, index)
        )
        for index, last in _maps_of(architecture).items()
    ]
    network.to(images.device).to(memory_format=torch.channels_last).eval()
    try:
        for x, y in images.evaluation_batches(batch_size):
            network.zero_grad(set_to_none=True)
            F.cross_entropy(network(x.clone()), y, reduction="sum").backward()
            for index, output in maps.items():
                gradient = output.grad if output.grad is not None else torch.zeros_like(output)
                value = (gradient * output).mean((2, 3)).abs().sum(0).detach()  # (channels,)
                found[index] = found.get(index, torch.zeros_like(value)) + value
    finally:
        for hook in hooks:
            hook.remove()
    network.zero_grad(set_to_none=True)
    return {index: _normalised(score.double().cpu().numpy()) for index, score in found.items()}


def kept_filters(architecture: Architecture, scores: Mapping[int, np.ndarray], filters: int) -> dict[int, np.ndarray]:
    """The filters that stay when the `filters` of lowest score go, at least one a layer; empty if none can go."""
    gone: dict[int, set[int]] = {index: set() for index in scores}
    order = sorted((float(score), index, place) for index, row in scores.items() for place, score in enumerate(row))
    left = filters
    for _, index, place in order:
        if left and len(gone[index]) < architecture.layers[index].channels - 1:
            gone[index].add(place)
            left -= 1
    return {
        index: np.array([place for place in range(architecture.layers[index].channels) if place not in places])
        for index, places in gone.items()
        if places
    }


def _maps_of(architecture: Architecture) -> dict[int, int]:
    """For every convolution the last layer whose output is its feature maps, one to one."""
    found = {}
    for index, layer in enumerate(architecture.layers):
        if layer.kind == "conv":
            last = index
            while architecture.layers[last + 1].kind in ("batch_norm", "relu", "sigmoid"):
                last += 1
            found[index] = last
    return found


def _normalised(scores: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(scores))
    return scores / norm if norm > 0 else scores


def _own(architecture: Architecture) -> Architecture:
    """The architecture as a teacher of its own: what it kept of another one is forgotten."""
    layers = tuple(replace(layer, origin=None, kept_out=None, kept_in=None) for layer in architecture.layers)
    return Architecture(layers, architecture.input_shape, architecture.output)
