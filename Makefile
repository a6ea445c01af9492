# Every target makes ready what it needs, and the last line on STDOUT is its verdict.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup packages system broker demo test test-full check bench bench-check bench-replay simulate bugs faults fuzz audit lock clean

# The newest Python at hand that will do; PYTHON=... chooses another.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests mostly wait for servers; each worker has a broker and a database of its own. 0: one process, for a debugger.
WORKERS ?= 2
PYTEST_OPTIONS ?=
# Of `make fuzz`, and of `make audit`.
SECONDS ?= 60
TARGETS ?= $(notdir $(wildcard tests/fuzz/corpus/*))
ADVISORIES ?= pypi

SYSTEM_PACKAGES := mariadb-server memcached default-jre-headless maven openssl
SYSTEM_PROGRAMS := mariadbd mariadb memcached java mvn openssl
SEARCH_PATH := $(PATH):/usr/sbin:/usr/local/sbin

# A lock is whole, so nothing is resolved: pip up to 23.2 takes a name with an extra, as in coverage[toml], for a name of
# its own, finds a newer release than the locked one, and refuses it. `pip check` tells what a lock would lack.
LOCKED := --quiet --disable-pip-version-check --require-hashes --no-deps

# Hosts of package registries; addresses belong to the machine, not to the project. The brackets keep this line unfound.
REGISTRY_HOSTS := pypi[.]org|python[h]osted[.]org|npmjs[.]org|repo1?[.]maven|crates[.]io|proxy[.]golang|deb[.]debian

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages system broker  ## .venv, the packages of the lock, MariaDB, memcached, Java, the broker's jars
	@echo "setup: ready"

packages: $(VENV)/.installed

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; give it as make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python cannot make a virtual environment; on Debian: apt-get install -y python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install $(LOCKED) -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

system:
	@export PATH='$(SEARCH_PATH)' DEBIAN_FRONTEND=noninteractive; \
	for program in $(SYSTEM_PROGRAMS); do \
		command -v "$$program" >/dev/null && continue; \
		install="apt-get install -y --no-install-recommends $(SYSTEM_PACKAGES)"; \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "$$program is missing; install it, on Debian with: sudo $$install" >&2; exit 1; \
		fi; \
		echo "$$program is missing: $$install"; \
		apt-get -qq update; $$install >/dev/null; break; \
	done

broker: system
	@dev/kafka fetch

demo: setup  ## the whole way on sample traffic, in a minute
	@$(BIN)/python -m stream demo

test: setup  ## all tests but those marked full; the last line is pytest's
	@$(PYTEST) -q -n $(WORKERS) -m "not full" $(PYTEST_OPTIONS)

test-full: setup  ## all tests, the whole product of factors included
	@$(PYTEST) -q -n $(WORKERS) -m "full or not full" $(PYTEST_OPTIONS)

check: packages  ## format, lint, types, rings, dependencies, topics, addresses
	@$(BIN)/ruff format --check --quiet . || { echo "check: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry . --no-ansi
	@$(BIN)/python -m stream topics check --offline
	@! git grep -nIE '$(REGISTRY_HOSTS)' || { echo "check: a tracked file names a registry's host" >&2; exit 1; }
	@echo "check: all well"

bench: setup  ## speed beside its peers on this machine
	@$(BIN)/python -m bench

bench-check: setup  ## a small run of every contestant: do they run, and are our rows right
	@$(BIN)/python -m bench --check

bench-replay: setup  ## replay beside raw multi-row inserts of the same rows; ARGS="--clicks 200000"
	@$(BIN)/python -m bench.replay $(ARGS)

simulate: packages  ## the whole system in one process, seed by seed (SEEDS=200 FROM=0), with every fault, without servers
	@$(BIN)/python -m tests.simulation --seeds $${SEEDS:-200} --from $${FROM:-0} --processes $(WORKERS)

bugs: packages  ## twelve deliberate bugs, each in a copy: does the simulation catch them within SEEDS=200?
	@$(BIN)/python -m tests.simulation.bugs --seeds $${SEEDS:-200} --processes $(WORKERS)

faults: setup  ## every fault on real servers, within the hour, resumable; ARGS="worker-killed", ARGS=--list, ARGS=--anew
	@$(MAKE) system SYSTEM_PROGRAMS="$(SYSTEM_PROGRAMS) faketime" SYSTEM_PACKAGES="$(SYSTEM_PACKAGES) faketime"
	@$(BIN)/python -m tests.faults.matrix $(ARGS)

fuzz: packages  ## each parser for SECONDS=60 against what atheris thinks of; TARGETS="clicks states" chooses
	@$(BIN)/python -m pip install $(LOCKED) -r requirements-fuzz.lock
	@mkdir -p var/fuzz; for target in $(TARGETS); do \
		log="var/fuzz/$$target.log"; \
		$(BIN)/python -m tests.fuzz "$$target" "$(SECONDS)" >"$$log" 2>&1 \
			|| { tail -n 40 "$$log" >&2; echo "fuzz: $$target failed; the input is in var/fuzz" >&2; exit 1; }; \
		echo "$$target: $$(sed -n 's/^stat::number_of_executed_units: *//p' "$$log") inputs"; \
	done
	@echo "fuzz: nothing found"

audit: packages  ## known vulnerabilities of all that is locked, from an advisory service: ADVISORIES=pypi, or osv
	@[ var/audit/.installed -nt requirements-audit.lock ] || { \
		$(PYTHON) -m venv --clear var/audit; \
		var/audit/bin/python -m pip install $(LOCKED) -r requirements-audit.lock; \
		touch var/audit/.installed; }
	@for lock in requirements*.lock; do \
		var/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
			--vulnerability-service $(ADVISORIES) -r $$lock \
			|| { echo "audit: $$lock has known vulnerabilities, or the service could not be asked: see above" >&2; exit 1; }; \
	done
	@echo "audit: nothing known"

lock: packages  ## pin the newest allowed versions with their hashes
	@options="--quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate"; \
	options="$$options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links"; \
	$(BIN)/pip-compile $$options -o requirements.lock pyproject.toml; \
	$(BIN)/pip-compile $$options --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	@echo "lock: requirements.lock and requirements-dev.lock are new; run make setup"

clean:  ## stop the servers of dev/, remove them, the caches and .venv
	@for part in kafka mariadb memcached; do [ ! -e var/$$part ] || dev/$$part wipe; done
	@rm -rf $(VENV) dev/jars dev/.jars.lock var build dist *.egg-info .coverage htmlcov
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: done"
