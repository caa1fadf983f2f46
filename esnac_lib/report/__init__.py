"""From ledgers to tables and figures. Reads ledgers only; nothing else in the library imports it.

    record = report.read("digits")
    report.solution_table(record)
    report.save(report.f_against_index(record), record, "f_against_index")

Start with `records/study.py` (a study as it is read from its ledger); `tables/` and `figures/` are made of records,
`papers/` sets them beside the published results, `live/` shows a study that is running.
"""

from esnac_lib.report.figures.benchmarks import growth_figure, shares_figure
from esnac_lib.report.figures.coverage import coverage_figure, readable_census
from esnac_lib.report.figures.embedding_map import embedding_map
from esnac_lib.report.figures.n2n_stages import stages_figure
from esnac_lib.report.figures.samplers import proxy_figure, samplers_figure, sizes_figure
from esnac_lib.report.figures.search import (
    accuracy_against_parameters,
    f_against_index,
    predicted_against_observed,
    search_f_against_final_f,
)
from esnac_lib.report.figures.shufflenet import accuracy_against_size, sizes_claim, sizes_table
from esnac_lib.report.figures.student_graph import student_graph
from esnac_lib.report.figures.training_curves import training_curves
from esnac_lib.report.figures.transfer import kernels_table, transfer_figure
from esnac_lib.report.figures.variants import best_f, decisions_made
from esnac_lib.report.papers.comparison import as_printed, beside_papers, other_studies, verdicts, write_report
from esnac_lib.report.papers.published import Published, published
from esnac_lib.report.records.experiment import (
    ExperimentRecord,
    decisions_table,
    read_experiment,
    read_studies,
    variants_table,
)
from esnac_lib.report.records.runs import read_runs
from esnac_lib.report.records.study import Measured, StudyRecord, read
from esnac_lib.report.saving import save
from esnac_lib.report.tables.claims import claim, ranking
from esnac_lib.report.tables.marginal import marginal_table
from esnac_lib.report.tables.maximisers import maximisers_figure, maximisers_table
from esnac_lib.report.tables.samplers import (
    comparison_table,
    draws_table,
    label_of,
    margins_table,
    proxy_table,
    read_proxy,
    without_a_search_table,
    write_summary,
)
from esnac_lib.report.tables.study import failures_table, finalists_table, readable, seconds_table, solution_table

__all__ = [
    "ExperimentRecord",
    "Measured",
    "Published",
    "StudyRecord",
    "accuracy_against_parameters",
    "accuracy_against_size",
    "as_printed",
    "beside_papers",
    "best_f",
    "claim",
    "comparison_table",
    "coverage_figure",
    "decisions_made",
    "decisions_table",
    "draws_table",
    "embedding_map",
    "f_against_index",
    "failures_table",
    "finalists_table",
    "growth_figure",
    "kernels_table",
    "label_of",
    "marginal_table",
    "margins_table",
    "maximisers_figure",
    "maximisers_table",
    "other_studies",
    "predicted_against_observed",
    "proxy_figure",
    "proxy_table",
    "published",
    "ranking",
    "read",
    "read_experiment",
    "read_proxy",
    "read_runs",
    "read_studies",
    "readable",
    "readable_census",
    "samplers_figure",
    "save",
    "search_f_against_final_f",
    "seconds_table",
    "shares_figure",
    "sizes_claim",
    "sizes_figure",
    "sizes_table",
    "solution_table",
    "stages_figure",
    "student_graph",
    "training_curves",
    "transfer_figure",
    "variants_table",
    "verdicts",
    "without_a_search_table",
    "write_report",
    "write_summary",
]
