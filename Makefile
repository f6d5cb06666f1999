# make course   install into .venv and run the lessons offline with the embedded model
# make test     the quick tests and all notebooks, newest stack
# make help     the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The course as it is shown runs on the embedded model; `make course MATHSFT_PROFILE=t4` uses
# a GPU. The tests compare numbers of a CPU, offline, whatever else this machine has.
MATHSFT_PROFILE ?= tiny
export MATHSFT_PROFILE
TESTING := MATHSFT_PROFILE=tiny MATHSFT_SOURCE= MATHSFT_MATHQA= MATHSFT_OBJECTIVE= CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1
# Two processes of one thread each: faster than one of two, and PyTorch's threads do not compete.
IN_TWO := -n 2 --dist worksteal
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600
# Lesson 04 finds what 03 made, so these two stand in one row, the others in another beside it.
# They begin with an empty folder of runs: what an earlier test left must not be gone on from.
ROW := notebooks/03_mathqa_mixing.ipynb notebooks/04_evaluation.ipynb
OTHERS := $(filter-out $(ROW),$(sort $(wildcard notebooks/*.ipynb))) notebooks/solutions
define NOTEBOOKS
rm -rf runs/test
export OMP_NUM_THREADS=1 MATHSFT_RUNS=$(CURDIR)/runs/test $(TESTING); \
$(1)/python -m pytest $(NBVAL) -p no:cacheprovider $(OTHERS) & others=$$!; \
$(1)/python -m pytest $(NBVAL) $(ROW); row=$$?; wait $$others && exit $$row
endef

.PHONY: help install course test test-slow test-colab test-gpu bench format check

help:
	@echo "make course      install, then run every lesson (pages and a report in runs/course)"
	@echo "make test        quick tests and notebooks on the newest stack"
	@echo "make test-slow   the tests that take longer: kills, several processes, whole lessons"
	@echo "make test-colab  make test on Colab's versions, and what only Colab does (needs a registry)"
	@echo "make test-gpu    what needs a CUDA device: exactness, memory, speed in half precision"
	@echo "make bench       every benchmark"
	@echo "make format      let ruff format code and notebooks"
	@echo "make check       fail where format, lint or types are off"

$(VENV)/.installed: requirements.txt pyproject.toml constraints/latest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints/latest.txt -r requirements.txt -e ".[dev]"
	touch $@

.venv-colab/.installed: requirements.txt pyproject.toml constraints/colab.txt
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -q --upgrade pip
	.venv-colab/bin/python -m pip install -q -c constraints/colab.txt -r requirements.txt -e ".[dev]"
	touch $@

install: $(VENV)/.installed

course: install
	$(BIN)/mathsft course

test: install
	OMP_NUM_THREADS=1 $(TESTING) $(BIN)/python -m pytest $(IN_TWO) -m "not colab and not slow" tests
	$(call NOTEBOOKS,$(BIN))

test-slow: install
	OMP_NUM_THREADS=1 $(TESTING) $(BIN)/python -m pytest $(IN_TWO) -m "slow and not colab" tests

test-colab: .venv-colab/.installed
	OMP_NUM_THREADS=1 $(TESTING) .venv-colab/bin/python -m pytest $(IN_TWO) -m "colab or not slow" tests
	$(call NOTEBOOKS,.venv-colab/bin)

test-gpu: install
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(BIN)/python -m pytest -s tests/gpu

bench: install
	$(BIN)/python benchmarks/packing.py --json
	$(BIN)/python benchmarks/multiple_choice_training.py --json
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json --num_fewshot 5
	$(BIN)/python benchmarks/multiple_choice_scoring.py --json --num_fewshot 5 --sampler first_n
	$(BIN)/python benchmarks/scaling.py --json

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
