# Every command a person types here. `make` alone prints them.
#
# What is installed: .venv from hashed pins (requirements.txt to run, requirements-dev.txt to test) and
# .venv-swift for the object storage the tests start. A second run installs nothing and needs no network.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter that makes the environments: the first of these that is 3.11 or newer.
PYTHON ?= python3 python3.13 python3.12 python3.11
# How many test processes run side by side, and what else pytest is told.
TEST_PROCESSES ?= 3
ARGS ?=
# The versions of Python that the library is tried on besides; which mutants of it are made, and for how long.
OTHER_PYTHONS ?= 3.12 3.13
MUTANTS ?=
MUTATION_SECONDS ?= 3600

BIN := .venv/bin
RUN_READY := .venv/.installed-run
TEST_READY := .venv/.installed-test
BENCH_READY := .venv/.installed-bench
SWIFT_READY := .venv-swift/.installed
KEYSTONE_READY := .venv-keystone/.installed
RIVALS_READY := .venv-thumbor/.installed

# An environment whose interpreter went away (a system upgrade, a moved folder) is made anew.
STALE := $(foreach folder,.venv .venv-swift .venv-keystone,$(shell [ ! -e $(folder) ] || $(folder)/bin/python -c 'import pip' 2>/dev/null || echo $(folder)))
ifneq ($(strip $(STALE)),)
$(shell rm -rf $(STALE))
endif

# $(call install,FOLDER,REQUIREMENTS): make the environment if it is not there, then install the hashed pins.
define install
if [ ! -x $(1)/bin/python ]; then
	chosen=
	for candidate in $(PYTHON); do
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then chosen=$$candidate; break; fi
	done
	if [ -z "$$chosen" ]; then
		echo "Photo API needs Python 3.11 or newer; none of these is: $(PYTHON)." >&2
		echo "Install it (apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2
		exit 1
	fi
	if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then
		echo "$$chosen has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2
		exit 1
	fi
	echo "Making $(1) with $$("$$chosen" --version)"
	"$$chosen" -m venv $(1)
fi
echo "Installing $(2) into $(1)"
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r $(2)
endef

.PHONY: help
help: ## Print this list
	@sed -nE 's/^([a-z-]+):.* ## (.*)$$/  make \1|\2/p' Makefile | while IFS='|' read -r target sentence; do
		printf '%-20s %s\n' "$$target" "$$sentence"
	done

.PHONY: run
run: $(RUN_READY) ## Install, migrate and serve on http://127.0.0.1:8000 (PORT= and PHOTO_API_… override)
	@$(if $(PORT),export PHOTO_API_SERVER__BIND=127.0.0.1:$(PORT))
	$(BIN)/python -m app migrate
	exec $(BIN)/python -m app serve

# Hundreds of processes of the product import the same modules: they are compiled once, whatever the environment says.
.PHONY: test
test: export PYTHONDONTWRITEBYTECODE :=
test: $(TEST_READY) servers ## Install what the tests need, then run every test (ARGS='-k name' picks some)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup $(ARGS)

.PHONY: check
check: lint types imports coverage test ## What CI runs: lint, types, import contracts, coverage, every test

.PHONY: lint
lint: $(TEST_READY) ## Judge style and format (ruff)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(TEST_READY) ## Judge types (mypy --strict; pyright too on app/stability)
	@$(BIN)/mypy
	$(BIN)/basedpyright

.PHONY: imports
imports: $(TEST_READY) ## Judge who imports whom (import-linter)
	@$(BIN)/lint-imports

# The hammer of many threads is left out: it reaches no line that others do not, and tracing slows it tenfold.
.PHONY: coverage
coverage: $(TEST_READY) ## Run the tests of app/stability; every line and branch of it must be reached
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/stability --ignore=tests/stability/test_hammer.py $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: compatibility
compatibility: ## Run the tests of app/stability on other versions of Python (OTHER_PYTHONS=)
	@tests/stability/run-on-other-pythons $(OTHER_PYTHONS)

.PHONY: mutation
mutation: $(TEST_READY) ## Change app/stability bit by bit: do its tests notice? (MUTANTS='app.stability.call.*')
	@tests/stability/run-mutations $(BIN) $(MUTATION_SECONDS) $(MUTANTS)

