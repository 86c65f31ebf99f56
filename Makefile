# `make train` and `make test` install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits
# Flags of `make chaos`, such as CHAOS='--kills=30 --disks=5'.
CHAOS ?=
# Flags of `make fuzz`, such as FUZZ='--minutes=5 --fuzz_seed=1'.
FUZZ ?=
BIN := $(VENV)/bin
# The newest interpreters on this machine, by name or by pyenv.
NEWER := $(wildcard $(shell pyenv root 2>/dev/null)/versions/3.1[23].*/bin/python) \
  $(shell command -v python3.12 python3.13 2>/dev/null | grep -v shims)

.PHONY: train test test-slow bench chaos fuzz test-all lint format docs docs-serve clean

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

format: $(VENV)/installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The tests on each newer interpreter with the newest packages there are.
test-all: test test-slow
	@for python in $(NEWER); do \
	  venv=$(VENV)-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "Testing with the newest packages on $$python, in $$venv."; \
	  $$python -m venv $$venv && \
	  $$venv/bin/pip install -q --upgrade --upgrade-strategy=eager -e '.[test]' && \
	  $$venv/bin/python -m pytest -q -n 2 || exit 1; \
	done

# Fails on a broken link, reference or example.
docs: $(VENV)/documenting
	@echo 'Building the documentation into docs/build.'
	@$(BIN)/sphinx-build -q -W --keep-going -j auto docs docs/build

docs-serve: docs
	@$(PYTHON) -m http.server --directory docs/build

$(VENV)/documenting: $(VENV)/installed
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@echo 'Creating $(VENV) and installing adaopt, its experiments and its tests (once, a minute or two).'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* .pytest_cache runs
