# `make demo` and `make test` are all that is needed: both set up .venv on first use, and again only when
# requirements.lock or pyproject.toml changed. Nothing is installed outside this folder.

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := src tests benchmarks
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input $(PIP_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo quick test lint types format clean

help:
	@echo "make demo    the whole study on a small model, on the CPU; ends with a report"
	@echo "make test    the tests"
	@echo "make quick   a smoke run of the demo, too small for any claim"
	@echo "make lint    ruff: rules and formatting"
	@echo "make types   mypy, strict, on src and benchmarks"
	@echo "make format  let ruff put the code in order"
	@echo "make clean   remove .venv and caches; runs are kept"

setup: $(INSTALLED)
	@:

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "flatprobe needs Python 3.11 or newer, and $(PYTHON) is not; name one: make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV) (once, a few minutes) ..."
	@$(PIP) --no-deps -r requirements.lock
	@$(PIP) --no-build-isolation -c requirements.lock -e ".[models,hub,dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/flatprobe demo

quick: $(INSTALLED)
	$(BIN)/flatprobe demo --quick

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
