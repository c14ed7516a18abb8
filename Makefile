# Everything a newcomer needs; only Python >= 3.11 with venv and make must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Real models need torch. On an ordinary index its pin is a CUDA build of gigabytes, so tests take it only where that was
# decided: torch is there already, TORCH_INDEX_URL names an index, or this is CI.
MODELS := $(shell if [ -n "$(TORCH_INDEX_URL)$(CI)" ] || $(BIN)/python -c "import torch" 2>/dev/null; then echo ,models; fi)
TESTED := $(VENV)/.test$(MODELS)
CHECKED := $(VENV)/.check$(MODELS)
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

# Test files run side by side in so many processes: many of them wait for real processes more than they compute.
WORKERS ?= 2

# How long `make soak` breaks things, and by which schedule.
SOAK_S ?= 1800
SOAK_SEED ?= 1

.PHONY: up report analysis test test-slow test-all soak check docs figures-planner figures-control pictures clean

up: $(VENV)/.installed
	@if echo "$(ARGS)" | grep -q -- "--backend[ =]cpu"; then $(PIP) $(TORCH_INDEX) -e ".[models]"; fi
	@$(BIN)/clover up $(ARGS)

# The report of the newest run (or of ARGS), in the browser where there is one.
report: $(VENV)/.analysis
	@$(BIN)/clover report --open $(ARGS)

# What `clover query`, `clover logs export` and `clover report` need beside.
analysis: $(VENV)/.analysis

test: $(TESTED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

# What `test` leaves out.
test-slow: $(TESTED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow

test-all: $(TESTED)
	$(BIN)/python -m pytest

# Faults on real processes for half an hour; not in test-all. Prints one JSON line and where the history is.
soak: $(TESTED)
	$(BIN)/python -m clover.sim.faults.soak --seconds $(SOAK_S) --seed $(SOAK_SEED)

check: $(CHECKED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/pyright || { $(BIN)/python -c "import torch" 2>/dev/null || echo "pyright wants what it reads to be there: \
	set TORCH_INDEX_URL (README.md) and run make check again, for the extra models" >&2; exit 1; }
	$(BIN)/lint-imports

# Documents that tests compare with what they are made from.
docs: $(TESTED)
	$(BIN)/python -m clover.bus.wire > docs/wire.md
	$(BIN)/python -m clover.bus.asyncapi > docs/asyncapi.json
	$(BIN)/python -m clover.agents.control_document docs/control.md
	$(BIN)/python -m cli.reference > docs/commands.md

# The tables and pictures of docs/results.md; ARGS="--year --long-traces FOLDER" for the ladder over a year.
figures-planner: $(TESTED)
	$(BIN)/python -m clover.analysis.results $(ARGS)

# The tables of docs/results-control.md. Whole runs take up to an hour each; finished ones are kept in docs/results/control
# (delete a file to compute it anew). ARGS="--only phase-9" runs one part, ARGS=--list tells which there are.
figures-control: $(TESTED)
	$(BIN)/python -m clover.sim.control_figures $(ARGS)

# The pictures of the dashboard in docs/images, from a run of the real agents in virtual time.
pictures: $(VENV)/.installed
	$(BIN)/python tools/pictures.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.analysis: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[analysis]"
	@touch $@

$(TESTED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_INDEX) -e ".[test$(MODELS)]"
	@touch $@

$(CHECKED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_INDEX) -e ".[test,check$(MODELS)]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
