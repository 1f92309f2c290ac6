# Two commands do everything: `make quickstart` and `make test`. Both need Python 3.11+ with pip, nothing else.
PYTHON ?= python3
VENV   ?= .venv
# More arguments for pip, for example the index of CPU-only torch builds.
PIP_ARGS ?=

BIN  := $(VENV)/bin
CORE := $(VENV)/.hardsight-core
DEV  := $(VENV)/.hardsight-dev
INSTALL := $(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint types unit slow fmt docs clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "make quickstart   install, then the main job: adapt, predict, search, verify (under 10 minutes)"
	@echo "make test         install, then lint, types and tests"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) PIP_ARGS=$(PIP_ARGS)"

quickstart: $(CORE) ## the main job on this machine
	$(BIN)/python -m hardsight.experiments.quickstart

test: lint types unit ## lint, types and tests

lint: $(DEV) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## mypy --strict
	$(BIN)/mypy

unit: $(DEV) ## the default tests
	$(BIN)/pytest

slow: $(DEV) ## the tests the default run leaves out
	$(BIN)/pytest -m "slow and not device and not network"

fmt: $(DEV) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(CORE) ## write docs/cli.md from --help, docs/job.md from the job's schema
	$(BIN)/python -m hardsight.cli.reference > docs/cli.md
	$(BIN)/python -m hardsight.nas.job > docs/job.md

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Debian's Python comes without ensurepip; then pip itself fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Hardsight needs Python 3.11 or newer; '$(PYTHON)' is missing or older." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) \
	       && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } \
	  || { rm -rf $(VENV); echo "Could not create $(VENV): '$(PYTHON)' has neither ensurepip nor a pip of 22.3 or newer." \
	       "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# Either install satisfies the core, so `make quickstart` after `make test` installs nothing.
$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	@touch $(CORE) $@
