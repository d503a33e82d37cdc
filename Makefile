# Two commands do all set-up: `make demo` and `make test`. The environment is made once and then left alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread per test process: the processes share the cores already. No hub is asked for anything.
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo explore test test-all test-portable test-portable-quick bench-quick lint types docs check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      environment, install, then the main job; leaves out/demo/index.html"
	@echo "make test      environment, install, tests (10 to 13 minutes on 2 cores)"
	@echo "make explore   the explorer, a local web page on 2-D mixtures"
	@echo "make docs      the documentation, into docs/_build/html"
	@echo "make test-all  also the slow tests, and the laws on fresh random examples"
	@echo "make test-portable   the numerical tests as on other processors"
	@echo "make bench-quick     every method and baseline end to end, two steps each"
	@echo "make check     lint, types and tests, as CI runs them"

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/unlearn demo --output out/demo --overwrite

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow or not slow" --timeout 1800
	HYPOTHESIS_PROFILE=random OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/properties --timeout 1800

test-portable: $(READY)
	$(BIN)/python tests/portable.py --jobs 2

# A part of it, for the processors that `make test` does not run as: under 3 minutes on 2 cores.
test-portable-quick: $(READY)
	$(BIN)/python tests/portable.py --quick --jobs 2

# Every method and baseline end to end on the wardrobe, two steps each: three minutes at most, or it fails.
bench-quick: $(READY)
	rm -rf out/bench/quick
	OMP_NUM_THREADS=1 timeout 180 $(BIN)/unlearn bench wardrobe --quick --concept "an ankle boot" --output out/bench/quick

explore: $(READY)
	$(BIN)/unlearn explore

docs: $(READY)
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test test-portable-quick bench-quick

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
