# make rl     the main job: reinforcement learning of the nano policy on this machine's processor
# make test   lint, format check, all tests that are not slow
# Both need nothing but a python3 >= 3.11 with venv. PYTHON=... chooses another, ARGS="--config.key=value" is passed on.

FIND_PYTHON = for p in python3.12 python3.11 python3.13 python3; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done
ifndef PYTHON
PYTHON := $(shell $(FIND_PYTHON))
endif

VENV ?= .venv
# Test files at a time: XLA compiles on one core
WORKERS ?= 2
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready
AHEAD = $(VENV)-ahead
CHECKED = ar1_jax kernels configs tests setup.py

.PHONY: rl test slow fast ahead lint format clean

rl: $(READY)
	$(RUN) -m ar1_jax.main --config=configs/rl.py $(ARGS)

test: lint
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' --cov=ar1_jax --cov-report=term --durations=15 $(ARGS)

slow: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile -m slow --durations=10 $(ARGS)

fast: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile -m 'fast and not slow' $(ARGS)

# Compiles the kernels for chips that are not here: an environment with the compilers of TPUs and GPUs (1.3 GB)
ahead: $(READY) $(AHEAD)/.ready
	AR1_AHEAD_PYTHON=$(AHEAD)/bin/python $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m slow $(wildcard tests/kernels/test_ahead_*.py) --durations=5 $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check $(CHECKED)
	$(RUN) -m ruff format --check $(CHECKED)

format: $(READY)
	$(RUN) -m ruff check --fix $(CHECKED)
	$(RUN) -m ruff format $(CHECKED)

$(READY): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 >= 3.11 with venv found; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -c 'import sys; sys.exit("AR1-JAX needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

$(AHEAD)/.ready: $(READY)
	$(PYTHON) -m venv $(AHEAD)
	$(AHEAD)/bin/python -m pip install --quiet -c constraints.txt -e '.[tpu]' pytest hypothesis
	version=$$($(AHEAD)/bin/python -c 'import importlib.metadata as m; print(m.version("jax"))') && \
	$(AHEAD)/bin/python -m pip install --quiet --no-deps jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version
	touch $(AHEAD)/.ready

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage
