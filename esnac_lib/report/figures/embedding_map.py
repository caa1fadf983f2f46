"""The learned embedding of all evaluated architectures, in two dimensions.

The kernels of a search are not kept: each serves one step and learns on a subset of the observations (ESNAC §3.3). The
map learns one more in the same way, on all of them.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from esnac_lib.architecture.encoding import MAX_EDGE, encode
from esnac_lib.architecture.graph import Architecture
from esnac_lib.report.figures import style
from esnac_lib.report.records.study import StudyRecord
from esnac_lib.seeding import make_generator


@style.theme()
def embedding_map(record: StudyRecord) -> Figure:
    """Draw the architectures by the first two principal components of their embeddings, coloured by search f."""
    figure = style.new_figure(7.4, 5.4)
    observed = record.observed[record.observed["f"].notna()]
    teacher = record.search_teacher
    if observed.empty or teacher is None or teacher.architecture is None:
        return style.in_words(figure, "There is no evaluated architecture to embed yet.")
    architectures = [teacher.architecture, *map(Architecture.from_json, observed["architecture"])]
    f = np.array([0.0, *observed["f"]])
    components = PCA(2, svd_solver="full")
    places = components.fit_transform(embed(architectures, f, record.config.kernel_loss, record.config.seed))
    explained = components.explained_variance_ratio_
    axes = figure.add_subplot()
    complete = (observed["state"] == "complete").to_numpy()
    order = 1 + np.flatnonzero(complete)[np.argsort(f[1:][complete], kind="stable")]  # the best on top
    x, y = places.T
    points = axes.scatter(x[order], y[order], c=f[order], cmap=style.F_COLOURS, s=38, label="architecture")
    if not complete.all():
        axes.plot(x[1:][~complete], y[1:][~complete], "x", color=style.GREY, markersize=6, label="failed (f = 0)")
    axes.plot(x[0], y[0], **style.TEACHER, label="teacher (f = 0)")
    student = record.student
    if student is not None:
        at = 1 + list(observed["trial"]).index(student.trial)
        name = "solution" if record.solution is not None else "best f of the search"
        axes.plot(x[at], y[at], **style.SOLUTION, label=name)
    style.tidy(
        axes,
        xlabel=f"first principal component ({explained[0]:.1%} of the variance)",
        ylabel=f"second principal component ({explained[1]:.1%})",
        title=f"Embeddings of {len(observed)} architectures by one kernel ({record.config.kernel_loss} loss)",
    )
    axes.margins(0.08)
    if complete.any():
        figure.colorbar(points, ax=axes, label="objective f (search)", pad=0.01)
    style.legend_above(figure, axes, 4)
    return figure


def embed(architectures: list[Architecture], f: np.ndarray, objective: str, seed: int) -> np.ndarray:
    """Return embeddings (n, 128) by one kernel that is learned on all of the architectures; the same each time."""
    from esnac_lib.surrogate.fitting import KernelSettings  # imports PyTorch, which no other report needs
    from esnac_lib.surrogate.kernel import learn_kernel

    longest = max(max((j - i for i, j in _canonical_edges(a)), default=1) for a in architectures)
    settings = KernelSettings(objective=objective, max_edge=max(MAX_EDGE, longest))
    encodings = [encode(architecture, settings.max_edge) for architecture in architectures]
    kernel = learn_kernel(encodings, f, settings, make_generator(seed, "embedding-map"))
    return kernel.embed(encodings).double().numpy()


def _canonical_edges(architecture: Architecture) -> list[tuple[int, int]]:
    place = {layer: position for position, layer in enumerate(architecture.canonical_order)}
    return [(place[i], place[j]) for i, j in architecture.edges()]
