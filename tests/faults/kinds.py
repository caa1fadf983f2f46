"""The faults, kind by kind: what is done to a study, how often, and what it must say."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esnac_lib.architecture.graph import Architecture
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.training import evaluator

from .moments import FILES, FINAL, LEDGER, MOMENTS, SEARCH, TEACHER, Moment, pick
from .study import FINISHED, REFUSED, Injection, Place
from .workshop import Tally, Workshop

Work = Callable[[Workshop, Tally, int], None]


@dataclass(frozen=True)
class Kind:
    """A kind of fault. short, long: tries in the two forms of the harness."""

    name: str
    work: Work
    short: int
    long: int


class Skip(Exception):
    """This machine cannot show that fault."""


# -- kills -------------------------------------------------------------------------------------------------------------


def killed(moment: str) -> Work:
    """At a moment of this kind."""

    def work(workshop: Workshop, tally: Tally, tries: int) -> None:
        # the moments were counted in a study that trained its teachers
        trained = moment not in (TEACHER, LEDGER, FILES)
        for n in range(tries):
            for again in range(5):  # a strike a little after the last moment of all may come too late
                place = workshop.fresh(teachers=trained)
                end = place.run(pick(moment, workshop.moments[moment], workshop.rng(moment, n, again)).kill)
                if end.status == -signal.SIGKILL:
                    break
            else:
                tally.faults.append(f"{place.folder.name}: it was never killed")
            workshop.check(tally, place, [end])

    return work


def killed_again_and_again(workshop: Workshop, tally: Tally, tries: int) -> None:
    """From outside, after random times, up to three times in a row."""
    for n in range(tries):
        rng = workshop.rng("any time", n)
        place, ends = workshop.fresh(teachers=bool(n % 2)), []
        for _ in range(3):
            pid = place.start()
            time.sleep(float(rng.uniform(0, 0.8 * workshop.seconds)))
            os.kill(pid, signal.SIGKILL)
            ends.append(place.wait(pid))
        workshop.check(tally, place, ends)


def interrupted(workshop: Workshop, tally: Tally, tries: int) -> None:
    """Ctrl-C after random times: one line, and the ledger is closed."""
    for n in range(tries):
        place = workshop.fresh(teachers=bool(n % 2))
        pid = place.start()
        time.sleep(float(workshop.rng("interrupt", n).uniform(0.1, 0.8)) * workshop.seconds)
        os.kill(pid, signal.SIGINT)
        end = place.wait(pid)
        if place.ledger_path.with_name("ledger.sqlite-wal").exists():
            tally.faults.append("the interrupted study left its ledger's log open")
        said = (lambda text: "the same command goes on" in text) if end.status != FINISHED else None
        workshop.check(tally, place, [end], says=said)


# -- the disk ----------------------------------------------------------------------------------------------------------


def files_too_large(workshop: Workshop, tally: Tally, tries: int) -> None:
    """No file may grow beyond a size: the first write beyond it fails, be it the ledger's, a checkpoint's, weights'."""
    for n in range(tries):
        size = int(4096 * workshop.rng("size", n).uniform(1, 100))
        place = workshop.fresh(teachers=bool(n % 2))

        def inject(size: int = size) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        end = place.run(inject)
        workshop.check(tally, place, [end], says=None if end.status == FINISHED else lambda text: "room" in text)


def disk_full(workshop: Workshop, tally: Tally, tries: int) -> None:
    """A disk of its own that is nearly full, in a namespace that vanishes with the process."""
    for n in range(tries):
        room = int(1e3 * workshop.rng("room", n).uniform(20, 900))
        place = workshop.fresh()
        here, there = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(there, _on_a_small_disk(workshop, place, room).encode())
            except BaseException as error:
                os.write(there, "\0".join(["0", "0", "0", "", f"the harness failed: {error!r}"]).encode())
            finally:
                os._exit(0)
        os.close(there)
        with os.fdopen(here) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        if text.startswith("skip: "):
            raise Skip(text.removeprefix("skip: "))
        survived, lost, different, message, fault = text.split("\0") if text else ("0", "0", "0", "", "it died")
        tally.tried += 1
        tally.survived += int(survived)
        tally.lost_trials += int(lost)
        tally.different_from_uninterrupted += int(different)
        tally.messages.update([message] if message else [])
        tally.faults += [fault] if fault else []


def _on_a_small_disk(workshop: Workshop, place: Place, room: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts = 0x10000000, 0x00020000
    flags = new_mounts if os.geteuid() == 0 else new_mounts | new_user
    options = b"size=8m"
    if libc.unshare(flags) or libc.mount(b"none", b"/", None, 0x44000, None):  # private, recursively
        return f"skip: no namespace for a small disk ({os.strerror(ctypes.get_errno())})"
    disk = workshop.folder / "disk"
    disk.mkdir(exist_ok=True)
    if libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, options):
        return f"skip: a small disk cannot be mounted ({os.strerror(ctypes.get_errno())})"
    small = Place(disk / "outputs")
    shutil.copytree(place.folder, small.folder)
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(max(0, free - room)))
    end = small.run()
    ballast.unlink()
    tally = Tally()
    workshop.check(tally, small, [end], says=None if end.status == FINISHED else lambda text: "room" in text)
    message = next(iter(tally.messages), "")
    parts = (tally.survived, tally.lost_trials, tally.different_from_uninterrupted, message, "; ".join(tally.faults))
    return "\0".join(map(str, parts))


