# Every target makes ready what it needs, and the last line on STDOUT is its verdict.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup packages system broker demo test test-full check bench bench-check simulate faults lock clean

# The newest Python at hand that will do; PYTHON=... chooses another.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests mostly wait for servers; each worker has a broker and a database of its own. 0: one process, for a debugger.
WORKERS ?= 2
PYTEST_OPTIONS ?=

SYSTEM_PACKAGES := mariadb-server memcached default-jre-headless maven
SYSTEM_PROGRAMS := mariadbd mariadb memcached java mvn
SEARCH_PATH := $(PATH):/usr/sbin:/usr/local/sbin

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
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

simulate: setup  ## random histories of events and crashes against an oracle, without servers
	@SIMULATED_SEEDS=$${SIMULATED_SEEDS:-1000} $(PYTEST) -q -n $(WORKERS) tests/simulation $(PYTEST_OPTIONS)

faults: setup  ## kills, freezes and lost replies on real servers
	@$(PYTEST) -q tests/faults -m "full or not full" $(PYTEST_OPTIONS)

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
