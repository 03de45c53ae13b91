# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two torch processes with two threads each on two cores slow each other down twentyfold.
ONE_THREAD := OMP_NUM_THREADS=1
WORKERS ?= 2

.PHONY: help demo test lint docs types unit format results benchmark clean

help:
	@echo "make demo       train, evaluate and report on embedded data, in under two minutes"
	@echo "make test       lint, documentation, types and tests"
	@echo "make docs       the documentation as a site, in site/index.html"
	@echo "make results    write the pages of docs/ that quote runs, from results/"
	@echo "make format     format the code"
	@echo "make benchmark  measure the cost of attacks, training steps and bounds, estimated norms, the start, streaming and sweeps"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/withstand run digits-adversarial --out=runs/demo

test: lint docs types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Strictly: a link or an anchor that leads nowhere is an error. The path is for ruff, which sets signatures.
docs: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist loadgroup --durations=20

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

results: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python tools/results_page.py

benchmark: $(INSTALLED)
	$(ONE_THREAD) $(BIN)/python benchmarks/attack_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/certified_cost.py
	$(BIN)/python benchmarks/kernel_cost.py
	$(BIN)/python benchmarks/gaussian_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/bayes_cost.py
	$(BIN)/python benchmarks/suite_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/report_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/power_iteration.py
	$(ONE_THREAD) $(BIN)/python benchmarks/start_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/streaming_cost.py
	$(ONE_THREAD) $(BIN)/python benchmarks/ray_overhead.py

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