# -- students ----------------------------------------------------------------------------------------------------------


def student_that(name: str, **parameters: Any) -> Work:
    """One student of the search, the second, is faulty whenever it is trained; the study is also killed."""

    def work(workshop: Workshop, tally: Tally, tries: int) -> None:
        victim = str(workshop.reference.trials()["arch_id"][1])
        inject = spoil(victim, FAULTS[name])
        expected = workshop.alone(name, inject, **parameters)
        for n in range(tries):
            place = workshop.fresh(**parameters)
            moment = pick(MOMENTS[n % len(MOMENTS)], 40, workshop.rng(name, n))

            def both(inject: Injection = inject, moment: Any = moment) -> None:
                inject()
                moment.kill()

            end = place.run(both)
            workshop.check(tally, place, [end], inject, expected)
        [row] = [row for row in json.loads(expected["trials"]) if row["arch_id"] == victim]
        if row["state"] != "failed":
            tally.faults.append(f"a student that {name} was recorded as {row['state']}")
        tally.messages[f"trial failed, f {row['f']}: {row['error']}"] += tries

    return work


def student_that_once(name: str, **parameters: Any) -> Work:
    """A fault of the machine that passes: the student is tried again, and nothing is different from no fault at all."""

    def work(workshop: Workshop, tally: Tally, tries: int) -> None:
        for n in range(tries):
            victim = str(workshop.reference.trials()["arch_id"][n % 4])
            place = workshop.fresh(**parameters)
            workshop.check(tally, place, [place.run(spoil(victim, FAULTS[name], times=1))])

    return work


def spoil(arch_id: str, fault: Callable[[torch.Tensor], torch.Tensor], times: int = 10**9) -> Injection:
    """An injection: the student of this architecture meets the fault when it is trained, the first so many times."""

    def inject() -> None:
        real, met = evaluator.build, [0]

        def build(architecture: Architecture, weights: Any) -> Any:
            network = real(architecture, weights)
            if architecture.arch_id == arch_id and met[0] < times:
                met[0] += 1
                forward = network.forward
                network.forward = lambda x: fault(forward(x))
            return network

        evaluator.build = build

    return inject


def _diverge(logits: torch.Tensor) -> torch.Tensor:
    return logits * float("nan")


