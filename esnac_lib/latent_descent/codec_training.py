"""From the trained architectures of a study to a trained codec, and how good it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.files import load_weights, save_weights
from esnac_lib.latent_descent.codec import Surrogate
from esnac_lib.latent_descent.codec_quality import linear_params, reconstruction, regression
from esnac_lib.latent_descent.collection import distribution_of, sampler_of
from esnac_lib.latent_descent.examples import Example, Examples, Known, ParamsScale, examples_of
from esnac_lib.latent_descent.joint_training import JointSettings, new_codec, train_codec
from esnac_lib.latent_descent.random_architectures import draw
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import SequenceSpace
from esnac_lib.latent_descent.trials import Labelled
from esnac_lib.seeding import make_rng

FILTERS = 100
"""How many first-layer filters are kept for Figure 4."""


@dataclass(frozen=True, eq=False)
class CodecSet:
    """What one codec is trained and judged on.

    train: the trained architectures that it learns from. held_out: those that it is judged on and never learns from;
    the same ones however far the set has grown.
    """

    train: list[Labelled]
    held_out: list[Labelled]
    unlabelled: list[Example]
    representation: Representation
    scale: ParamsScale

    @classmethod
    def of(
        cls, config: CompressionConfig, space: SequenceSpace, teacher: Labelled, found: Sequence[Labelled]
    ) -> CodecSet:
        """The set of a study whose random architectures are `found`; the teacher is the first that is trained on."""
        train = [teacher, *(one for one in found if not _is_held_out(config, one))]
        unlabelled = _unlabelled(config, space, teacher)
        params = [one.params for one in train] + [one.params for one in unlabelled]
        return cls(
            train,
            [one for one in found if _is_held_out(config, one)],
            unlabelled,
            Representation(config.representation, config.max_length, config.width_step),
            ParamsScale.of(config.params_target, params),
        )

    def tensors(self, found: Sequence[Known]) -> Examples:
        """Any architectures in this set's representation and scale."""
        return examples_of(found, self.representation, self.scale)


def joint_settings(config: CompressionConfig) -> JointSettings:
    """The settings of the joint training."""
    return JointSettings(
        config.iterations, config.codec_batch, config.codec_optimizer, config.codec_lr, config.codec_decay,
        config.lambda_accuracy, config.lambda_params,
    )  # fmt: skip


def codec_identity(config: CompressionConfig, found: CodecSet) -> str:
    """A hash of all that the trained codec depends on."""
    names = (
        "representation", "params_target", "embedding", "unlabelled", "held_out", "iterations", "codec_batch",
        "codec_optimizer", "codec_lr", "codec_decay", "lambda_accuracy", "lambda_params", "seed",
    )  # fmt: skip
    parts = [[getattr(config, name) for name in names], [(one.arch_id, one.accuracy) for one in found.train]]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def trained_codec(
    config: CompressionConfig,
    space: SequenceSpace,
    found: CodecSet,
    folder: Path,
    *,
    on_record: Callable[[int, dict[str, float]], None],
    check_stop: Callable[[], None],
) -> Surrogate:
    """Train the codec of a set, or take the one that lies in `folder` already."""
    identity = codec_identity(config, found)
    codec = new_codec(found.representation.features, config.max_length, config.embedding, config.seed)
    path = folder / f"codec-{identity}.safetensors"
    if path.exists():
        codec.load_state_dict(load_weights(path))
    else:
        checkpoint = folder / f"codec-{identity}-checkpoint.safetensors"
        unlabelled = found.tensors(found.unlabelled) if found.unlabelled else None
        train_codec(
            codec, found.tensors(found.train), unlabelled, joint_settings(config), config.seed,
            checkpoint=checkpoint, on_record=on_record, check_stop=check_stop,
        )  # fmt: skip
        save_weights(path, codec.state_dict())
        checkpoint.unlink(missing_ok=True)
    return Surrogate(codec.eval(), found.representation, found.scale, space)


def codec_record(surrogate: Surrogate, found: CodecSet) -> dict[str, Any]:
    """What the ledger keeps of a codec: its quality on the held-out architectures, of each distribution and of all, and
    the first layers' filters (Figure 4)."""
    sources = sorted({one.source for one in found.held_out})
    parts = {source: [one for one in found.held_out if one.source == source] for source in sources}
    weights = surrogate.codec.state_dict()
    return {
        "trained_on": len(found.train),
        "unlabelled": len(found.unlabelled),
        "held_out": _quality(surrogate, found, found.held_out),
        "held_out_by_source": {source: _quality(surrogate, found, part) for source, part in parts.items()},
        "trained": _quality(surrogate, found, found.train),
        "filters": {
            "encoder": _filters(weights["encoder.0.convolution.weight"]),
            "decoder": _filters(weights["decoder.1.weight"].transpose(0, 1)),
        },
    }


def _quality(surrogate: Surrogate, found: CodecSet, asked: Sequence[Labelled]) -> dict[str, Any]:
    if not asked:
        return {}
    y = surrogate.embed([one.items for one in asked])
    predicted = surrogate.predict(y)
    mean = sum(one.accuracy for one in found.train) / len(found.train)
    linear = linear_params([*found.train, *found.unlabelled], asked)
    accuracies, params = [one.accuracy for one in asked], [one.params for one in asked]
    return {
        "reconstruction": reconstruction([one.items for one in asked], surrogate.decode(y)),
        "accuracy_regressor": regression(accuracies, [a for a, _ in predicted], [mean] * len(asked)),
        "params_regressor": regression(params, [p for _, p in predicted], linear),
        "predictions": [[one.trial, *pair] for one, pair in zip(asked, predicted, strict=True)],
    }


def _filters(weight: torch.Tensor) -> list[list[list[float]]]:
    """A layer's weights (filters, input channels, kernel), at most `FILTERS` of the first two, rounded."""
    return [[[round(float(w), 4) for w in row] for row in filt] for filt in weight[:FILTERS, :FILTERS]]


def _is_held_out(config: CompressionConfig, one: Labelled) -> bool:
    """Observation from the architecture itself, so that it stays in its part when the set grows."""
    return make_rng(config.seed, "held-out", int(one.arch_id[:12], 16)).random() < config.held_out


def _unlabelled(config: CompressionConfig, space: SequenceSpace, teacher: Labelled) -> list[Example]:
    found = []
    for index in range(config.unlabelled):
        distribution = distribution_of(index, config.around)
        sample = sampler_of(distribution, space, teacher.items)
        items = draw(space, sample, make_rng(config.seed, f"{distribution}-unlabelled", index)).items
        found.append(Example(items, space.to_architecture(items).num_params, None))
    return found
