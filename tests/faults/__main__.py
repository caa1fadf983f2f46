"""The harness as a command: `python -m tests.faults [--short] [--out FOLDER] [--only WORDS]`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded: a process with threads cannot be forked
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .kinds import Skip, all_kinds
from .on_cuda import compare_on_cuda
from .report import write_report
from .watching import watch
from .workshop import Tally, Workshop


def main() -> int:
    """Try every kind of fault; 0 if the study survived them all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few of each kind, as in make test")
    parser.add_argument("--out", type=Path, help="folder for summary.json and report.md")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damage")
    arguments = parser.parse_args()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        workshop = Workshop(Path(folder), arguments.seed)
        print(f"a study that is left alone takes {workshop.seconds:.1f} s", flush=True)
        for kind in all_kinds():
            tries = kind.short if arguments.short else kind.long
            if not tries or arguments.only not in kind.name:
                continue
            tally = tallies[kind.name] = Tally()
            began = time.monotonic()
            try:
                kind.work(workshop, tally, tries)
            except Skip as reason:
                tally.skipped = str(reason)
            tally.seconds = time.monotonic() - began
            print(f"{kind.name}: {tally.skipped or f'{tally.survived} of {tally.tried} survived'}", flush=True)
            for fault in tally.faults:
                print(f"  {fault}", flush=True)
        watching, cuda = None, None
        if not arguments.short and not arguments.only:
            watching, cuda = watch(workshop), compare_on_cuda(workshop)
            print(f"watching: {watching['ratio']}; on CUDA: {cuda}", flush=True)
    if arguments.out is not None:
        write_report(arguments.out, tallies, arguments.seed, watching, cuda)
    return int(any(tally.faults or tally.survived < tally.tried for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