def _run_out_of_memory(logits: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory, as if")


def _raise(logits: torch.Tensor) -> torch.Tensor:
    raise ValueError("something unforeseen\nin two lines")


def _hang(logits: torch.Tensor) -> torch.Tensor:
    while True:
        time.sleep(0.1)


FAULTS = {"diverges": _diverge, "runs out of memory": _run_out_of_memory, "raises": _raise, "hangs": _hang}
LIMIT = {"student_minutes": 0.1}


# -- two at once -------------------------------------------------------------------------------------------------------


def started_twice(workshop: Workshop, tally: Tally, tries: int) -> None:
    """Two processes on one study, at the same moment or a little apart: one works, the other is refused."""
    for n in range(tries):
        place = workshop.fresh(teachers=bool(n % 2))
        first = place.start()
        time.sleep(float(workshop.rng("twice", n).uniform(0, 0.3)) * workshop.seconds * (n % 3 > 0))
        second = place.start()
        ends = [place.wait(first), place.wait(second)]
        statuses = sorted(end.status for end in ends)
        if statuses not in ([FINISHED, REFUSED], [FINISHED, FINISHED]):
            tally.faults.append(f"two at once ended with {statuses}: {[end.message for end in ends]}")
        said = (lambda text: "is being written by process" in text) if REFUSED in statuses else None
        workshop.check(tally, place, ends, says=said)


# -- damaged files -----------------------------------------------------------------------------------------------------


def ledger_damaged(how: str) -> Work:
    """The ledger of a study that was stopped half-way. It is refused and left as it is; then it is restored."""

    def work(workshop: Workshop, tally: Tally, tries: int) -> None:
        for n in range(tries):
            place = _at_rest(workshop)
            rng, whole = workshop.rng(f"ledger {how}", n), place.ledger_path.read_bytes()
            damaged = bytearray(whole)
            if how == "cut":
                del damaged[int(rng.integers(0, len(whole))) :]
            else:
                at = int(rng.integers(0, len(whole) - 64))
                damaged[at : at + 64] = rng.bytes(64) if n % 2 else bytes(b ^ 1 for b in damaged[at : at + 64])
            place.ledger_path.write_bytes(damaged)
            end = place.run()
            if end.status != FINISHED:
                if place.ledger_path.read_bytes() != damaged:
                    tally.faults.append(f"{place.folder.name}: a damaged ledger was changed")
                place.ledger_path.write_bytes(whole)
            workshop.check(tally, place, [end])

    return work


def log_damaged(workshop: Workshop, tally: Tally, tries: int) -> None:
    """The log next to the ledger of a killed study is damaged: what it held is done again, with the same result."""
    for n in range(tries):
        place = workshop.half_done()
        rng, log = workshop.rng("log", n), place.ledger_path.with_name("ledger.sqlite-wal")
        damaged = bytearray(log.read_bytes())
        at = int(rng.integers(0, len(damaged)))
        if n % 2:
            del damaged[at:]
        else:
            damaged[at : at + 64] = rng.bytes(len(damaged[at : at + 64]))
        log.write_bytes(damaged)
        place.folder.joinpath("journal").unlink()  # what stood there is gone; what counts is the end
        workshop.check(tally, place, [])


def _at_rest(workshop: Workshop) -> Place:
    place = workshop.half_done()
    with Ledger.start(place.ledger_path, {}):
        pass
    return place


def checkpoint_damaged(workshop: Workshop, tally: Tally, tries: int) -> None:
    """A checkpoint that was cut or overwritten is left aside, and the training begins anew."""
    for n in range(tries):
        rng, place = workshop.rng("checkpoint", n), workshop.fresh()
        kind = (SEARCH, FINAL)[n % 2]
        place.run(Moment(kind, workshop.moments[kind] // (2 if kind == FINAL else 4) + 4).kill)
        files = sorted(place.folder.glob("tiny/students/checkpoint*/*.safetensors"))
        for path in files:
            data = bytearray(path.read_bytes())
            at = int(rng.integers(0, len(data)))
            if n % 4 < 2:
                del data[at:]
            else:
                data[at : at + 64] = rng.bytes(len(data[at : at + 64]))
            path.write_bytes(data)
        workshop.check(tally, place, [])


# -- workers -----------------------------------------------------------------------------------------------------------


ATTEMPTS = 4


def ray_worker_killed(workshop: Workshop, tally: Tally, tries: int) -> None:
    """A worker of the Ray evaluator dies in the middle of a training. Half of the studies go on without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise Skip("Ray, an optional extra, is not installed")
    for n in range(tries):
        epoch = int(workshop.rng("Ray", n).integers(1, 4))  # of the 8 of the search: in the first of its two steps
        for _ in range(ATTEMPTS):  # an epoch can arrive when its worker has finished: then nobody was there to kill
            place = workshop.fresh(evaluator="ray")
            end = place.run(partial(_kill_a_worker_at, place, epoch))
            if end.status == REFUSED and "Ray could not be started" in end.message:
                raise Skip(end.message)
            if end.status != FINISHED or (place.folder / "struck").exists():
                break
        else:
            tally.faults.append(f"{place.folder.name}: no worker was killed")
        if n % 2:
            place.parameters["evaluator"] = "local"
        workshop.check(tally, place, [end])


def _kill_a_worker_at(place: Place, epoch: int) -> None:
    """An injection: at the so-manyth epoch of the search a worker of this process' Ray that trains a student dies."""
    real, met = Ledger.epoch, [0]

    def telling(ledger: Ledger, phase: str, *values: Any) -> None:
        real(ledger, phase, *values)
        met[0] += phase == "search"
        if met[0] >= epoch and phase == "search" and not (place.folder / "struck").exists():
            for worker in _workers(os.getpid()):
                os.kill(worker, signal.SIGKILL)
                (place.folder / "struck").touch()
                return

    Ledger.epoch = telling  # type: ignore[method-assign]


def _workers(driver: int) -> list[int]:
    """The processes below this one that train a student for Ray."""
    parents, titles = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_bytes()

    def above(pid: int) -> Iterator[int]:
        while pid := parents.get(pid, 0):
            yield pid

    return [pid for pid in parents if titles.get(pid, b"").startswith(b"ray::_train_student") and driver in above(pid)]


def all_kinds() -> list[Kind]:
    """Every kind of fault, in the order of the report."""
    kinds = [Kind(f"killed {moment}", killed(moment), 2, 8) for moment in MOMENTS]
    return [
        *kinds,
        Kind("killed at any time, three times", killed_again_and_again, 1, 8),
        Kind("interrupted at any time", interrupted, 2, 10),
        Kind("disk full", disk_full, 2, 12),
        Kind("a file may not grow", files_too_large, 2, 12),
        Kind("a student diverges", student_that("diverges"), 1, 4),
        Kind("a student runs out of memory", student_that("runs out of memory"), 1, 4),
        Kind("a student runs out of memory once", student_that_once("runs out of memory"), 1, 4),
        Kind("a student raises", student_that("raises"), 1, 4),
        Kind("a student hangs", student_that("hangs", **LIMIT), 0, 2),
        Kind("a student hangs once", student_that_once("hangs", **LIMIT), 1, 4),
        Kind("started twice at once", started_twice, 2, 10),
        Kind("ledger cut", ledger_damaged("cut"), 2, 12),
        Kind("ledger overwritten", ledger_damaged("overwritten"), 4, 40),
        Kind("log of a killed study damaged", log_damaged, 2, 12),
        Kind("checkpoint damaged", checkpoint_damaged, 2, 8),
        Kind("a Ray worker killed", ray_worker_killed, 0, 4),
    ]
