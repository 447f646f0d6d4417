# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test browser check format bench chaos site screenshots clean

demo: $(VENV)/installed-run
	$(BIN)/safelight demo

test: $(VENV)/installed-dev browser
	$(BIN)/python -m pytest -n 2 $(ARGS)

# What tests/browser drives: Debian's Chromium, installed here where it is missing and we may; elsewhere by you.
browser:
	@command -v chromium >/dev/null \
	  || { apt-get update -qq && apt-get install -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	  || { echo "the tests of the console drive a browser: install Chromium as 'chromium' and run this again"; exit 1; }

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.run $(ARGS)

chaos: $(VENV)/installed-dev
	$(BIN)/python -m tests.acceptance.chaos $(ARGS)

site: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(VENV)/installed-dev browser
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser/test_screenshots.py

clean:
	rm -rf $(VENV) demo-out site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Safelight needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed-run
