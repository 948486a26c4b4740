# Two commands: `make run` (the phantom study, ends in results/report.html) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE := build/docs-env
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Snakemake asks for a home; a container's user may have none.
export HOME ?= $(CURDIR)/$(VENV)

.PHONY: run test lint recipes docs stress bench env slurm clean

run: env                 ## the study of config.yaml; ARGS="--configfile workflow/experiments/cubes.yaml" for another
	@$(BIN)/lungsyn run $(ARGS)
	@$(if $(findstring --directory,$(ARGS)),,lungsyn evaluation answer)

test: env                ## the tests
	$(BIN)/python -m pytest

lint: env                ## formatters, linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy                               # types of what others import: pyproject.toml has the list
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/python .ci/lint_workflow.py        # snakemake --lint, its waivers explained

recipes: env             ## code changed: note its digests, and the recipe numbers that were raised where results change
	$(BIN)/python -m tests.recipes

docs: $(SITE)/.installed ## README and docs/ as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict        # --quiet would hide warnings from --strict
	@echo "build/site/index.html"

$(SITE)/.installed: envs/docs.lock
	$(PYTHON) -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --quiet --requirement envs/docs.lock
	touch $@

stress: env              ## kill the tiny study 20 times; ARGS="--kills 50 --seed 1" for others
	$(BIN)/python -m tests.workflow.stress $(ARGS)

bench: env               ## one line per claim: name, ours, peer, ratio
	$(BIN)/python -m tests.benchmarks

env: $(STAMP)            ## the environment alone: a virtual environment with the pinned packages

$(STAMP): envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is " + sys.version.split()[0] \
	    + ", and 3.11 or newer is needed: make env PYTHON=python3.11 (or its path)")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --requirement envs/requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

slurm: env               ## the environment with what submits to Slurm, which makes every start slower by a second
	$(BIN)/python -m pip install --quiet --requirement envs/slurm.lock

clean:                   ## remove what runs wrote; the environment stays
	rm -rf .snakemake $(filter-out results/README.md,$(wildcard results/*))
