VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# The tested versions need Python 3.11 or newer; on 3.10 pip chooses by pyproject.toml.
PINS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

demo: $(VENV)/installed ; $(BIN)/hvf reconstruct --subject 8
# A worker for each core, each with one thread: two would wait for one another.
test: $(VENV)/installed ; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not slow'
test-all: $(VENV)/installed ; $(BIN)/python -m pytest
lint: $(VENV)/installed ; $(BIN)/ruff check . && $(BIN)/ruff format --check .
types: $(VENV)/installed ; $(BIN)/pyright

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check $(PINS) -e '.[dev]'
	touch $@

.PHONY: demo test test-all lint types
