"""The tables of an Architecture Compression study, and its claim in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any, Final

import pandas as pd

from esnac_lib.latent_descent.sequence import ACTIVATIONS, BATCH_NORM, CONV, DROPOUT, KINDS, LINEAR, POOLS, Item, Items
from esnac_lib.report.papers.published import published
from esnac_lib.report.records.latent_descent import SOURCES, CompressionRecord, items_of
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.report.statistics import Difference
from esnac_lib.report.tables.formatting import headline

NAMES = {
    "random": "best random architecture of that size",
    "narrowed": "teacher uniformly narrowed",
    "fitnet": "FitNet",
    "pruning": "pruning (Molchanov et al.)",
    "n2n": "N2N",
}
SOURCE_NAMES = {"random": "random (Section 9)", "around": "around the teacher", "descent": "decoded by the descent"}
RESULT_COLUMNS = {
    "network": "object", "accuracy [%]": "float64", "change [points]": "float64", "change [points] ±": "float64",
    "parameters": "Int64", "compression (×)": "float64", "MACs": "Int64", "f": "float64", "note": "object",
}  # fmt: skip


def compression_claim(record: CompressionRecord) -> str:
    """Return the result in Markdown; for a study that has none yet, how far it is."""
    teacher, student = record.teacher, record.student
    if teacher is None or student is None:
        return f"**No result yet.** {record.status}."
    change = record.difference(student, teacher)
    text = (
        f"Gradient descent in the embedding found a network with {student['times']:.2f} times fewer parameters than "
        f"{record.config.teacher} ({student['params']:,} instead of {teacher['params']:,}) and {change.amount} "
        f"{'more' if change.points >= 0 else 'less'} test accuracy{change.caveat} ({student['accuracy']:.2%} instead "
        f"of {teacher['accuracy']:.2%})."
    )
    text = headline(text, record.guesses) + (" It is not final." if student.get("ended") else "")
    for name, entry in record.baselines.items():
        text += f" {NAMES[name][0].upper()}{NAMES[name][1:]}: "
        if entry["arch_id"] == student["arch_id"]:
            text += "it is the same network."
            continue
        ahead = record.difference(student, entry)
        text += (
            f"{entry['accuracy']:.2%} with {entry['params']:,} parameters, "
            f"{'behind' if ahead.points >= 0 else 'ahead of'} it by {ahead.amount}{ahead.caveat}."
        )
    if (printed := published(record.config.study_config)) is not None:
        text += f" Published: {printed.claim}"
    return f"{text} One run, seed {record.config.seed}; {record.status}."


def compression_table(record: CompressionRecord, *others: StudyRecord) -> pd.DataFrame:
    """Return a table of teacher, student, baselines, other studies' solutions with the same teacher, published row.

    Test accuracies after the last epoch of the same final training; f and changes are against our own teacher, the ± of
    a change is its 95 % noise band. What is the same network as the student has no line of its own.
    """
    teacher, student = record.teacher, record.student
    rows: list[tuple[Any, ...]] = []
    if teacher is not None:
        rows.append(_row(f"teacher {record.config.teacher}", {**teacher, "f": 0.0}, teacher, Difference(0.0), ""))
    if teacher is not None and student is not None:
        same = [NAMES[name] for name, e in record.baselines.items() if e["arch_id"] == student["arch_id"]]
        note = "; ".join([f"trial {student['trial']}", *(f"it is the {name}" for name in same)])
        lines = [("Architecture Compression", student, note)]
        notes = {
            "pruning": lambda e: f"best of {e['runs']}; stopped by {e['stopped']}",
            "n2n": lambda e: f"nearest in size of {e['evaluations']} evaluated",
            "random": lambda e: f"trial {e['trial']}",
        }
        for name, entry in record.baselines.items():
            if entry["arch_id"] != student["arch_id"]:
                lines.append((NAMES[name], entry, notes.get(name, lambda e: "")(entry)))
        lines += [(NAMES["narrowed"], entry, "another size") for entry in record.widths]
        rows += [_row(name, e, teacher, record.difference(e, teacher), note) for name, e, note in lines]
    rows += [row for other in others for row in _other_rows(other)]
    if (printed := published(record.config.study_config)) is not None:
        note = f"from a teacher of {printed.teacher_accuracy:.2f} %; {printed.note}{printed.change.note}"
        numbers = printed.accuracy, *printed.change, round(printed.params), printed.times
        rows.append((f"published: {printed.label}", *numbers, None, None, note))
    return pd.DataFrame(rows, columns=list(RESULT_COLUMNS), dtype=object).astype(RESULT_COLUMNS)


def _row(
    name: str, entry: Mapping[str, Any], teacher: Mapping[str, Any], change: Difference, note: str
) -> tuple[Any, ...]:
    sizes = entry["params"], teacher["params"] / entry["params"], entry["macs"]
    note = (note + change.note).removeprefix("; ")
    return name, 100 * entry["accuracy"], *change, *sizes, entry["f"], note


def _other_rows(other: StudyRecord) -> list[tuple[Any, ...]]:
    teacher, rows = other.reference_teacher, []
    narrowed = None if other.narrowed_is_solution else other.narrowed
    for name, found in ((other.name, other.solution), (f"teacher narrowed to {other.name}'s size", narrowed)):
        if found is not None and teacher is not None:
            note = f"study {other.config.study}, {len(other.observed)} evaluated"
            rows.append(_row(name, vars(found), vars(teacher), found.minus(teacher), note))
    return rows


def rejections_table(record: CompressionRecord) -> pd.DataFrame:
    """Return how many draws of each distribution were accepted, or rejected for which reason."""
    rows = []
    for source, counts in sorted(record.rejections.items(), key=lambda pair: SOURCES.index(pair[0])):
        for reason, count in counts.items():
            rows.append((SOURCE_NAMES[source], reason, int(count), 100 * count / counts.sum()))
    return pd.DataFrame(rows, columns=["distribution", "outcome", "draws", "share [%]"])


def codec_table(record: CompressionRecord) -> pd.DataFrame:
    """Return the codec's quality on held-out architectures, by distribution, and on those that it was trained on."""
    held_out = record.codec.get("held_out_by_source", {})
    parts = {f"held out, {SOURCE_NAMES[source]}": part for source, part in held_out.items()}
    parts |= {"held out, all": record.codec.get("held_out", {}), "trained on": record.codec.get("trained", {})}
    rows = []
    for name, part in ((name, part) for name, part in parts.items() if part):
        decoded, accuracy, params = part["reconstruction"], part["accuracy_regressor"], part["params_regressor"]
        rows.append(
            {
                "architectures": name,
                "number": decoded["sequences"],
                "layers exact [%]": _percent(decoded["layers_exact"]),
                "types right [%]": _percent(decoded["types"]),
                "widths within a tenth [%]": _percent(decoded["widths_near"]),
                "accuracy: rank correlation": accuracy["rank_correlation"],
                "accuracy: error [points]": _percent(accuracy["mean_absolute_error"]),
                "of the mean [points]": _percent(accuracy["baseline_error"]),
                "parameters: rank correlation": params["rank_correlation"],
                "parameters: error": params["mean_absolute_error"],
                "of a linear fit": params["baseline_error"],
            }
        )
    return pd.DataFrame(rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def patterns_table(record: CompressionRecord) -> pd.DataFrame:
    """Return the share of trained and decoded networks that show each pattern of Section 5.3."""
    groups: dict[str, list[Items]] = {SOURCE_NAMES[source]: [] for source in ("random", "around")}
    for note in record.observed["note"]:
        if note["source"] in ("random", "around"):
            groups[SOURCE_NAMES[note["source"]]].append(items_of(note["sequence"]))
    groups["decoded along the descent"] = _decoded(record.descents)
    groups["decoded, L = 0.1 L_a + L_p"] = _decoded([record.path("analysis")])
    rows = []
    for name, sequences in groups.items():
        if sequences:
            found = [patterns_of(items) for items in sequences]
            shares = {pattern: 100 * sum(bool(one[pattern]) for one in found) / len(found) for pattern in PATTERNS}
            free = 100 * sum(map(parameter_free, sequences)) / len(sequences)
            layers = sum(map(len, sequences)) / len(sequences)
            row = {"networks": name, "different": len(found), "layers": layers, "layers without parameters [%]": free}
            rows.append(row | {f"{pattern} [%]": share for pattern, share in shares.items()})
    return pd.DataFrame(rows)


def _decoded(paths: Sequence[Mapping[str, Any]]) -> list[Items]:
    """Return the different networks on some descents."""
    steps = [step for path in paths for step in path.get("steps", [])]
    return list({step["arch_id"]: items_of(step["items"]) for step in steps if step["items"] is not None}.values())


def layers_table(**sequences: Sequence[Item]) -> pd.DataFrame:
    """Return sequences side by side, one layer per row: "conv 3×3, 64, stride 1, padding 1"."""
    rows = list(zip_longest(*(map(layer_text, items) for items in sequences.values()), fillvalue=""))
    names = [name.replace("_", " ") for name in sequences]
    return pd.DataFrame(rows, columns=names, index=pd.RangeIndex(1, len(rows) + 1, name="layer"))


def layer_text(item: Item) -> str:
    """Return a layer in words.

    >>> layer_text(Item(CONV, 3, 64, 1, 1))
    'conv 3×3, 64, stride 1, padding 1'
    """
    name = KINDS[item.t].replace("_", " ")
    if item.t == CONV:
        return f"{name} {item.k}×{item.k}, {item.o}, stride {item.s}, padding {item.p}"
    if item.t in POOLS:
        return f"{name} {item.k}×{item.k}, stride {item.s}" + (f", padding {item.p}" if item.p else "")
    return f"{name} {item.o}" if item.t == LINEAR else f"{name} {item.p / 10:g}" if item.t == DROPOUT else name


PATTERNS: Final = (
    "batch norm before the first convolution",
    "activations in a row",
    "batch norms in a row",
    "pools with kernel and stride 1",
    "dropouts of probability 0",
    "convolutions with a stride",
)


def patterns_of(items: Sequence[Item]) -> dict[str, int]:
    """Return how often each of `PATTERNS` occurs in a sequence (the first: 0 or 1).

    >>> relu, norm, conv = Item(4, 0, 1, 0, 0), Item(3, 0, 1, 0, 0), Item(1, 3, 8, 2, 1)
    >>> list(patterns_of([norm, norm, conv, relu, relu, Item(8, 0, 10, 0, 0)]).values())
    [1, 1, 1, 0, 0, 1]
    """
    types = [item.t for item in items]
    first, pairs = types.index(CONV) if CONV in types else len(types), list(pairwise(types))
    counts = (
        int(BATCH_NORM in types[:first]),
        sum(a in ACTIVATIONS and b in ACTIVATIONS for a, b in pairs),
        sum(a == b == BATCH_NORM for a, b in pairs),
        sum(item.t in POOLS and item.k == item.s == 1 for item in items),
        sum(item.t == DROPOUT and item.p == 0 for item in items),
        sum(item.t == CONV and item.s > 1 for item in items),
    )
    return dict(zip(PATTERNS, counts, strict=True))


def parameter_free(items: Sequence[Item]) -> float:
    """Return the share of layers that have no parameters."""
    return sum(item.t not in (CONV, LINEAR, BATCH_NORM) for item in items) / len(items)
