# `make up` leaves a running machine; `make test` is the daily suite; `make bench` prints the budgets' table.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
export PYTHONPATH := host:guest

.PHONY: help up setup setup-test setup-package image wheel deb lint test unit machine test-long bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: setup image ## install what is missing, build the guest image, start the machine
	@$(VENV)/bin/proa start

setup: ## system packages and the virtual environment
	@scripts/setup up

setup-test:
	@scripts/setup up test

setup-package:
	@scripts/setup up package

image: setup ## build the guest image (cached) and import it
	@$(PYTHON) -m proa.images "$$(python3 vmimages/build.py --print-path)"

lint: setup ## ruff, mypy for three systems, import rules
	@scripts/lint

unit: setup-test ## tests without a guest
	@$(PYTHON) -m pytest tests/unit -q

machine: setup-test
	@$(PYTHON) -m pytest tests/machine -q -m "machine and not long"

test: setup-test ## the daily suite: lint, unit tests, and a real guest
	@scripts/lint
	@scripts/tests "not long"

test-long: setup-test setup-package ## hundreds of rounds, every failing step
	@scripts/tests long

wheel: setup ## build dist/proa-VERSION-py3-none-any.whl
	@scripts/wheel

deb: setup-package wheel ## build dist/proa_VERSION_ARCHITECTURE.deb, checked with lintian
	@scripts/deb

bench: setup-test ## measure the budgets; writes build/bench.json
	@$(PYTHON) -m tests.bench

clean: ## remove what was built here (machines and images stay)
	@rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
