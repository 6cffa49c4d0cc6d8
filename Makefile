# `make demo` and `make test` do everything on a machine that has Python 3.11 or newer, pip, git and make.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
RUN := $(VENV)/bin

.PHONY: install demo test test-all compat oldest fuzz faults load audit lint types dist clean

install: $(VENV)/installed

# torch first: with a CPU build there, nothing after it asks for gigabytes of CUDA.
$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@echo "installing into $(VENV), PyTorch included: some 2 GB, which takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(RUN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

# Train a small Whisper of random weights on generated speech, then let a process without this package use it.
demo: install
	$(RUN)/python scripts/train.py --config scripts/recipes/demo.yaml
	$(RUN)/python scripts/try_pipeline.py --model runs/demo data/synthetic/S01F/S01F_angry_01.wav
	@echo "These are the probabilities for one file. Next: 'A label for a recording' in README.md."

# One worker a core. Whole files go to a worker, so that fixtures of a module are made once; the longest go first.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST)

# With the tests marked slow: faults, fuzz, load, thousands of files, versions of transformers.
test-all: install
	$(PYTEST) -m "slow or not slow"

# Saved folders and training with more versions of transformers than `make test-all` tries.
compat: install
	TRANSFORMERS_VERSIONS="4.57.1 4.57.6 5.0.0 5.4.0 5.12.0 5.18.0 newest" $(RUN)/python -m pytest -m slow tests/compat

# All tests on the oldest versions; this torch comes with CUDA, which are gigabytes.
oldest:
	$(MAKE) test-all PYTHON=python3.11 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# Bad input through every entrance: thousands of cases, in minutes.
fuzz: install
	HF_HUB_OFFLINE=1 $(RUN)/python tests/fuzz/fuzz.py

# The dependencies' known advisories; needs the network, and fails where it cannot ask about one of them.
audit: install
	$(RUN)/python -m pip install --quiet pip-audit
	$(RUN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# Kill, terminate and fill the disk of every command at random moments: 50 of them, or MOMENTS=10.
MOMENTS ?= 50
faults: install
	$(RUN)/python tests/faults.py --moments $(MOMENTS)

# 64 clients at the page and at a stream for five minutes each, and 100,000 clips; OPTIONS="--minutes 1" for less.
load: install
	HF_HUB_OFFLINE=1 $(RUN)/python tests/load.py $(OPTIONS)

lint: install
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports

types: install
	$(RUN)/pyright

# Build the wheel and the source archive, and check their metadata as PyPI does.
dist: install
	rm -rf dist
	$(RUN)/python -m pip install --quiet build twine
	$(RUN)/python -m build --outdir dist
	$(RUN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-oldest .compat runs data .pytest_cache .ruff_cache .hypothesis
