# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two torch processes with two threads each on two cores slow each other down twentyfold.
ONE_THREAD := OMP_NUM_THREADS=1
WORKERS ?= 2

.PHONY: help demo test lint types unit format benchmark clean

help:
	@echo "make demo       train, evaluate and report on embedded data, in under two minutes"
	@echo "make test       lint, types and tests"
	@echo "make format     format the code"
	@echo "make benchmark  measure the cost of attacks, training steps and bounds"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/withstand run digits-adversarial --out=runs/demo

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python benchmarks/attack_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/certified_cost.py
	$(BIN)/python benchmarks/kernel_cost.py
	$(BIN)/python benchmarks/gaussian_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/bayes_cost.py
	$(BIN)/python benchmarks/suite_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/report_cost.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
