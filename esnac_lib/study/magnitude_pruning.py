"""Magnitude pruning by Torch-Pruning (Fang et al., 2023), as a baseline at the sizes of a study's students.

What is left of the trained search teacher is trained like a student of the search: distilled, on the same batches.
Compared with uniform width scaling, it shows what choosing filters, and how many of each layer, is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from esnac_lib.architecture.graph import Architecture
from esnac_lib.architecture.network import Weights, build, layer_name, weight_shapes
from esnac_lib.architecture.tracing import trace
from esnac_lib.config.paths import outputs_root
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, EsnacError, TrainingError, one_line
from esnac_lib.ledger.file import has_ledger
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.objective import OBJECTIVES, Measurement
from esnac_lib.study.study import Study
from esnac_lib.training.callbacks import Callbacks
from esnac_lib.training.job import Trainee, TrainingJob
from esnac_lib.training.progress import Progress
from esnac_lib.training.recipes import Recipe
from esnac_lib.training.teacher import TrainedTeacher, train_teacher
from esnac_lib.training.trainer import train

ATTEMPTS = 12  # halvings of the range of ratios, to meet a size
LARGEST = 0.95  # share of a layer's filters that may go
KIND = "pruned"


def magnitude_pruned(teacher: TrainedTeacher, params: int) -> tuple[Architecture, dict[str, Tensor]]:
    """Return the teacher pruned to the size nearest to `params` that a ratio gives, with the weights that are left.

    The L2 norms of filters, summed over what must go together, are compared over all layers; the classifier's outputs
    stay. Raises ConfigError without Torch-Pruning, and TrainingError where it cannot prune this teacher.
    """
    best: list[tuple[Architecture, Weights]] = []
    low, high = 0.0, 1.0
    for _ in range(ATTEMPTS):
        ratio = (low + high) / 2
        found = _pruned(teacher, ratio)
        best = [min([*best, found], key=lambda one: abs(one[0].num_params - params))]
        low, high = (ratio, high) if found[0].num_params > params else (low, ratio)
    return best[0]


def train_pruned(studies: Iterable[StudyConfig], progress: Progress | None = None) -> None:
    """For each finished study, prune its teacher to the size of every student, and train that like one.

    Results are kept in the study's ledger, as results of kind "pruned" under the student's trial, each with accuracy,
    params, macs, f, seconds and the architecture; what is there already is not done again.
    """
    for config in studies:
        study = Study(config, progress)
        if not has_ledger(study.ledger_path):
            raise ConfigError(f"study {config.study!r} has not been run: run it before its teacher is pruned")
        if left := _left(Ledger(study.ledger_path, read_only=True)):
            with Ledger.start(study.ledger_path, config.to_dict()) as ledger:
                _train_alike(study, ledger, left)


def _left(ledger: Ledger) -> dict[str, int]:
    """Return the sizes that nothing was pruned to yet, by the key of the result."""
    trials, done = ledger.trials(), ledger.results(KIND)
    complete = trials[trials["state"] == "complete"]
    sizes = {f"{KIND}{row['trial']:04d}": int(row["params"]) for row in complete.to_dict("records")}
    return {key: params for key, params in sizes.items() if key not in done}


def _train_alike(study: Study, ledger: Ledger, left: Mapping[str, int]) -> None:
    config, progress = study.config, study.progress
    teacher = train_teacher("search", config, study.data, outputs_root() / "teachers", begun=study.untrained)
    pruned = {key: magnitude_pruned(teacher, params) for key, params in left.items()}
    progress.begin(f"search training of {len(pruned)} pruned teachers")
    job = TrainingJob(
        study.data.search,
        study.data.validation,
        Recipe.search(config),
        seed=config.seed,
        purpose="search",
        device=study.data.device,
        teacher=teacher.network(),
        callbacks=Callbacks(
            on_epoch=lambda key, r: ledger.epoch(KIND, key, r.epoch, r.loss, r.accuracy, r.seconds),
            on_batch=progress.batch,
        ),
    )
    outcomes = train([Trainee(key, build(*found)) for key, found in pruned.items()], job)
    progress.end()
    for key, outcome in outcomes.items():
        architecture = pruned[key][0]
        accuracy = outcome.best_accuracy or 0.0  # one that diverged counts as f = 0, like a student
        params, macs = architecture.num_params, architecture.macs
        f = OBJECTIVES[config.objective].value(Measurement(accuracy, params, macs), teacher.measurement)
        value: dict[str, object] = {"params": params, "macs": macs, "accuracy": accuracy, "f": f}
        value |= {"seconds": outcome.seconds, "error": outcome.error, "architecture": architecture.to_json()}
        ledger.result(KIND, key, value)


def _pruned(teacher: TrainedTeacher, ratio: float) -> tuple[Architecture, dict[str, Tensor]]:
    try:
        import torch_pruning
    except ImportError:
        raise ConfigError("magnitude pruning needs Torch-Pruning: install the extra `zoo`") from None
    network = teacher.network().eval()
    example = torch.zeros(1, *teacher.architecture.input_shape)
    try:
        pruner = torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=LARGEST,
            ignored_layers=[module for module in network.modules() if isinstance(module, nn.Linear)],
        )
        pruner.step()
        return _under_layer_names(*trace(network, example))
    except (EsnacError, RuntimeError, ValueError, AttributeError) as error:
        why = one_line(error, kind=False)
        raise TrainingError(f"Torch-Pruning cannot prune this teacher at ratio {ratio:g}: {why}") from None


def _under_layer_names(architecture: Architecture, weights: Mapping[str, Tensor]) -> tuple[Architecture, Weights]:
    """Return a trace of a `Network` that was changed calls layers by their modules' paths: their own names instead."""
    names = [layer_name(layer.name.removeprefix("layers.")) for layer in architecture.layers]
    layers = tuple(replace(layer, name=name) for layer, name in zip(architecture.layers, names, strict=True))
    renamed = replace(architecture, layers=layers)
    pairs = zip(weight_shapes(renamed), weight_shapes(architecture), strict=True)
    return renamed, {new: weights[old] for new, old in pairs}
