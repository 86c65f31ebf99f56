# `make train` and `make test` install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits
# Flags of `make chaos`, such as CHAOS='--kills=30 --disks=5'.
CHAOS ?=
# What `make test-oldest` and its like run, such as TESTS=tests/criteria.
TESTS ?=
# Flags of `make fuzz`, such as FUZZ='--minutes=5 --fuzz_seed=1'.
FUZZ ?=
BIN := $(VENV)/bin
# The newest interpreters on this machine, by name or by pyenv.
NEWER := $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.1[23].*/bin/python) \
  $(shell command -v python3.12 python3.13 2>/dev/null | grep -v shims)

.PHONY: train test test-slow test-all test-oldest test-newest test-nightly lint
.PHONY: format bench chaos fuzz docs docs-serve package clean

train: $(VENV)/installed
	@echo 'Training on digits, shifted at random: one adaptive run against the best of a sweep; results go to $(WORKDIR).'
	@$(BIN)/python -m adaopt.experiments.frontier --config=experiments/configs/frontier.py:digits_shifted --schemes=adaptive_1 --seeds=3 --workdir=$(WORKDIR)

bench: $(VENV)/installed
	@echo 'Timing gradient statistics against a plain gradient (ten minutes; leave the machine alone).'
	@$(BIN)/python -m adaopt.experiments.benchmarks.statistics

chaos: $(VENV)/installed
	@echo 'Killing runs at random, filling disks, starting second processes; leave it running.'
	@$(BIN)/python tests/chaos $(CHAOS)

fuzz: $(VENV)/installed
	@echo 'Drawing random programs, comparing their statistics with vmap(grad) for an hour; leave it running.'
	@$(BIN)/python tests/fuzz $(FUZZ)

test: lint
	@echo 'Running the quick tests and the doctests on two workers; make test-slow runs the others.'
	@$(BIN)/python -m pytest -q -n 2 -m 'not slow'

test-slow: $(VENV)/installed
	@echo 'Running the slow tests on two workers (half an hour).'
	@$(BIN)/python -m pytest -q -n 2 -m slow

lint: $(VENV)/installed
	@echo 'Checking style with ruff.'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo 'Checking types with pyrefly.'
	@$(BIN)/pyrefly check --summary=none --python-interpreter-path $(BIN)/python

format: $(VENV)/installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The tests with the oldest packages that setup.cfg admits, with the newest, and
# with the nightly builds of JAX (of the index in UV_INDEX), each in an
# environment of its own.
OLDEST := --resolution=lowest-direct
NEWEST := --upgrade
NIGHTLY := --upgrade --prerelease=allow

test-oldest: $(VENV)-oldest/installed
test-newest: $(VENV)-newest/installed
test-nightly: $(VENV)-nightly/installed
test-oldest test-newest test-nightly: test-%:
	@echo 'Running the tests with the $* packages.'
	@$(VENV)-$*/bin/python -m pytest -q -n 2 $(TESTS)

$(VENV)-oldest/installed: RESOLUTION = $(OLDEST)
$(VENV)-newest/installed: RESOLUTION = $(NEWEST)
$(VENV)-nightly/installed: RESOLUTION = $(NIGHTLY)
$(VENV)-%/installed: setup.cfg pyproject.toml
	@echo 'Creating $(VENV)-$* and installing the $* packages.'
	@$(PYTHON) -m venv $(VENV)-$*
	@$(VENV)-$*/bin/pip install -q --disable-pip-version-check uv
	@$(VENV)-$*/bin/uv pip install -q --python $(VENV)-$* $(RESOLUTION) -e '.[test]'
	@touch $@

# The tests on each newer interpreter with the newest packages there are.
test-all: test test-slow
	@for python in $(NEWER); do \
	  $(MAKE) test-newest PYTHON=$$python \
	    VENV=$(VENV)-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
	done

# The wheel, installed in an empty environment and imported there.
package: $(VENV)/packaging
	@rm -rf build dist $(VENV)-wheel
	@$(BIN)/python -m build -o dist
	@$(BIN)/twine check --strict dist/*
	@$(PYTHON) -m venv $(VENV)-wheel
	@$(VENV)-wheel/bin/pip install -q --disable-pip-version-check dist/*.whl
	@cd dist && ../$(VENV)-wheel/bin/python -c 'import adaopt; print(adaopt.__version__, adaopt.__file__)'

$(VENV)/packaging: $(VENV)/installed
	@$(BIN)/pip install -q --disable-pip-version-check build twine
	@touch $@

# Fails on a broken link, reference or example.
docs: $(VENV)/documenting
	@echo 'Building the documentation into docs/build/html (some minutes).'
	@$(BIN)/sphinx-build -M html docs docs/build -q -W --keep-going

docs-serve: docs
	@$(PYTHON) -m http.server --directory docs/build/html

$(VENV)/documenting: $(VENV)/installed
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@echo 'Creating $(VENV) and installing adaopt, its experiments and its tests (once, a minute or two).'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* .pytest_cache build dist runs \
	  docs/build docs/api docs/gallery docs/notebooks docs/sg_execution_times.rst
