"""The teacher's filters in another order: the same function, those of the largest norm first.

Shrinking keeps the first filters of a layer, as in the authors' code, and the order in which training leaves filters
says nothing about them. Put in order of their norms (Li et al., 2017), summed over all weights that go when a channel
goes (Fang et al., 2023), those come first whose loss would be felt most. Beyond both papers of this library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from esnac_lib.architecture.channel_routing import follows_channels
from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights, inherit
from esnac_lib.space.channel_dependencies import Flow, trace_channels


def largest_first(architecture: Architecture, weights: Mapping[str, Tensor]) -> Weights:
    """Weights of the same shapes and the same function, in which every set of filters to shrink stands by falling norm.

    Filters that are coupled, within a layer or across layers, move together. Those that cannot be shrunk
    stay where they are, and so do those of grouped convolutions and shuffles, where a place has a meaning. Channels
    that a student of these weights says it keeps are numbered in this order.
    """
    flow = trace_channels(architecture)
    norms = _squared_norms(architecture, weights, flow)
    content = np.arange(len(norms))  # of each coupled set: whose channels stand in its place from now on
    for segment in flow.segments:
        if segment.family not in flow.fixed and flow.multiples[segment.family] == 1:
            index, positions = next(iter(segment.positions.items()))
            sets = flow.out_atoms[index][positions[:: len(positions) // segment.width]]  # in the order they are kept
            content[sets] = sets[np.argsort(-norms[sets], kind="stable")]
    layers = list(architecture.layers)
    for i in _with_channels(architecture):
        out, into = (_source(places[i], content) for places in (flow.out_atoms, flow.in_atoms))
        layers[i] = replace(layers[i], origin=None, kept_out=out, kept_in=into)
    return inherit(weights, replace(architecture, layers=tuple(layers)))


def _squared_norms(architecture: Architecture, weights: Mapping[str, Tensor], flow: Flow) -> np.ndarray:
    """Of each coupled set the sum of squares of all weights that would go with it, biases apart; float64."""
    norms = np.zeros(len(flow.segment_of))
    for i in _with_channels(architecture):
        if (weight := weights.get(f"{architecture.layers[i].name}.weight")) is not None:
            squares = weight.detach().double().cpu().square().numpy()
            np.add.at(norms, flow.out_atoms[i], squares.reshape(len(squares), -1).sum(1))
            if architecture.layers[i].has_filters and squares.shape[1] == len(flow.in_atoms[i]):
                np.add.at(norms, flow.in_atoms[i], squares.swapaxes(0, 1).reshape(squares.shape[1], -1).sum(1))
    return norms


def _with_channels(architecture: Architecture) -> list[int]:
    """Return the layers whose tensors have rows for channels."""
    return [i for i, layer in enumerate(architecture.layers) if layer.has_filters or follows_channels(layer)]


def _source(places: np.ndarray, content: np.ndarray) -> np.ndarray:
    """For each channel of a layer, the coupled set of each given, the former position of what stands there from now on.

    A set may be there more than once; its parts keep their order.
    """
    found = np.empty(len(places), np.int64)
    found[np.argsort(content[places], kind="stable")] = np.argsort(places, kind="stable")
    return found
