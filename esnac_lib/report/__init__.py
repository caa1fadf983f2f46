"""From ledgers to tables and figures. Reads ledgers only; nothing else in the library imports it.

    record = report.read("digits")
    report.solution_table(record)
    report.save(report.f_against_index(record), record, "f_against_index")

Start with `records/study.py` (a study as it is read from its ledger); `tables/` and `figures/` are made from records,
`papers/` compares them with the published results, `live/` shows a study that is running. `latent_descent` is the same
face for studies of the second paper.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules={"latent_descent", "live"},
    submod_attrs={
        "records.study": ["Measured", "StudyRecord", "read"],
        "records.experiment": [
            "ExperimentRecord", "decisions_table", "read_experiment", "read_studies", "variants_table",
        ],
        "records.runs": ["read_runs"],
        "saving": ["save"],
        "tables.claims": ["claim", "ranking"],
        "tables.formatting": ["readable"],
        "tables.marginal": ["marginal_table"],
        "tables.maximisers": ["maximisers_figure", "maximisers_table"],
        "tables.samplers": [
            "comparison_table", "draws_table", "label_of", "margins_table", "proxy_table", "read_proxy",
            "without_a_search_table", "write_summary",
        ],
        "tables.study": ["failures_table", "finalists_table", "seconds_table", "solution_table"],
        "figures.benchmarks": ["growth_figure", "shares_figure"],
        "figures.coverage": ["coverage_figure"],
        "figures.embedding_map": ["embedding_map"],
        "figures.n2n_stages": ["stages_figure"],
        "figures.samplers": ["proxy_figure", "samplers_figure", "sizes_figure"],
        "figures.search": [
            "accuracy_against_parameters", "f_against_index", "predicted_against_observed", "search_f_against_final_f",
        ],
        "figures.shufflenet": ["accuracy_against_size", "sizes_claim", "sizes_table"],
        "figures.student_graph": ["student_graph"],
        "figures.training_curves": ["training_curves"],
        "figures.transfer": ["kernels_table", "transfer_figure"],
        "figures.variants": ["best_f", "decisions_made"],
        "papers.comparison": ["compare_with_papers", "other_studies", "verdicts", "write_report"],
        "papers.published": ["Published", "published"],
    },
)  # fmt: skip
