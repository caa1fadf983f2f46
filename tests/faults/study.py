"""The study that suffers: tiny and real, run in forked processes that have PyTorch loaded already."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import load_dataset
from esnac_lib.errors import EsnacError, Interrupted
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.study import Study
from esnac_lib.training.progress import Progress

PARAMETERS: dict[str, Any] = {
    "study": "tiny", "dataset": "few.npz", "validation": 60, "K": 2, "steps": 2, "epochs": 2, "teacher_epochs": 2,
    "final_epochs": 2, "top": 2, "candidates": 6, "device": "cpu",
}  # fmt: skip
IMAGES = {"train": 300, "test": 100}  # of scikit-learn's digits
TIMES = {"seconds", "propose_seconds", "told_at"}
PATIENCE = 300.0  # seconds until a child counts as hanging

Injection = Callable[[], None]
"""What a child does to itself before the study starts."""

FINISHED, REFUSED, INTERRUPTED, CRASHED = 0, 3, 4, 5


class Silent(Progress):
    """Says nothing, and knows what is going on."""

    doing = ""

    def note(self, text: str) -> None:
        pass

    def begin(self, label: str) -> None:
        super().begin(label)
        Silent.doing = label


@dataclass(frozen=True)
class End:
    """How a child ended: its exit status (minus the signal that killed it), and the message it left."""

    status: int
    message: str

    @property
    def one_line(self) -> bool:
        return 0 < len(self.message) < 600 and "\n" not in self.message


def warm_up(folder: Path) -> None:
    """Make the data set in `folder`, and import in this process what its children would each have to."""
    digits = load_dataset("digits")
    arrays: dict[str, Any] = {}
    for part, count in IMAGES.items():
        arrays[f"{part}_images"] = getattr(digits, f"{part}_images")[:count]
        arrays[f"{part}_labels"] = getattr(digits, f"{part}_labels")[:count]
    np.savez(folder / PARAMETERS["dataset"], **arrays)
    os.environ["ESNAC_DATA"] = str(folder)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


@dataclass
class Place:
    """The outputs folder of one study."""

    folder: Path
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def ledger_path(self) -> Path:
        return self.folder / PARAMETERS["study"] / "ledger.sqlite"

    def start(self, injection: Injection | None = None) -> int:
        """Fork a child that runs the study; its process number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid:
            return pid
        status = CRASHED
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = self._run(injection)
        finally:
            os._exit(status)

    def _run(self, injection: Injection | None) -> int:
        os.environ["ESNAC_OUTPUTS"] = str(self.folder)
        self._keep_journal()
        try:
            if injection is not None:
                injection()
            Study(StudyConfig(**PARAMETERS | self.parameters), Silent()).run()
        except EsnacError as error:
            self._leave(str(error))
            return REFUSED
        except Interrupted as error:
            self._leave(str(error))
            return INTERRUPTED
        except BaseException:
            self._leave(traceback.format_exc())
            return CRASHED
        return FINISHED

    def _leave(self, message: str) -> None:
        (self.folder / f"message.{os.getpid()}").write_text(message)

    def wait(self, pid: int) -> End:
        """Wait for a child, which is killed when it hangs."""
        began = time.monotonic()
        while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() - began > PATIENCE:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        path = self.folder / f"message.{pid}"
        return End(os.waitstatus_to_exitcode(found[1]), path.read_text() if path.exists() else "")

    def run(self, injection: Injection | None = None) -> End:
        """Run the study in a child, to whatever end."""
        return self.wait(self.start(injection))

    # -- what was observed, recorded outside the ledger ---------------------------------------------------------------

    def _keep_journal(self) -> None:
        """Write down whatever the ledger has confirmed, by calls that a kill cannot undo."""
        file = os.open(self.folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def witness(name: str, what: Callable[..., dict[str, Any]]) -> None:
            real = getattr(Ledger, name)

            def confirmed(ledger: Ledger, *args: Any, **named: Any) -> Any:
                value = real(ledger, *args, **named)
                os.write(file, (json.dumps(what(*args, **named)) + "\n").encode())
                return value

            setattr(Ledger, name, confirmed)

        witness("complete", lambda trial, accuracy, f, *_: {"trial": trial, "accuracy": accuracy, "f": f})
        witness("fail", lambda trial, error, seconds, f=0.0: {"trial": trial, "error": error, "f": f})

    def lost(self) -> int:
        """Trials whose result was confirmed, and that are not in the ledger as they were recorded."""
        path = self.folder / "journal"
        confirmed = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        rows = {row["trial"]: row for row in self.trials().astype(object).to_dict("records")}

        def kept(entry: dict[str, Any]) -> bool:
            row = rows.get(entry["trial"], {})
            return all(
                name in row and (row[name] == v or (v is None and pd.isna(row[name]))) for name, v in entry.items()
            )

        return len({entry["trial"] for entry in confirmed if not kept(entry)})

    # -- what came out -----------------------------------------------------------------------------------------------

    def trials(self) -> pd.DataFrame:
        """All trials, without their times."""
        if not self.ledger_path.exists():
            return pd.DataFrame({"trial": []})
        trials = Ledger(self.ledger_path, read_only=True).trials()
        return trials.drop(columns=list(TIMES))

    def outcome(self) -> dict[str, Any]:
        """All that must be the same however often a study was disturbed: trials, curves, results, without times."""
        ledger = Ledger(self.ledger_path, read_only=True)
        kinds = ("teacher", "final", "full", "narrowed", "solution", "baseline")
        results = {kind: ledger.results(kind) for kind in kinds}
        for found in results.values():
            for result in found.values():
                result.pop("seconds", None)
        return {
            "trials": self.trials().to_json(orient="records", double_precision=15),
            "epochs": ledger.epochs().drop(columns="seconds").to_json(orient="records", double_precision=15),
            "results": json.dumps(results, sort_keys=True),
        }
