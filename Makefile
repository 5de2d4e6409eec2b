# Each command creates the virtual environment .venv from nothing, with the versions of constraints.txt, and runs in it.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell command -v python$(version))))
BIN := .venv/bin
# Of twenty thousand modules few are imported, so Python compiles each when it first is.
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
INSTALL := $(PIP) --editable

# The dependencies that torchtitan declares contradict those of the others, and its container of optimizers needs none of them.
TITAN := $(PIP) --no-deps

.PHONY: demo test check check-lowest lint docs browse clean

demo: .venv/demo-installed
	$(BIN)/celo2 train

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not distributed and not integration"

lint: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, into site/: a strict build, then every link and picture of it is looked up. To read it:
# python -m http.server -d site
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m website.links site

# A browser follows a newcomer's path through the built site; it needs Chromium on the PATH, or
# .venv/bin/playwright install --with-deps chromium.
browse: docs
	$(BIN)/python -m website.browse site

# The lowest versions that pyproject.toml claims, in an environment of their own. Deprecations of old
# versions are theirs; torch.compile of a bound `step` needs a PyTorch later than 2.9.
LOWEST := .venv-lowest/bin/python
check-lowest: .venv/bin/python
	$(PYTHON) -m venv --clear .venv-lowest
	$(LOWEST) -m pip install --quiet --constraint constraints-lowest.txt '.[torch,jax]' pytest hypothesis
	$(LOWEST) -m pytest -W default tests/rule tests/parameters tests/test_imports.py \
		tests/torch/test_reference.py tests/torch/test_update.py \
		-k "not compiled_train_step and not command_without"

clean:
	rm -rf .venv .venv-lowest site

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "celo2 needs Python 3.11, 3.12 or 3.13, and none is on the PATH; install one, or give PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[demo]'
	touch $@

.venv/test-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[dev]'
	$(TITAN) torchtitan spmd_types torch_checkpointing
	touch $@

.venv/docs-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[docs]'
	touch $@