.PHONY: bench
bench: $(BENCH_READY) $(RIVALS_READY) servers ## Measure ratios, print them and write var/bench/*.json
	@tests/servers/install-debian-packages wrk
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: breaker-drill
breaker-drill: $(TEST_READY) servers ## Rehearse an outage of the object store on real servers, step by step
	@$(BIN)/python -m tests.drills.breaker_drill $(ARGS)

.PHONY: load
load: $(TEST_READY) servers ## Offer 1, 2, 5 and 10 times what the server can carry; write var/bench/load.json
	@$(BIN)/python -m benchmarks.load $(ARGS)

.PHONY: drain-drill
drain-drill: $(TEST_READY) servers ## Rehearse stops and reloads behind a load balancer: no request may be lost
	@$(BIN)/python -m tests.drills.drain_drill $(ARGS)

.PHONY: delivery-drill
delivery-drill: $(TEST_READY) servers ## Rehearse a CDN, a store and a Redis that go and come back, under load
	@$(BIN)/python -m tests.drills.delivery_drill $(ARGS)

.PHONY: extended
extended: $(TEST_READY) servers $(KEYSTONE_READY) compatibility mutation ## Run the long proofs that are not part of every CI run
	@$(BIN)/python -m pytest -m extended $(ARGS)

.PHONY: servers
servers: $(SWIFT_READY) ## Install the real servers the tests start (PostgreSQL, MariaDB, nginx, …)
	@tests/servers/install-debian-packages postgresql mariadb-server nginx libnginx-mod-http-js redis-server haproxy openssl systemd libimage-exiftool-perl

.PHONY: requirements
requirements: $(TEST_READY) ## Compile requirements*.txt from requirements*.in (ARGS=--upgrade for newer versions)
	@compile() {
		$(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes --strip-extras --no-header \
			--no-emit-find-links --no-emit-index-url --no-emit-trusted-host $(ARGS) "$$@"
	}
	compile --output-file requirements.txt requirements.in
	compile --constraint requirements.txt --output-file requirements-dev.txt requirements-dev.in
	compile --constraint requirements-dev.txt --output-file requirements-heif.txt requirements-heif.in
	compile --output-file requirements-swift.txt requirements-swift.in
	compile --output-file requirements-keystone.txt requirements-keystone.in
	compile --output-file requirements-bench.txt requirements-bench.in
	compile --output-file requirements-thumbor.txt requirements-thumbor.in

.PHONY: clean
clean: ## Remove the environments and caches; var/, which holds your photos, stays
	@rm -rf .venv .venv-swift .venv-keystone .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage* mutants
	find app tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_READY): requirements.txt
	@$(call install,.venv,requirements.txt)
	touch $@

$(TEST_READY): requirements-dev.txt
	@$(call install,.venv,requirements-dev.txt)
	touch $@

$(BENCH_READY): $(TEST_READY) requirements-bench.txt
	@$(call install,.venv,requirements-bench.txt)
	touch $@

# A test that misses this server says so itself: a loud, counted skip, or a failure when CI=true.
# Other servers of images, for `make bench`: Thumbor from PyPI, ipx from npm.
$(RIVALS_READY): requirements-thumbor.txt benchmarks/renditions/package.json
	@$(call install,.venv-thumbor,requirements-thumbor.txt)
	tests/servers/install-debian-packages nodejs npm
	mkdir -p var/bench/ipx
	cp benchmarks/renditions/package.json var/bench/ipx
	npm install --prefix var/bench/ipx --no-audit --no-fund --silent
	touch $@

$(SWIFT_READY): requirements-swift.txt
	@if ! ( $(call install,.venv-swift,requirements-swift.txt) ); then
		echo "NOTE: OpenStack Swift could not be installed: the tests that need it will be skipped, or fail with CI=true" >&2
		exit 0
	fi
	touch $@

$(KEYSTONE_READY): requirements-keystone.txt
	@if ! ( $(call install,.venv-keystone,requirements-keystone.txt) ); then
		echo "NOTE: Keystone could not be installed: the tests that need it will be skipped, or fail with CI=true" >&2
		exit 0
	fi
	touch $@
