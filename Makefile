# Needs Python 3.11 or 3.12, pip and make. One environment, made once, for the demo, the tests and
# the documentation.
# `make test PYTHON=python3.12` makes and uses an environment of its own, .venv-python3.12.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Two processes, of which tests/conftest.py says what each has. Its order stands: the long lane first.
PYTEST := $(BIN)/pytest -q -n 2 --dist loadscope --no-loadscope-reorder
.PHONY: install demo demo-full test test-fast faults nodes loop lint style types audit docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25" "setuptools>=77"
	@# torch first and alone: a CPU build that pip can see is kept, and nothing else pulls another.
	$(BIN)/python -m pip install -q "torch>=2.13,<2.14"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,dev,docs]"
	touch $@

demo: install
	$(BIN)/prerank demo

demo-full: install
	@# The services of compose.yaml as plain processes. It says what is missing, and how to get it.
	PYTHONPATH=. $(BIN)/python -m deployments.demo_full

lint: style types

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=platform $(BIN)/lint-imports --no-logo
	$(BIN)/bandit -q -c pyproject.toml -r interactrank platform
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck deployments/compose/*.sh .ci/run

types: install
	$(BIN)/mypy

audit:
	@# An environment of its own: it asks PyPI for known flaws of the pinned versions, by network.
	test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install -q "pip-audit>=2.10,<3"; }
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

docs: install
	@# Not quiet: a quiet build drops its warnings, and with them what --strict stops at.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: install
	@# Side by side: mypy has one core for all of its time.
	$(MAKE) -j 2 types style docs
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

# Seconds of the last fault, in which nothing is killed.
SOAK ?= 1800
faults: install
	@# One process: the faults share a deployment. Needs redis-server, and no other Ray on the machine.
	SOAK=$(SOAK) $(BIN)/pytest -v -s -m faults tests/faults tests/behaviour/test_shards.py tests/behaviour/test_training_job.py tests/behaviour/test_odd_logs.py tests/unit/test_kills.py tests/unit/forget

loop: install
	@# Days of simulated searchers through Ray Serve, MLflow and SQLite. No other Ray on the machine.
	$(BIN)/pytest -v -s -m loop tests/e2e/test_live_loop.py tests/e2e/test_week.py

nodes: install
	@# Two Ray nodes without a shared folder, S3, Redis and MLflow on this machine. Needs redis-server.
	$(BIN)/pytest -v -m nodes tests/e2e/test_two_nodes.py

clean:
	rm -rf .venv .venv-* build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
