# make course   install into .venv and run the lessons offline with the embedded model
# make test     the quick tests and every lesson, newest versions
# make help     the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The course as it is shown runs on the embedded model; `make course MATHSFT_PROFILE=t4` uses
# a GPU. The tests compare numbers of a CPU, offline, whatever else this machine has.
MATHSFT_PROFILE ?= tiny
export MATHSFT_PROFILE
TESTING := MATHSFT_PROFILE=tiny MATHSFT_SOURCE= MATHSFT_MATHQA= MATHSFT_OBJECTIVE= CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 MATHSFT_KEEP= MATHSFT_QUESTIONS=
# Two processes of one thread each: faster than one of two, and PyTorch's threads do not compete.
IN_TWO := -n 2 --dist worksteal
# The slow tests of a file share trainings, so one process runs them all, the longest files first
# (tests/conftest.py).
BY_FILE := -n 2 --dist loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600
# Lessons run with few steps in two processes of about the same length; 04 uses what 03 made. They
# start with an empty folder of runs, so that no run of an earlier test is resumed. `make course`
# runs them whole.
EARLY := $(wildcard $(addprefix notebooks/,01_* 02_* 05_* 07_* 10_* 11_*))
LATE := $(filter-out $(EARLY),$(sort $(wildcard notebooks/[0-9]*.ipynb)))
QUICK := MATHSFT_PROFILE="$(CURDIR)/tests/quick.yaml" MATHSFT_QUESTIONS=150
define LESSONS
rm -rf runs/test
export OMP_NUM_THREADS=1 MATHSFT_RUNS="$(CURDIR)/runs/test" $(TESTING) $(QUICK); \
$(1)/python -m pytest $(NBVAL) -p no:cacheprovider $(EARLY) & early=$$!; \
$(1)/python -m pytest $(NBVAL) $(LATE); late=$$?; wait $$early && exit $$late
endef

.PHONY: help install install-both course test test-slow test-all test-colab test-gpu bench docs site twins format check

help:
	@echo "make course      install, then run every lesson (a site and a report in runs/course)"
	@echo "make test        the quick tests and every lesson (with few steps), newest versions"
	@echo "make test-all    make test, then what is slow: kills, processes, real widths, solutions"
	@echo "make test-colab  make test on Colab's versions, and what only Colab does (needs a registry)"
	@echo "make test-gpu    what needs a CUDA device: exactness, memory, speed in half precision"
	@echo "make bench       every benchmark"
	@echo "make site        build the site of the kept notebooks, README and docs in runs/site"
	@echo "make twins       write the lessons as Python files, which show in a review what changed"
	@echo "make docs        write docs/api.md and docs/leaderboard.md"
	@echo "make format      let ruff format code and notebooks"
	@echo "make check       fail where format, lint or types are off"

# In two steps, so that two installations at once do not build this package at the same moment.
$(VENV)/.installed: requirements.txt pyproject.toml constraints/latest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints/latest.txt -r requirements.txt
	$(BIN)/python -m pip install -q -c constraints/latest.txt -e ".[dev,site,browser]"
	touch $@

.venv-colab/.installed: requirements.txt pyproject.toml constraints/colab.txt
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -q --upgrade pip
	.venv-colab/bin/python -m pip install -q -c constraints/colab.txt -r requirements.txt
	.venv-colab/bin/python -m pip install -q -c constraints/colab.txt -e ".[dev]"
	touch $@

install: $(VENV)/.installed

install-both: install .venv-colab/.installed

course: install
	$(BIN)/mathsft course

test: install
	OMP_NUM_THREADS=1 $(TESTING) $(BIN)/python -m pytest $(IN_TWO) -m "not colab and not slow" tests
	$(call LESSONS,$(BIN))

# What test-all runs after test; the solutions of the exercises are among it.
test-slow: install
	OMP_NUM_THREADS=1 $(TESTING) $(BIN)/python -m pytest $(BY_FILE) -m "slow and not colab" tests

test-all: test test-slow

test-colab: .venv-colab/.installed
	OMP_NUM_THREADS=1 $(TESTING) .venv-colab/bin/python -m pytest $(IN_TWO) -m "colab or not (slow or same_everywhere)" tests
	$(call LESSONS,.venv-colab/bin)

test-gpu: install
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(BIN)/python -m pytest -s tests/gpu

bench: install
	$(BIN)/python benchmarks/packing.py --json
	$(BIN)/python benchmarks/multiple_choice_training.py --json
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json --num_fewshot 5
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json --num_fewshot 5 --sampler first_n
	$(BIN)/python benchmarks/preferences.py --json
	$(BIN)/python benchmarks/policy.py --json
	$(BIN)/python benchmarks/layout.py --json
	$(BIN)/python benchmarks/generation.py --json
	$(BIN)/python benchmarks/attention.py --json
	$(BIN)/python benchmarks/launches.py --json
	$(BIN)/python benchmarks/gpu.py --json
	$(BIN)/python benchmarks/scaling.py --json

docs: install
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_leaderboard.py

site: install
	$(BIN)/python -m mathsft.site

twins: install
	$(BIN)/python notebooks/make_twins.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
