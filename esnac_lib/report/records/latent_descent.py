"""One Architecture Compression study as its ledger has it, frozen at the moment of reading.

>>> record = read_compression("ac_digits")            # outputs/ac_digits
>>> record.student["params"], record.teacher["accuracy"]
(15820, 0.986)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from esnac_lib.config.latent_descent import BASELINES, CompressionConfig
from esnac_lib.data.noise import is_near_chance, near_chance
from esnac_lib.errors import LedgerError
from esnac_lib.latent_descent.sequence import Item, Items
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.report.records.study import LedgerRecord, ledger_path, read_environment
from esnac_lib.report.statistics import Difference

KINDS = ("teacher", "codec", "path", "compressed", "compared", "width", "final", "full", "pruned")
SOURCES = ("random", "around", "descent")  # by the rules of Section 9, variations of the teacher, or by a descent


@dataclass(frozen=True, eq=False, repr=False)
class CompressionRecord(LedgerRecord):
    """What the ledger of one study says. trials also has source, length and note (what was recorded with each)."""

    config: CompressionConfig

    @cached_property
    def rejections(self) -> dict[str, pd.Series]:
        """For each distribution: how many draws were accepted, and rejected for which reason, most first."""
        counts: dict[str, dict[str, int]] = {}
        for note in self.trials["note"]:
            if "rejected" in note:
                found = counts.setdefault(note["source"], {"accepted": 0})
                for reason, count in {"accepted": 1, **note["rejected"]}.items():
                    found[reason] = found.get(reason, 0) + count
        return {source: pd.Series(n).sort_values(ascending=False, kind="stable") for source, n in counts.items()}

    @property
    def codec(self) -> Mapping[str, Any]:
        """The trained codec's quality and filters; empty before there is one."""
        return self.results["codec"].get("trained", {})

    @cached_property
    def joint_losses(self) -> pd.DataFrame:
        """The joint training's losses: one column a part of Eq. 15, by iteration."""
        rows = self.epochs[self.epochs["phase"] == "codec"]
        rows = rows[rows["name"].str.startswith(f"{self.codec.get('identity')}/")]
        table = rows.assign(part=rows["name"].str.split("/").str[1]).pivot(index="epoch", columns="part", values="loss")
        return table.reindex(columns=["total", "decoder", "accuracy", "params"])

    def path(self, name: str) -> Mapping[str, Any]:
        """Return a descent: its "steps", and what else is known of it; empty if there was none of this name."""
        return self.results["path"].get(name, {})

    @cached_property
    def descents(self) -> list[Mapping[str, Any]]:
        """The descents of all rounds that the study has now, in their order."""
        numbers = product(range(self.config.rounds), range(self.config.starts))
        return [path for number, place in numbers if (path := self.path(f"round{number}-start{place}"))]

    @property
    def teacher(self) -> Mapping[str, Any] | None:
        """The reference teacher, with its test accuracy; None before the final training."""
        return self.results["teacher"].get("reference")

    @property
    def short_teacher(self) -> Mapping[str, Any] | None:
        """The teacher's trial, with the short training of every architecture."""
        rows = self.complete[self.complete["source"] == "teacher"].to_dict("records")
        return {str(name): value for name, value in rows[0].items()} if rows else None

    @property
    def student(self) -> Mapping[str, Any] | None:
        """The compressed network, with its test accuracy; None before."""
        return self.results["compressed"].get("student")

    @property
    def baselines(self) -> dict[str, Mapping[str, Any]]:
        """The baselines by name; one that found nothing is left out."""
        found = self.results["compared"]
        return {name: found[name] for name in BASELINES if found.get(name) and name in self.config.baseline_names}

    @property
    def widths(self) -> list[Mapping[str, Any]]:
        """Teachers that were uniformly narrowed to other sizes, the largest first."""
        wanted = {f"{times:g}" for times in self.config.width_times}
        found = [entry for times, entry in self.results["width"].items() if times in wanted]
        return sorted(found, key=lambda entry: -entry["params"])

    @property
    def guesses(self) -> str:
        """What must be said where the teacher hardly beats guessing; else empty (an older ledger has no chance)."""
        found, images = self.teacher or {}, self.test_images
        if "chance" not in found or images is None or not is_near_chance(found["accuracy"], found["chance"], images):
            return ""
        return near_chance("The teacher", found["accuracy"], found["chance"])

    def difference(self, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Difference:
        """Return by how much the test accuracy of one network after final training is above another's."""
        return Difference.of(mine["accuracy"], theirs["accuracy"], self.test_images)

    def items(self, trial: int) -> Items:
        """Return the sequence of a trial."""
        (note,) = self.trials.loc[self.trials["trial"] == trial, "note"]
        return items_of(note["sequence"])

    @property
    def status(self) -> str:
        """How far the study is, in words."""
        random = int(self.observed["source"].isin(("random", "around")).sum())
        decoded = int((self.observed["source"] == "descent").sum())
        text = f"{random} of {self.config.architectures} random architectures trained"
        text += f", {decoded} decoded ones" if decoded else ""
        if self.student is None:
            return f"{text}; no final result yet"
        missing = [name for name in self.config.baseline_names if name not in self.results["compared"]]
        if self.student.get("ended"):
            text += "; the search ended early, the same command goes on"
        return f"{text}; final training done" + (f"; baselines missing: {', '.join(missing)}" if missing else "")


def read_compression(study: str | Path) -> CompressionRecord:
    """Read a study by its name or its folder. Raises LedgerError where there is no ledger of such a study."""
    ledger = Ledger(ledger_path(study), read_only=True)
    if "architectures" not in ledger.config:
        raise LedgerError(f"{ledger.path.parent.name} is no Architecture Compression study: read it with report.read")
    results = {kind: ledger.results(kind) for kind in KINDS}
    trials = ledger.trials()
    notes = [json.loads(text) for text in trials["decisions"]]
    trials["note"] = pd.Series(notes, dtype=object)
    trials["source"] = [note["source"] for note in notes]
    trials["length"] = [len(note["sequence"]) for note in notes]
    config, folder = CompressionConfig.from_stored(ledger.config), ledger.path.resolve().parent
    return CompressionRecord(folder, config, trials, ledger.epochs(), results, read_environment(folder))


def items_of(rows: list[list[int]]) -> Items:
    """Return a sequence from its JSON."""
    return tuple(Item(*row) for row in rows)
