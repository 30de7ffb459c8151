# Every command of this repository. `make help` lists them.
# The tools live in .venv, which is made on first use and again when pyproject.toml changes.

BIN := .venv/bin
SETUP := pyproject.toml tools/bootstrap.sh
export PYTHON ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: .venv/.installed-runtime  ## Run the main job on real input; ARGS="--journal PATH" passes options
	@$(BIN)/omniq demo $(ARGS)

.PHONY: test
test: lint types floors unit  ## Everything that must hold: lint, types, import floors, all tests

.PHONY: lint
lint: .venv/.installed-dev  ## Lint and formatting (ruff)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

.PHONY: types
types: .venv/.installed-dev  ## Types (mypy --strict and pyright)
	$(BIN)/mypy
	$(BIN)/pyright --project pyproject.toml

.PHONY: floors
floors: .venv/.installed-dev  ## Imports go one way (import-linter)
	$(BIN)/lint-imports --no-logo

.PHONY: unit
unit: .venv/.installed-dev  ## The tests alone; ARGS="tests/core -k claim" passes options
	$(BIN)/pytest $(ARGS)

.PHONY: bench
bench: .venv/.installed-dev  ## What it costs, beside floors of the same run; ARGS="--quick" for a first look
	$(BIN)/python tools/bench.py $(ARGS)

.PHONY: profile
profile: .venv/.installed-dev  ## Where the time goes in a measure of the benchmark: ARGS="'drain file' --calls"
	$(BIN)/python tools/bench_profile.py $(ARGS)

.PHONY: instructions
instructions: .venv/.installed-dev  ## How many instructions a call takes, counted by valgrind; ARGS="--only fold"
	$(BIN)/python tools/instructions.py $(ARGS)

.PHONY: scale
scale: .venv/.installed-dev  ## Costs at a thousand times the size, beside those at the usual one; takes minutes
	$(BIN)/python tools/scale.py $(ARGS)

.PHONY: compare
compare: .venv/.installed-dev  ## What other queues do with the same jobs, if their servers are found
	$(BIN)/python tools/compare.py $(ARGS)

.PHONY: sim
sim: .venv/.installed-dev  ## Simulate lives of a journal; ARGS="--seeds 5000" or ARGS="--seed 42"
	$(BIN)/python tools/simulate.py $(ARGS)

.PHONY: storm
storm: .venv/.installed-dev  ## Kill real processes for a while; ARGS="--seconds 60 --backend sqlite"
	$(BIN)/python tools/storm.py $(ARGS)

.PHONY: mutants
mutants: .venv/.installed-dev  ## Plant known bugs and see that the checks find them; takes minutes
	$(BIN)/python tools/mutants.py $(ARGS)

.PHONY: format
format: .venv/.installed-dev  ## Format the code and apply the safe fixes
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

.PHONY: docs
docs: .venv/.installed-dev  ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: state-diagram
state-diagram: .venv/.installed-dev  ## Draw the states in docs/reference/states.md anew
	$(BIN)/python tools/state_diagram.py --write

.PHONY: clean
clean:  ## Remove all that the other targets made, .venv included
	rm -rf .venv .tools site dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find omniq tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed-runtime: $(SETUP)
	@tools/bootstrap.sh runtime

.venv/.installed-dev: $(SETUP)
	@tools/bootstrap.sh dev
