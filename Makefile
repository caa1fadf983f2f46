# make search   the search on the embedded default data set (digits), in about a minute
# make test     linters, type check, tests, notebooks
# make lab      JupyterLab on this checkout
# make lint     only the linters and the type check
# make faults   kills, starves and corrupts a study about 200 times; report in outputs/faults (tens of minutes)
# make clean    remove caches and .venv; results and data stay
#
# Each makes .venv first, from requirements.lock, if that is not done yet. Needed: Python 3.11 or newer.
# make search ARGS="-p K 8" STUDY=digits_k8   passes parameters to papermill, under a study name of its own.

# The default study's networks are tiny: it runs on one thread unless OMP_NUM_THREADS says otherwise.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
STUDY ?= digits
ARGS ?=
NAME := $(if $(filter-out digits,$(STUDY)),-p study "$(STUDY)")

VENV := .venv
READY := $(VENV)/.ready
NBVAL := python -m pytest -q --nbval-lax --nbval-current-env
OUTPUTS := $(or $(ESNAC_OUTPUTS),outputs)
# The environment's own programs and its own kernel "python3" come before all others on the machine.
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" JUPYTER_PATH="$(CURDIR)/$(VENV)/share/jupyter"

.PHONY: search test faults lab lint clean
.DELETE_ON_ERROR:

search: $(READY)
	@mkdir -p "$(OUTPUTS)/$(STUDY)"
	$(IN_VENV) OMP_NUM_THREADS=$(or $(OMP_NUM_THREADS),1) python -m papermill notebooks/search.ipynb "$(OUTPUTS)/$(STUDY)/search.ipynb" --no-progress-bar $(NAME) $(ARGS)
	@echo "Results: $(OUTPUTS)/$(STUDY) (executed notebook search.ipynb, ledger.sqlite, figures/, tables/). Summary:"
	@$(IN_VENV) python -m json.tool "$(OUTPUTS)/$(STUDY)/summary.json"

test: lint
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; set -x; \
		export ESNAC_OUTPUTS="$$scratch" OMP_NUM_THREADS=1; \
		$(IN_VENV) $(NBVAL) -n 2 --dist loadfile --ignore=notebooks/report.ipynb notebooks/; \
		$(IN_VENV) $(NBVAL) notebooks/report.ipynb  # last: it reads what the others have written

faults: $(READY)
	$(IN_VENV) OMP_NUM_THREADS=1 python -m tests.faults --out outputs/faults

lint: $(READY)
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy esnac_lib

lab: $(READY)
	$(IN_VENV) python -m jupyterlab notebooks/search.ipynb $(ARGS)

clean:
	rm -rf $(VENV) build esnac_lib.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find esnac_lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "esnac_lib needs Python 3.11 \
	or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python -r requirements.lock
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $@
