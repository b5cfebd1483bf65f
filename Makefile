# make benchmark   all set-up, then the main job: params.yaml -> networks, tables, registry
# make test        all set-up, then the tests (make test-slow: the slow ones)
# make check       what CI checks besides: style, types, import contracts

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: benchmark setup test test-slow check clean

benchmark: setup
	$(BIN)/sisr run

setup: $(RUN_STAMP)

$(RUN_STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sisr needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.lock
	touch $@

# Two at a time on two cores; by file, as fixtures are.
test: $(DEV_STAMP)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m slow

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf data cells/* results report registry metrics.json .sisr
