# make demo   set up, train a one-step generator of digits, and write demo/report.html
# make test   set up, run all tests
# make check  format, lint, types
# make docs   set up, build the documentation site: docs/_build/index.html

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

demo: $(READY)
	$(BIN)/d2o demo --out demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "d2o needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv demo docs/_build docs/api

.PHONY: demo test check docs clean
