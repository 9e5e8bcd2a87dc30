VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DIST ?= dist
# The tested versions need Python 3.11 or newer; on 3.10 pip chooses by pyproject.toml.
PINS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

demo: $(VENV)/installed ; $(BIN)/hvf reconstruct --subject 8
# A worker for each core, each with one thread: two would wait for one another.
# With COVERAGE=1 it also says how much of hvf/ was run, and fails below the share that pyproject.toml asks for.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not slow' $(if $(COVERAGE),--cov --cov-report=term:skip-covered)
# The slow tests in parts of at most ten minutes on two cores; test-slow runs all parts, one after the other.
SLOW_PARTS = test-slow-1 test-slow-2 test-slow-3 test-slow-4 test-slow-5 test-slow-6 test-slow-7 test-slow-8 test-slow-9
$(SLOW_PARTS): test-slow-%: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup -m 'slow(part=$*)' --durations 0
test-slow: $(SLOW_PARTS)
test-all: test test-slow
lint: $(VENV)/installed ; $(BIN)/ruff check . && $(BIN)/ruff format --check .
types: $(VENV)/installed ; $(BIN)/pyright --pythonpath $(BIN)/python
# The site, docs/_build/html/index.html: warnings are errors, and so is a link that leads nowhere.
docs: $(VENV)/installed ; $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
# The sdist and the wheel; then the wheel alone in an empty environment, far from the checkout.
package: $(VENV)/installed
	rm -rf $(DIST)
	$(BIN)/python -m build --outdir $(DIST)
	$(BIN)/twine check --strict $(DIST)/*
alone: package
	$(PYTHON) -m venv --clear $(DIST)/venv
	$(DIST)/venv/bin/pip install --disable-pip-version-check $(PINS) $(DIST)/*.whl
	mkdir -p $(DIST)/elsewhere
	cd $(DIST)/elsewhere && ../venv/bin/hvf --version && ../venv/bin/hvf reconstruct --subject 8

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check $(PINS) -e '.[dev]'
	touch $@

.PHONY: docs demo test $(SLOW_PARTS) test-slow test-all lint types package alone
