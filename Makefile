# make demo | test | quick | nightly | bench | format | docs | clean      (needs only make and Python 3.11+)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test quick nightly lint bench test-cuda bench-cuda format docs clean
help:
	@echo "make demo    train a digit classifier (creates $(VENV), installs, runs)"
	@echo "make test    format, lint, types and all tests"
	@echo "make quick   lint and the tests that take seconds"
	@echo "make nightly ten thousand random graphs on all cores (ARGS='--device cuda' on a GPU)"
	@echo "make bench   measure against other libraries (own environment, .venv-bench)"
	@echo "make test-cuda, make bench-cuda    the same on a machine with an NVIDIA GPU"
	@echo "make format  reformat the sources"
	@echo "make docs    write what is generated: pages of docs/, the type stub"

# One stamp per set of extras: an environment is installed once, and again when pyproject changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Niello needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/niello demo digits $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

quick: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" -x -q \
	  tests/architecture tests/unit tests/kernel tests/runtime tests/cli $(ARGS)

nightly: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/nightly.py $(ARGS)

bench: .venv-bench/.installed
	.venv-bench/bin/python -m bench $(ARGS)

.venv-bench/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Niello needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

# On a machine with an NVIDIA GPU, with the python that PYTHON names: everything, then the figures.
test-cuda:
	$(PYTHON) -m tools.cuda_suite environment conformance device large sweep digits $(ARGS)

bench-cuda:
	$(PYTHON) -m bench.cuda $(ARGS)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-test
	$(BIN)/python -m tools.docs
	$(BIN)/python -m tools.stubs

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
