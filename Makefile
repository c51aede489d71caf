# make demo    the quick start: real data, optimized, streamed from disk and from S3, a model trained
# make test    everything: lint, types, all tests (installs what is missing; closes with one line)
# make lint    ruff and mypy only
# make bench   the benchmark tables (benchmarks/README.md says how to read them)
# make plots   the benchmarks drawn, in benchmarks/plots/
# make venv    the pinned environment in .venv
# make peers   the environments that hold litdata, for the interop tests and the benchmarks
# make docs    the documentation site, in site/
# make lock    requirements/*.in -> the pinned requirements/*.txt
# make clean   what the targets above made, environments excepted

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: demo test lint bench plots venv peers docs lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The stamp's name holds the hash of the pins, so a changed pin installs again and an unchanged one costs nothing.
STAMP := $(VENV)/.installed-$(shell cat requirements/dev.txt pyproject.toml | sha256sum | cut -c1-16)
PYTEST_ARGS ?= -n 2 --dist worksteal --durations=25

demo: venv
	$(BIN)/python examples/quickstart.py

test: export HYPOTHESIS_PROFILE = ci
# torch's threads spin while they wait, and every test's processes would have as many as there are cores.
test: export OMP_NUM_THREADS = 1
test: lint peers
	$(BIN)/pytest $(PYTEST_ARGS)
	@echo "make test: ruff, mypy and pytest passed"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	bash scripts/peers.sh bench-peers
	$(BIN)/python -m benchmarks

plots: venv
	bash scripts/peers.sh bench-peers
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	$(BIN)/python -m benchmarks.plot

venv: $(STAMP)

$(STAMP):
	bash scripts/system-packages.sh "$(PYTHON)"
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aiolit needs Python 3.11 or newer")'
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	rm -f $(VENV)/.installed-*
	touch $@

peers: venv
	bash scripts/peers.sh

docs:
	test -x .venv-docs/bin/python || "$(PYTHON)" -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	.venv-docs/bin/mkdocs build --quiet

lock:
	bash scripts/lock.sh "$(PYTHON)"

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build site
	find aiolit tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
