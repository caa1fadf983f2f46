"""Prune filters step by step by first-order Taylor importance (Molchanov et al., 2016; baseline of §5.3.1).

The importance of a feature map z is Θ(z) = |mean over positions of dC/dz · z|, averaged over images and divided by the
norm of the layer's importances (Molchanov et al., Eqs. 7 and 8). After each step the network is trained a little.
Filters are removed by `shrink` and `inherit`, which are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build, inherit, module_name
from esnac_lib.data.batches import DeviceData
from esnac_lib.latent_descent.sequence import convolution_blocks
from esnac_lib.space.operators.shrink import shrink
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.trainer import evaluate, train

ACCURACY_MARGIN = 0.01  # how far below the student's the accuracy may fall (first stop rule of §5.3.1)


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network, its accuracy on the evaluation images, and parameters and accuracy after each step."""

    architecture: Architecture
    weights: dict[str, Tensor]
    accuracy: float
    stopped: str  # "size", "accuracy" or "nothing left"
    steps: list[dict[str, Any]]


def prune(
    architecture: Architecture, weights: Mapping[str, Tensor], images: Callable[[int], DeviceData],
    evaluation_data: DeviceData, *, least_params: int, least_accuracy: float, filters: int, recipe: Recipe, seed: int,
    run: int, device: str, watch: Callbacks = NO_CALLBACKS,
) -> Pruned:  # fmt: skip
    """Prune a trained chain until one of the stop rules of §5.3.1 holds.

    `least_params` and `least_accuracy` are the student's, which pruning is compared with; `filters` are removed in each
    step, after which the network is trained on `images(step)`; `run` tells several prunings of one study apart.
    """
    network = build(architecture.standing_alone(), weights)
    accuracy = evaluate(network, evaluation_data, device=device)
    stopped, steps, purpose = "nothing left", list[dict[str, Any]](), f"pruning-{run}"
    for step in range(sum(layer.channels for layer in architecture.layers)):
        if network.architecture.num_params <= least_params:
            stopped = "size"
            break
        if steps and accuracy < least_accuracy - ACCURACY_MARGIN:
            stopped = "accuracy"
            break
        part = images(step)
        smaller = _without_filters(network, taylor_importance(network, part, recipe.batch_size), filters)
        if smaller is None:
            break
        job = TrainingJob(part, None, recipe, seed=seed, purpose=purpose, index=step, device=device, callbacks=watch)
        if train([Trainee("pruned", smaller)], job)["pruned"].state != "complete":
            break
        network, accuracy = smaller, evaluate(smaller, evaluation_data, device=device)
        steps.append({"params": network.architecture.num_params, "accuracy": accuracy})
    return Pruned(network.architecture, network.cpu().weights(), accuracy, stopped, steps)


def _without_filters(network: Network, importance: Mapping[int, np.ndarray], filters: int) -> Network | None:
    """Return the network without its least important filters, with its weights; None if none can be removed."""
    keep = select_filters(network.architecture, importance, filters)
    if not keep:
        return None
    smaller = shrink(network.architecture, keep)
    return build(smaller.standing_alone(), inherit(network.cpu().weights(), smaller))


def taylor_importance(network: Network, images: DeviceData, batch_size: int) -> dict[int, np.ndarray]:
    """Return the Taylor importance of each filter, by convolution, divided by the layer's norm.

    z is the map after the convolution's batch norm and activation. Batch norms and dropouts work as in evaluation, so
    that measuring a network does not change it.
    """
    maps: dict[int, Tensor] = {}

    def keep(index: int, module: nn.Module, arguments: Any, output: Tensor) -> None:
        output.retain_grad()
        maps[index] = output

    layers, blocks = network.architecture.layers, convolution_blocks(network.architecture)
    hooks = [
        network.layers.get_submodule(module_name(layers[last].name)).register_forward_hook(partial(keep, index))
        for index, last in blocks.items()
    ]
    network.to(images.device).to(memory_format=torch.channels_last).eval()
    total = {index: torch.zeros(layers[index].channels, device=images.device) for index in blocks}
    try:
        for x, y in images.evaluation_batches(batch_size):
            F.cross_entropy(network(x.clone()), y, reduction="sum").backward()
            for index, output in maps.items():
                if output.grad is not None:
                    total[index] += (output.grad * output.detach()).mean((2, 3)).abs().sum(0)  # (channels,)
    finally:
        for hook in hooks:
            hook.remove()
        network.zero_grad(set_to_none=True)
    return {index: _normalised(scores.double().cpu().numpy()) for index, scores in total.items()}


def select_filters(
    architecture: Architecture, importance: Mapping[int, np.ndarray], filters: int
) -> dict[int, np.ndarray]:
    """Return the filters to keep when the `filters` least important ones are removed, at least one a layer.

    Layers that lose none are left out, so the result is empty if none can be removed.
    """
    removed: dict[int, list[int]] = {index: [] for index in importance}
    left = filters
    scores = [(score, index, place) for index, row in importance.items() for place, score in enumerate(row)]
    for _, index, place in sorted(scores):
        if left and len(removed[index]) < architecture.layers[index].channels - 1:
            removed[index].append(place)
            left -= 1
    return {
        index: np.delete(np.arange(architecture.layers[index].channels), places)
        for index, places in removed.items()
        if places
    }


def _normalised(scores: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(scores))
    return scores / norm if norm > 0 else scores
