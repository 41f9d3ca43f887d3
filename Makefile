# What a newcomer runs. Needs only Python >= 3.11, git and make; everything else is installed into .venv.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
  command -v $$p > /dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$p && break; done)
BIN := .venv/bin
FOUR := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint bench fuzz schemas clean
.DEFAULT_GOAL := demo

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "runbook needs Python 3.11 or newer on PATH (make PYTHON=/path/to/python3.11)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python's venv module is missing (on Debian: apt-get install python3-venv)"; exit 1; }

.venv/run.stamp: .venv/bin/python pyproject.toml
	@echo "installing runbook into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml
	@echo "installing runbook and its tests into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/run.stamp $@

demo: .venv/run.stamp ## rehearse the emergency rollback: the plan, then the run, in a simulated world
	@$(BIN)/runbook plan playbooks/emergency.yaml --sandbox playbooks/scenarios/emergency/traffic.yaml
	@$(BIN)/runbook run playbooks/emergency.yaml --sandbox playbooks/scenarios/emergency/traffic.yaml --yes

test: .venv/dev.stamp ## every test that this machine can run: quick, slow, and those of time alone; what was skipped and why is listed last
	@$(BIN)/python -m pytest $(FOUR) -m "not slow and not timed" $(PYTEST) $(COVERAGE)
	@$(BIN)/python -m pytest $(FOUR) -m "slow and not timed" $(PYTEST)
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m timed

lint: .venv/dev.stamp ## style, types, layers, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m runbook.runner.describe --check

bench: .venv/dev.stamp ## the figures of bench/README.md
	@$(BIN)/python -m bench

fuzz: .venv/dev.stamp ## the engine's law, for hours: make fuzz SECONDS=3600
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600)

schemas: .venv/dev.stamp ## generate schemas/ and docs/actions.md anew
	@$(BIN)/python -m runbook.runner.describe

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
