"""An Architecture Compression study: random architectures, the codec, the descent, and what is trained at the end.

    >>> study = CompressionStudy(CompressionConfig(study="mine", teacher="conv7", dataset="fashion_mnist", ...))
    >>> summary = study.run()      # killed? give the same command again

Everything is in the study's ledger the moment it is known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from esnac_lib.architecture_compression.codec_stage import CodecSet, codec_identity, codec_record, trained_codec
from esnac_lib.architecture_compression.collection import collect
from esnac_lib.architecture_compression.compression_config import STAGES, CompressionConfig, check_compression_resume
from esnac_lib.architecture_compression.descent import PathStep
from esnac_lib.architecture_compression.rounds import Compression
from esnac_lib.architecture_compression.sequence import SequenceSpace
from esnac_lib.architecture_compression.surrogate import Surrogate
from esnac_lib.architecture_compression.trials import Trials
from esnac_lib.config import data_root_of, study_dir
from esnac_lib.data import load_dataset
from esnac_lib.environment import describe_environment
from esnac_lib.errors import ConfigError
from esnac_lib.evaluator import LocalEvaluator
from esnac_lib.ledger import Ledger
from esnac_lib.progress import Progress, duration
from esnac_lib.study_data import StudyData, pick_device
from esnac_lib.trained_teacher import traced_teacher
from esnac_lib.trainer import Recipe
from esnac_lib.watch import TrainingStopped, Watch


class CompressionStudy:
    """One study in `<outputs>/<study>`.

    Making the object checks everything that can be wrong within seconds, raises one line, and writes nothing.
    """

    def __init__(self, config: CompressionConfig, progress: Progress | None = None) -> None:
        self.config, self.shared = config, config.study_config
        self.folder = study_dir(self.shared)
        self.ledger_path = self.folder / "ledger.sqlite"
        self.progress = progress or Progress()
        if self.ledger_path.exists():
            check_compression_resume(Ledger(self.ledger_path, read_only=True).config, config)
        self.device = pick_device(config.device)
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device = {config.device!r}: this machine has no CUDA device; give 'cpu' or 'auto'")
        dataset = load_dataset(config.dataset, data_root_of(self.shared))
        self.data = StudyData(dataset, self.shared, self.device)
        self.teacher = traced_teacher(self.shared, dataset)[0]
        space = SequenceSpace.around(
            self.teacher,
            enforced=config.assumptions == "enforced",
            max_length=config.max_length,
            width_step=config.width_step,
        )
        self.space = replace(space, max_macs=config.max_macs)
        self._deadline = float("inf")

    def run(self) -> None:
        """Go through the stages as far as `stop_after` says."""
        if self.config.max_minutes:
            self._deadline = time.monotonic() + 60 * self.config.max_minutes
        with Ledger.start(self.ledger_path, self.config.to_dict()) as ledger:
            check_compression_resume(ledger.config, self.config)  # now that nobody else can write
            ledger.set_config(self.config.to_dict())
            ledger.reset_running()
            ledger.clear_stop()
            self._describe()
            try:
                self._stages(ledger)
            except TrainingStopped:
                self.progress.note("stopped as asked; the same command goes on from here")
            finally:
                self.progress.end()

    def _stages(self, ledger: Ledger) -> None:
        last = STAGES.index(self.config.stop_after)
        trials = self._trials(ledger)
        self._collect(ledger, trials)
        if last < STAGES.index("codec"):
            return
        found, surrogate = self._codec(ledger, trials)
        if last < STAGES.index("compression"):
            return
        compression = Compression(
            self.config, trials, surrogate, found,
            on_path=partial(self._keep_path, ledger), note=self.progress.note,
        )  # fmt: skip
        compression.run()

    def _describe(self) -> None:
        (self.folder / "students").mkdir(parents=True, exist_ok=True)
        _write(self.folder / "config.yaml", yaml.safe_dump(self.config.to_dict(), sort_keys=False))
        _write(self.folder / "environment.json", json.dumps(describe_environment(self.device), indent=1))

    def _should_stop(self, ledger: Ledger) -> bool:
        return time.monotonic() > self._deadline or ledger.stop_requested()

    def _watch(self, ledger: Ledger, phase: str) -> Watch:
        return Watch(
            on_epoch=lambda key, r: ledger.epoch(phase, key, r.epoch, r.loss, r.accuracy, r.seconds),
            on_batch=self.progress.batch,
            should_stop=partial(self._should_stop, ledger),
        )

    # -- the random architectures ------------------------------------------------------------------------------------

    def _trials(self, ledger: Ledger) -> Trials:
        config = self.config
        recipe = Recipe(
            config.epochs,
            config.search_lr,
            config.batch_size,
            optimizer="adam",
            weight_decay=0.0,
            schedule=config.search_schedule,
            augment=config.search_augment,
        )
        evaluator = LocalEvaluator(
            None,
            self.data,
            recipe,
            config.seed,
            self.folder / "students",
            self._watch(ledger, "search"),
        )
        return Trials(ledger, evaluator, self.space, self.teacher, config.initialisations)

    def _collect(self, ledger: Ledger, trials: Trials) -> None:
        config, began = self.config, time.monotonic()

        def note(done: int) -> None:
            if self._should_stop(ledger):
                raise TrainingStopped
            self.progress.note(
                f"{done} of {config.architectures} random architectures trained, {duration(time.monotonic() - began)}"
            )
            self.progress.begin("random architectures")

        self.progress.begin("the teacher and random architectures")

        collect(trials, config.architectures, config.around, config.K, config.seed, note)

    # -- the codec and the compression -------------------------------------------------------------------------------

    def _codec(self, ledger: Ledger, trials: Trials) -> tuple[CodecSet, Surrogate]:
        config, began = self.config, time.monotonic()
        labelled = trials.labelled()
        (teacher,) = [one for one in labelled if one.source == "teacher"]
        random = [one for one in labelled if one.source in ("random", "around")]
        found = CodecSet.of(config, self.space, teacher, random)
        identity = codec_identity(config, found)

        def on_record(step: int, losses: dict[str, float]) -> None:
            seconds = time.monotonic() - began
            for name, value in losses.items():
                ledger.epoch("codec", f"{identity}/{name}", step, value, None, seconds)

        def check_stop() -> None:
            if self._should_stop(ledger):
                raise TrainingStopped

        decoded_space = replace(self.space, max_macs=max(config.max_macs, self.teacher.macs) if config.max_macs else 0)
        surrogate = trained_codec(
            config, decoded_space, found, self.folder / "students", on_record=on_record, check_stop=check_stop
        )
        ledger.result("codec", "trained", {"identity": identity} | codec_record(surrogate, found))
        return found, surrogate

    def _keep_path(self, ledger: Ledger, name: str, path: Sequence[PathStep], more: dict[str, Any]) -> None:
        ledger.result("path", name, {"steps": [step.to_dict() for step in path]} | more)


def _write(path: Path, text: str) -> None:
    partial_path = path.with_name(path.name + ".part")
    partial_path.write_text(text + "\n")
    os.replace(partial_path, path)
