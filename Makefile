# Two commands: `make run` (the phantom study, ends in results/report.html) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --workflow-profile workflow/profiles/default
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run cubes test lint bench env clean

run: env                 ## the study of config.yaml; ARGS="--configfile workflow/experiments/cubes.yaml" for another
	$(SNAKEMAKE) $(ARGS)
	@lungsyn evaluation answer

test: env                ## the tests
	$(BIN)/python -m pytest

lint: env                ## formatters and linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/python .ci/lint_workflow.py        # snakemake --lint, its waivers explained

bench: env               ## one line per claim: name, ours, peer, ratio
	$(BIN)/python -m tests.benchmarks

env: $(STAMP)            ## the environment alone: a virtual environment with the pinned packages

$(STAMP): envs/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement envs/requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

clean:                   ## remove what runs wrote; the environment stays
	rm -rf .snakemake $(filter-out results/README.md,$(wildcard results/*))
