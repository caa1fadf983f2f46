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
    axes, (x, y) = figure.add_subplot(), places.T
    complete = (observed["state"] == "complete").to_numpy()
    order = 1 + np.flatnonzero(complete)[np.argsort(f[1:][complete], kind="stable")]  # the best on top
    points = axes.scatter(x[order], y[order], c=f[order], cmap=style.F_COLOURS, s=38, label="architecture")
    if not complete.all():
        axes.plot(x[1:][~complete], y[1:][~complete], "x", color=style.GREY, markersize=6, label="failed (f = 0)")
    axes.plot(x[0], y[0], **style.TEACHER, label="teacher (f = 0)")
    if record.student is not None:
        at = 1 + list(observed["trial"]).index(record.student.trial)
        name = "solution" if record.solution is not None else "best f of the search"
        axes.plot(x[at], y[at], **style.SOLUTION, label=name)
    first, second = components.explained_variance_ratio_
    xlabel = f"first principal component ({first:.1%} of the variance)"
    title = f"Embeddings of {len(observed)} architectures by one kernel ({record.config.kernel_loss} loss)"
    style.tidy(axes, xlabel=xlabel, ylabel=f"second principal component ({second:.1%})", title=title)
    axes.margins(0.08)
    if complete.any():
        figure.colorbar(points, ax=axes, label="objective f (search)", pad=0.01)
    return style.legend_above(figure, axes, 4)


def embed(architectures: list[Architecture], f: np.ndarray, objective: str, seed: int) -> np.ndarray:
    """Return embeddings (n, 128) by one kernel that is learned on all of the architectures; the same each time."""
    from esnac_lib.surrogate.fitting import KernelSettings  # imports PyTorch, which no other report needs
    from esnac_lib.surrogate.kernel import learn_kernel

    longest = max(_longest_edge(architecture) for architecture in architectures)
    settings = KernelSettings(objective=objective, max_edge=max(MAX_EDGE, longest))
    encodings = [encode(architecture, settings.max_edge) for architecture in architectures]
    kernel = learn_kernel(encodings, f, settings, make_generator(seed, "embedding-map"))
    return kernel.embed(encodings).double().numpy()


def _longest_edge(architecture: Architecture) -> int:
    place = {layer: position for position, layer in enumerate(architecture.canonical_order)}
    return max((place[j] - place[i] for i, j in architecture.edges()), default=1)
