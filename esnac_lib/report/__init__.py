"""From ledgers to tables beside the papers' and figures. Reads ledgers only; nothing else in the library imports it.

record = report.read("digits")
report.solution_table(record)
report.save(report.f_against_index(record), record, "f_against_index")
"""

from esnac_lib.report.beside import as_printed, beside_papers, other_studies, verdicts, write_report
from esnac_lib.report.claims import claim
from esnac_lib.report.embedding_map import embedding_map
from esnac_lib.report.graphs import student_graph
from esnac_lib.report.published import Published, published
from esnac_lib.report.read import Measured, StudyRecord, read
from esnac_lib.report.runs import read_runs
from esnac_lib.report.saving import save
from esnac_lib.report.search_figures import (
    accuracy_against_parameters,
    f_against_index,
    predicted_against_observed,
    search_f_against_final_f,
)
from esnac_lib.report.tables import failures_table, finalists_table, readable, seconds_table, solution_table
from esnac_lib.report.training_curves import training_curves

__all__ = [
    "Measured",
    "Published",
    "StudyRecord",
    "accuracy_against_parameters",
    "as_printed",
    "beside_papers",
    "claim",
    "embedding_map",
    "f_against_index",
    "failures_table",
    "finalists_table",
    "other_studies",
    "predicted_against_observed",
    "published",
    "read",
    "read_runs",
    "readable",
    "save",
    "search_f_against_final_f",
    "seconds_table",
    "solution_table",
    "student_graph",
    "training_curves",
    "verdicts",
    "write_report",
]
