"""Final training: from the best students of a search to the solution that is reported.

`validated` (the default): the best students by search f are trained on the training split, the best of them by
*validation* f is trained again on all images, and the test accuracy after its last epoch is the result; a single one is
trained on all images at once. `paper`: they are trained on all images, and the best by *test* f in its best test epoch
is the result, as in the authors' code; only for comparison with the published numbers. Every training starts from the
weights of the best search epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Network, build
from esnac_lib.data.batches import DeviceData
from esnac_lib.data.splits import StudyData
from esnac_lib.errors import TrainingError
from esnac_lib.files import load_weights, save_weights
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import Measurement
from esnac_lib.training.callbacks import NO_CALLBACKS, Callbacks
from esnac_lib.training.checkpoints import clear_checkpoint
from esnac_lib.training.job import Outcome, TrainingJob
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.retries import train_with_retries
from esnac_lib.training.trainer import train


@dataclass(frozen=True)
class Finalist:
    """A student with the file of its weights from the search."""

    key: str
    architecture: Architecture
    weights: Path


@dataclass(frozen=True)
class FinalResult:
    """A finished final training."""

    key: str
    params: int
    macs: int
    arch_id: str
    accuracy: float  # after the last epoch
    best_epoch_accuracy: float
    on_test: bool  # both on the test images, else on the validation images
    seconds: float

    def measurement(self, *, best_epoch: bool = False) -> Measurement:
        """Return what an objective makes f from."""
        return Measurement(self.best_epoch_accuracy if best_epoch else self.accuracy, self.params, self.macs)


@dataclass(frozen=True, eq=False)
class FinalTraining:
    """Trains finalists; what the ledger holds already is not done again. `callbacks` returns those of a phase."""

    data: StudyData
    recipe: Recipe
    seed: int
    folder: Path
    ledger: Ledger
    callbacks: Callable[[str], Callbacks] = lambda phase: NO_CALLBACKS

    def on_training_split(self, finalists: Sequence[Finalist]) -> list[FinalResult]:
        """Train together on the training split; accuracies are validation accuracies."""
        return self._train("final", finalists, self.data.training, self.data.validation, on_test=False)

    def on_all_images(self, finalists: Sequence[Finalist]) -> list[FinalResult]:
        """Train together on all images; accuracies are test accuracies, and no choice may rest on them."""
        return self._train("full", finalists, self.data.everything, self.data.test, on_test=True)

    def _train(
        self, phase: str, finalists: Sequence[Finalist], images: DeviceData, evaluation: DeviceData, *, on_test: bool
    ) -> list[FinalResult]:
        done = self.ledger.results(phase)
        left = [finalist for finalist in finalists if finalist.key not in done]
        checkpoint = self.folder / f"checkpoint-{phase}"
        job = TrainingJob(
            images,
            evaluation,
            self.recipe,
            seed=self.seed,
            purpose=f"{phase}-training",
            device=self.data.device,
            checkpoint=checkpoint,
            callbacks=self.callbacks(phase),
        )
        results = {finalist.key: FinalResult(**done[finalist.key]) for finalist in finalists if finalist.key in done}
        reasons: list[str] = []
        networks = {finalist.key: partial(_initial_network, finalist) for finalist in left}
        for outcome, network in train_with_retries(networks, partial(train, job=job)) if left else ():
            if outcome.state == "complete":
                results[outcome.key] = self._save(phase, outcome, network, on_test)
            else:
                reasons.append(f"{outcome.key}: {outcome.error}")
        clear_checkpoint(checkpoint)
        if not results:
            raise TrainingError(f"no final training succeeded: {'; '.join(reasons)}")
        return [results[finalist.key] for finalist in finalists if finalist.key in results]

    def _save(self, phase: str, outcome: Outcome, network: Network, on_test: bool) -> FinalResult:
        """Store the weights of the last epoch, then the result."""
        assert outcome.last_accuracy is not None and outcome.best_accuracy is not None  # there are evaluation images
        architecture = network.architecture
        network.cpu().load_state_dict(outcome.last_weights)
        save_weights(self.folder / f"{outcome.key}-{phase}.safetensors", network.weights())
        accuracies = outcome.last_accuracy, outcome.best_accuracy
        shape = architecture.num_params, architecture.macs, architecture.arch_id
        result = FinalResult(outcome.key, *shape, *accuracies, on_test, outcome.seconds)
        self.ledger.result(phase, outcome.key, asdict(result))
        return result


def _initial_network(finalist: Finalist) -> Network:
    """Return a finalist's network with the weights that its final training starts from."""
    return build(finalist.architecture, load_weights(finalist.weights))
