# make course   install into .venv and run the lessons offline on this machine's CPU or GPU
# make test     the tests and all notebooks, newest stack
# make help     the rest

PYTHON ?= python3
LESSONS := $(sort $(wildcard notebooks/[0-9]*.ipynb))
# The notebooks find their kernel in the environment that runs them.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install course test test-colab bench format check

help:
	@echo "make course      install, then run every lesson (results in runs/course)"
	@echo "make test        tests and notebooks on the newest stack"
	@echo "make test-colab  the same on the versions that Colab has preinstalled"
	@echo "make bench       every benchmark"
	@echo "make format      let ruff format code and notebooks"
	@echo "make check       fail where format, lint or types are off"

$(VENV)/.installed: requirements.txt pyproject.toml constraints/latest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints/latest.txt -e ".[dev]"
	touch $@

.venv-colab/.installed: requirements.txt pyproject.toml constraints/colab.txt
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -q --upgrade pip
	.venv-colab/bin/python -m pip install -q -c constraints/colab.txt -e ".[dev]"
	touch $@

install: $(VENV)/.installed

course: install
	$(BIN)/python -m nbconvert --to notebook --execute --output-dir runs/course \
		--ExecutePreprocessor.timeout=3600 $(LESSONS)
	@echo "The executed lessons lie in runs/course; open them with any notebook reader."

test: install
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

test-colab: .venv-colab/.installed
	.venv-colab/bin/python -m pytest tests
	.venv-colab/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

bench: install
	$(BIN)/python benchmarks/packing.py --json

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
