"""Random sampling against evolution as maximisers of expected improvement, on the same kernels (ESNAC §6.3, Table 6).

The kernels of a search are not kept. For every number n of observations that is asked for, kernels are learned on the
study's first n as its sampler would have learned them, and both maximisers score the same number of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from esnac_lib.architecture.graph import Architecture
from esnac_lib.report.figures import style
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.seeding import derive_seed, make_rng
from esnac_lib.space.decisions import Decisions
from esnac_lib.space.search_space import SearchSpace

MAXIMISERS = ("random sampling", "evolution")
PARENTS = 10  # of the best observed, from which evolution starts, as in the search
COLUMNS = {
    "observations": "int64", "kernel": "int64", "maximiser": "object", "log EI": "float64", "EI": "float64",
    "mean": "float64", "standard deviation": "float64", "best f": "float64",
}  # fmt: skip


def maximisers_table(record: StudyRecord, sizes: Sequence[int], kernels: int) -> pd.DataFrame:
    """Return what each maximiser reaches on the same kernels, one line for each of them.

    "best f" is that of the kernel's own observations, over which the improvement is counted.
    """
    teacher = record.search_teacher
    observed = record.observed[record.observed["f"].notna()]
    sizes = [size for size in sizes if size <= len(observed)]
    if teacher is None or teacher.architecture is None or not sizes:
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    space = SearchSpace(teacher.architecture, record.config.operator_names, sampling=record.config.sampling)
    lines = [line for size in sizes for line in _lines(space, record, observed.head(size), kernels)]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(COLUMNS)


def _lines(space: SearchSpace, record: StudyRecord, observed: pd.DataFrame, kernels: int) -> list[tuple]:
    from esnac_lib.space.candidates import Candidate, CandidateMaker
    from esnac_lib.surrogate.fitting import KernelSettings
    from esnac_lib.surrogate.kernel import choose_subset, learn_kernels
    from esnac_lib.surrogate.maximisers import maximise_by_evolution, maximise_by_sampling, scorer

    config, size = record.config, len(observed)
    settings = KernelSettings(objective=config.kernel_loss)
    known = [Candidate.of(space.teacher)]
    known += [Candidate.of(Architecture.from_json(text)) for text in observed["architecture"]]
    values = [0.0, *observed["f"]]
    rngs = [make_rng(config.seed, "maximisers-subset", size, k) for k in range(kernels)]
    subsets = [choose_subset(len(values), rng, settings.subset_probability) for rng in rngs]
    seeds = [derive_seed(config.seed, "maximisers-kernel", size, k) for k in range(kernels)]
    learned = learn_kernels([candidate.encode() for candidate in known], values, subsets, settings, seeds)
    best = observed.sort_values("f", ascending=False, kind="stable").head(PARENTS)
    start = [Decisions.from_json(text) for text in best["decisions"]]
    maker = CandidateMaker(space)
    lines = []
    for k, kernel in enumerate(learned):
        given = space, maker, scorer(kernel), known, config.candidates
        rng = [make_rng(config.seed, "maximisers", size, k, which) for which in range(2)]
        found = [maximise_by_sampling(*given, rng[0]), maximise_by_evolution(*given, rng[1], start=start)]
        for name, candidate in zip(MAXIMISERS, found, strict=True):
            if candidate is not None:
                deviation = float(np.sqrt(candidate.variance))
                reached = (candidate.log_ei, candidate.ei, candidate.mean, deviation, kernel.best)
                lines.append((size, k, name, *reached))
    return lines


@style.theme()
def maximisers_figure(table: pd.DataFrame) -> Figure:
    """Draw the expected improvement (EI) that evolution reaches against random sampling's; a point is a kernel."""
    figure = style.new_figure(6.2, 5.2)
    pairs = table.pivot(index=["observations", "kernel"], columns="maximiser", values="EI").dropna()
    if pairs.empty:
        return style.in_words(figure, "There are too few observations to learn kernels on.")
    axes = figure.add_subplot()
    numbers = pairs.index.get_level_values("observations").map("{} observations".format)
    look: dict[str, Any] = {"palette": [*style.SERIES[: numbers.nunique()]], "s": 40, "alpha": 0.8}
    sns.scatterplot(x=pairs[MAXIMISERS[0]].values, y=pairs[MAXIMISERS[1]].values, hue=numbers, ax=axes, **look)
    style.identity_line(axes, style.span(pairs.to_numpy().ravel(), 1e-3))
    higher = int((pairs[MAXIMISERS[1]] > pairs[MAXIMISERS[0]]).sum())
    title = f"evolution reaches the higher EI on {higher} of {len(pairs)} kernels"
    style.tidy(axes, xlabel="EI reached by random sampling", ylabel="EI reached by evolution", title=title)
    style.legend_above(figure, axes, 4)
    return figure
