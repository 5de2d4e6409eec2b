# Both commands make the virtual environment .venv from nothing, with the versions of constraints.txt, and run in it.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

# What torchtitan asks for contradicts the others and Python packages for GPUs; its container of optimizers needs none of it.
TITAN := $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps

.PHONY: demo test clean

demo: .venv/demo-installed
	$(BIN)/celo2 train

test: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf .venv

.venv/demo-installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[bench]'
	touch $@

.venv/test-installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[dev]'
	$(TITAN) torchtitan spmd_types torch_checkpointing
	touch $@
