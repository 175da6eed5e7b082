# Everything that a person or CI does here, by one word. `make` alone tells them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed once for running, once more for working on the code; a stamp is older than its lock file when that changed.
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development
PACKAGES := gateway session_worker callback_worker shared ops bench tests examples
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help demo up down test faults faults-long faults-storm faults-mutants lint types fmt bench bench-isolation lock

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## Run the whole product once, with proof: every request acknowledged, applied, delivered
	@$(BIN)/python -m ops demo

up: $(RUNTIME) ## Run the whole product until Ctrl-C, and print where everything is
	@$(BIN)/python -m ops up

down: $(RUNTIME) ## Stop what an earlier `make up` left running, and in Docker what a killed run left behind
	@$(BIN)/python -m ops down

test: $(DEVELOPMENT) ## Run the tests on a real broker and a real database
	$(BIN)/python -m pytest $(ARGS)

faults: $(DEVELOPMENT) ## Break everything once under load, and count what became of every call: docs/faults.md
	LOCAL_STACK=$${LOCAL_STACK:-installed} $(BIN)/python -m tests.faults short $(ARGS)

MINUTES ?= 60
faults-long: $(DEVELOPMENT) ## The same for MINUTES (60), with a storm and a million messages, on both brokers where Docker answers
	$(BIN)/python -m tests.faults long --minutes $(MINUTES) $(ARGS)

faults-storm: $(DEVELOPMENT) ## Five minutes of 300 requests a second, a random fault every five seconds
	LOCAL_STACK=$${LOCAL_STACK:-installed} $(BIN)/python -m tests.faults storm $(ARGS)

faults-mutants: $(DEVELOPMENT) ## Remove one safeguard after another: a fault must notice each
	LOCAL_STACK=$${LOCAL_STACK:-installed} $(BIN)/python -m tests.faults mutants $(ARGS)

lint: $(DEVELOPMENT) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOPMENT) ## Check types
	$(BIN)/mypy $(wildcard $(PACKAGES))

fmt: $(DEVELOPMENT) ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEVELOPMENT) ## Measure throughput and latency on this machine
	$(BIN)/python -m bench $(ARGS)

bench-isolation: $(DEVELOPMENT) ## Measure what dead subscribers cost the others
	$(BIN)/python -m bench isolation $(ARGS)

lock: $(DEVELOPMENT) ## Pin the newest allowed versions of all dependencies, with hashes
	$(BIN)/pip install --quiet uv
	$(COMPILE) --upgrade --extra stripe --output-file requirements.lock
	$(COMPILE) --upgrade --extra dev --output-file tests/requirements.lock

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Voltline needs Python 3.11 or newer; try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUNTIME): requirements.lock | $(BIN)/python
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(DEVELOPMENT): tests/requirements.lock | $(BIN)/python
	$(BIN)/pip install --quiet --require-hashes -r tests/requirements.lock
	@touch $@ $(RUNTIME)
