# make demo   set up, train a one-step generator of emoji, and write demo/report.html
# make test   set up, run all tests
# make check  format, lint, types
# make docs   set up, build the documentation site: docs/_build/index.html
# make wheel  dist/d2o-VERSION-py3-none-any.whl
#
# TORCH=cpu installs PyTorch's CPU build, TORCH=default the build of your package index; cpu is the default where
# nvidia-smi finds no GPU.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= $(if $(shell nvidia-smi -L 2> /dev/null),default,cpu)
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

demo: $(VENV)/installed
	$(BIN)/d2o demo --out demo

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

docs: $(VENV)/ready
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

wheel:
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

# what d2o itself needs
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "d2o needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	@$(BIN)/python -c 'import urllib.request as web; web.urlopen("$(CPU_INDEX)/torch/", timeout=10)' 2> /dev/null && \
	$(PIP) --no-deps --index-url $(CPU_INDEX) torch torchvision || \
	echo "PyTorch's CPU build is not available from $(CPU_INDEX): installing the default build, which is larger."
endif
	$(PIP) --editable .
	touch $@

# and what its developers need
$(VENV)/ready: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo dist docs/_build docs/api

.PHONY: demo test check docs wheel clean
