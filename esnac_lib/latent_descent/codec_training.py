"""Train the codec of a study on its trained architectures, and measure its quality on held-out ones."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.files import load_weights, save_weights
from esnac_lib.latent_descent.codec import Codec
from esnac_lib.latent_descent.codec_quality import linear_baseline, reconstruction, regression
from esnac_lib.latent_descent.collection import draw_numbered
from esnac_lib.latent_descent.examples import Example, Examples, ParamsScale
from esnac_lib.latent_descent.joint_training import JointSettings, new_autoencoder, train_autoencoder
from esnac_lib.latent_descent.representation import Representation
from esnac_lib.latent_descent.sequence import SequenceSpace
from esnac_lib.latent_descent.trials import TrainedArchitecture
from esnac_lib.seeding import make_rng
from esnac_lib.study.session import Session

FILTERS = 100  # of the first layers, kept for Figure 4


@dataclass(frozen=True, eq=False)
class CodecData:
    """What a codec is trained and evaluated on.

    The teacher is the first of `train`. The codec never learns from `held_out`, whose members stay when the set grows.
    """

    train: list[TrainedArchitecture]
    held_out: list[TrainedArchitecture]
    unlabelled: list[Example]
    representation: Representation
    scale: ParamsScale

    @classmethod
    def of(
        cls,
        config: CompressionConfig,
        space: SequenceSpace,
        teacher: TrainedArchitecture,
        random: Sequence[TrainedArchitecture],
    ) -> CodecData:
        """Split a study's random architectures and draw the unlabelled ones."""
        held_out = [one for one in random if _is_held_out(config, one)]
        train = [teacher, *(one for one in random if not _is_held_out(config, one))]
        unlabelled = _unlabelled(config, space, teacher)
        representation = Representation(config.representation, config.max_length, config.width_step)
        scale = ParamsScale.of(config.params_target, [one.params for one in (*train, *unlabelled)])
        return cls(train, held_out, unlabelled, representation, scale)

    def tensors(self, examples: Sequence[Example]) -> Examples:
        """Return any architectures in this set's representation and scale."""
        return Examples.of(examples, self.representation, self.scale)


def joint_settings(config: CompressionConfig) -> JointSettings:
    """Return the settings of the joint training."""
    return JointSettings(
        config.iterations, config.codec_batch, config.codec_optimizer, config.codec_lr, config.codec_decay,
        config.lambda_accuracy, config.lambda_params,
    )  # fmt: skip


def codec_identity(config: CompressionConfig, data: CodecData) -> str:
    """Return a hash of all that the trained codec depends on."""
    names = (
        "representation", "params_target", "embedding", "unlabelled", "held_out", "iterations", "codec_batch",
        "codec_optimizer", "codec_lr", "codec_decay", "lambda_accuracy", "lambda_params", "seed",
    )  # fmt: skip
    parts = [[getattr(config, name) for name in names], [(one.arch_id, one.accuracy) for one in data.train]]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def train_or_load_codec(config: CompressionConfig, space: SequenceSpace, data: CodecData, session: Session) -> Codec:
    """Train the codec of a set and record its losses, or load it where that was done before."""
    identity, folder, began = codec_identity(config, data), session.students, time.monotonic()

    def on_record(step: int, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            session.ledger.epoch("codec", f"{identity}/{name}", step, value, None, time.monotonic() - began)

    autoencoder = new_autoencoder(data.representation.features, config.max_length, config.embedding, config.seed)
    path = folder / f"codec-{identity}.safetensors"
    if path.exists():
        autoencoder.load_state_dict(load_weights(path))
    else:
        checkpoint = folder / f"codec-{identity}-checkpoint.safetensors"
        unlabelled = data.tensors(data.unlabelled) if data.unlabelled else None
        train_autoencoder(
            autoencoder, data.tensors(data.train), unlabelled, joint_settings(config), config.seed,
            checkpoint=checkpoint, on_record=on_record, check_stop=session.check_stop,
        )  # fmt: skip
        save_weights(path, autoencoder.state_dict())
        checkpoint.unlink(missing_ok=True)
    return Codec(autoencoder.eval(), data.representation, data.scale, space)


def codec_record(codec: Codec, data: CodecData) -> dict[str, Any]:
    """Return a codec's quality on held-out and training architectures, and its first-layer filters (Figure 4)."""
    sources = sorted({one.source for one in data.held_out})
    parts = {source: [one for one in data.held_out if one.source == source] for source in sources}
    weights = codec.autoencoder.state_dict()
    return {
        "trained_on": len(data.train),
        "unlabelled": len(data.unlabelled),
        "held_out": _quality(codec, data, data.held_out),
        "held_out_by_source": {source: _quality(codec, data, part) for source, part in parts.items()},
        "trained": _quality(codec, data, data.train),
        "filters": {
            "encoder": _filters(weights["encoder.0.convolution.weight"]),
            "decoder": _filters(weights["decoder.1.weight"].transpose(0, 1)),
        },
    }


def _quality(codec: Codec, data: CodecData, test: Sequence[TrainedArchitecture]) -> dict[str, Any]:
    if not test:
        return {}
    y = codec.embed([one.items for one in test])
    predicted = codec.predict(y)
    mean = sum(one.accuracy for one in data.train) / len(data.train)
    linear = linear_baseline([*data.train, *data.unlabelled], test)
    accuracies, params = [one.accuracy for one in test], [one.params for one in test]
    return {
        "reconstruction": reconstruction([one.items for one in test], codec.decode(y)),
        "accuracy_regressor": regression(accuracies, [a for a, _ in predicted], [mean] * len(test)),
        "params_regressor": regression(params, [p for _, p in predicted], linear),
        "predictions": [[one.trial, *pair] for one, pair in zip(test, predicted, strict=True)],
    }


def _filters(weight: torch.Tensor) -> list[list[list[float]]]:
    """Return a layer's rounded weights (filters, input channels, kernel), at most `FILTERS` of the first two."""
    return [[[round(float(w), 4) for w in row] for row in filt] for filt in weight[:FILTERS, :FILTERS]]


def _is_held_out(config: CompressionConfig, one: TrainedArchitecture) -> bool:
    """Draw from the architecture's own hash, so that it stays in its part when the set grows."""
    return make_rng(config.seed, "held-out", int(one.arch_id[:12], 16)).random() < config.held_out


def _unlabelled(config: CompressionConfig, space: SequenceSpace, teacher: TrainedArchitecture) -> list[Example]:
    draws = (
        draw_numbered(space, teacher.items, config.around, config.seed, "unlabelled", index)[1].items
        for index in range(config.unlabelled)
    )
    return [Example(items, space.to_architecture(items).num_params, None) for items in draws]
