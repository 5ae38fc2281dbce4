# `make test` and `make demo` are all a newcomer needs. Each builds .venv when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# The matrices of the tests and the demo are small: more threads than this cost more than they bring, and a fixed
# number keeps timings comparable. OMP_NUM_THREADS=8 make bench-mnist overrides it.
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup check test demo bench-mnist bench-peer bench-shards bench-forget bench-geometry bench-closed-forms bench-planted clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 22

setup: $(READY)  ## build .venv with all extras, at the versions of constraints.txt

# Touched last: an installation that broke half-way is tried again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt is for Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make setup PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[all]'
	@touch $@

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## everything that must hold before a commit: check, then the tests
	$(BIN)/python -m pytest

demo: $(READY)  ## memories found, taken out and put back in networks trained on real digits; about two minutes
	$(BIN)/lashley demo --out demo-out

bench-mnist: $(READY)  ## the paper's MLP on MNIST, three seeds; rewrites the committed results
	$(BIN)/python -m benchmarks.mnist

bench-peer: $(READY)  ## beside the authors' package (pip install ai-engram==0.11.0; texts need LASHLEY_MODELS); rewrites the committed results
	$(BIN)/python -m benchmarks.peer
	for case in texts images classes; do \
	  $(BIN)/python -m benchmarks.peer --config benchmarks/peer/$$case.json --out benchmarks/peer/results/$$case || exit; done

bench-shards: $(READY)  ## a checkpoint of 16 GB rewritten within 4 GiB; rewrites the committed results; needs 40 GB of disk
	$(BIN)/python -m benchmarks.shards

bench-forget: $(READY)  ## authors forgotten by a small language model (checkpoints in LASHLEY_MODELS); rewrites the committed results
	$(BIN)/python -m benchmarks.forget_tofu_mini

bench-geometry: $(READY)  ## spectra, overlaps and natural-gradient steps (tofu needs LASHLEY_MODELS); rewrites the committed results
	$(BIN)/python -m benchmarks.geometry --config benchmarks/geometry/mlp.json --out benchmarks/geometry/results/mlp
	$(BIN)/python -m benchmarks.geometry --out benchmarks/geometry/results/convnet
	$(BIN)/python -m benchmarks.geometry --config benchmarks/geometry/tofu.json --out benchmarks/geometry/results/tofu

bench-closed-forms: $(READY)  ## every closed form beside the retrained network, MNIST and CIFAR-10; rewrites the committed results; goes on where it stopped
	$(BIN)/python -m benchmarks.closed_forms

bench-planted: $(READY)  ## memories planted where they can be looked for; rewrites the committed results
	$(BIN)/python -m benchmarks.planted

clean:  ## remove .venv and everything these commands leave
	rm -rf .venv demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
