# Everything runs in a virtual environment in .venv, made from the pins in constraints.txt.

PYTHON ?= python3.11
VENV ?= .venv
# Options for pip's install of torch alone, as in TORCH_FLAGS="--index-url <PyTorch's index of CPU builds>".
TORCH_FLAGS ?=
# More arguments for the demo, as in DEMO_FLAGS="seeds=1".
DEMO_FLAGS ?=

# Which benchmarks, as in BENCH="overlap growth"; all of them else.
BENCH ?= $(notdir $(basename $(shell grep -l __main__ benchmarks/*.py)))

# More arguments for the soak, as in CHAOS_FLAGS="--seed 1".
CHAOS_FLAGS ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
TORCH := torch==2.13.0
AUDIT := pip-audit==2.10.1

# DeepSpeed is installed as Python alone: no op is compiled.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test lint unit runs engines cluster chaos format docs bench audit ui clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## make the virtual environment

# torch comes first: DeepSpeed asks for it while it is built.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) -c constraints.txt $(TORCH)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

demo: $(STAMP) ## base model, comparison, table, plots and MLflow runs: what a too-hard phase does
	$(PY) -m jobs.compare experiment=too_hard $(DEMO_FLAGS)

test: lint unit runs engines cluster ## everything that the project checks

lint: $(STAMP) ## style, types, direction of imports, and docs/metrics.md
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m ductile.metrics | diff -u docs/metrics.md - || { echo "docs/metrics.md is not current: make docs"; exit 1; }

unit: $(STAMP) ## tests without Ray, with the coverage of the library
	$(PY) -m pytest -q -n auto -m "not cluster and not engines and not runs and not soak" --cov --cov-report=term

runs: $(STAMP) ## tests of whole runs in one process that are interrupted and go on
	$(PY) -m pytest -q -n auto -m runs

engines: $(STAMP) ## tests of learners and variants at every ZeRO stage, on one and two processes
	$(PY) -m pytest -q -m engines

cluster: $(STAMP) ## tests on a real local Ray
	$(PY) -m pytest -q -m cluster

chaos: $(STAMP) ## jobs under five faults, then under 30 in 20 minutes, must end as they do in peace
	$(PY) -m pytest -q -m soak
	PYTHONPATH=platform:. $(PY) -m tests.chaos.soak --minutes 20 --faults 30 --seed 0 $(CHAOS_FLAGS)

format: $(STAMP) ## put the code into the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(STAMP) ## print docs/metrics.md from the table of metrics
	$(PY) -m ductile.metrics > docs/metrics.md

bench: $(BENCH_STAMP) ## side-by-side measurements in benchmarks/, one after another in 20 minutes, and their results
	@mkdir -p runs/bench; rm -f runs/bench/*.txt
	@for name in $(BENCH); do echo "== $$name"; began=$$(date +%s); \
		{ PYTHONPATH=platform:. $(PY) -u -m benchmarks.$$name || echo "=> $$name: FAILED"; } 2>&1 \
			| tee runs/bench/$$name.txt; \
		echo "   ($$name: $$(($$(date +%s) - began)) s)"; done
	@echo "== all of them, on $$(lscpu | sed -n 's/^Model name: *//p'), $$(nproc) cores"; \
		grep -h '^=> ' runs/bench/*.txt; ! grep -q '^=> .*: FAILED$$' runs/bench/*.txt

# In an environment of its own: its dependencies are none of ours. --strict: a pin that could not be looked up is an error.
audit: $(STAMP) ## look the pins up in the advisories of PyPI, which must be reachable; no part of make test
	$(PY) -m pip check
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check $(AUDIT)
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

# MLflow's UI opens an experiment on its (empty) GenAI overview unless the address says otherwise: no tag does, as of 3.17.
ui: $(STAMP) ## MLflow UI on this machine, on the runs in runs/mlflow.db
	@echo "The runs: http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning"
	MLFLOW_DISABLE_TELEMETRY=true $(VENV)/bin/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///runs/mlflow.db

clean: ## remove the virtual environment and what the tools left; results in runs/ and cache/ stay
	rm -rf $(VENV) $(VENV)-audit .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache ductile.egg-info
	find platform actors jobs tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
