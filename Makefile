# What can be made is listed by `make`, from the lines with two hashes.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PIP = PYTHONWARNINGS=ignore $(BIN)/python -m pip --quiet --disable-pip-version-check
# twistd finds the plugin only through a folder on sys.path, and that is what "compat" gives;
# setuptools warns at length about it, and we know.
EDITABLE = --config-settings editable_mode=compat --editable
SPHINX = $(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env
METADATA = setup.cfg pyproject.toml smtpproxy/__init__.py

.PHONY: help demo test bench soak fuzz docs release install pins lint format venv deps clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 10

demo: $(VENV)/.installed ## six mails through the proxy to two small upstreams; KEEP=1 stays up
	@$(BIN)/smtpproxy demo $(if $(KEEP),--keep)

test: $(VENV)/.installed-test deps ## everything; ARGS="-k word" for a part
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed-bench deps ## side by side with nginx and others; FULL=1, ARGS="--only one-20"
	@mkdir -p build/bench
	@PYTHON=$(abspath $(BIN))/python bench/install-parts build/bench
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m bench $(if $(FULL),--full) \
	    --json build/bench.json --docs docs/performance.md $(ARGS)

soak: $(VENV)/.installed-test deps ## everything at once, and nothing lost; SOAK_SECONDS=600 SOAK_SEED=n
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m soak \
	    $(if $(SOAK_SECONDS),--seconds $(SOAK_SECONDS)) $(if $(SOAK_SEED),--seed $(SOAK_SEED)) \
	    $(if $(SOAK_WORKERS),--workers $(SOAK_WORKERS)) $(ARGS)

fuzz: $(VENV)/.installed-fuzz ## bytes that nobody meant, new ones each time; FUZZ_SECONDS=60
	@$(BIN)/python -m tests.fuzz $(or $(FUZZ_SECONDS),60) $(ARGS)

docs: $(VENV)/.installed-docs ## a site in build/docs/html, and manual pages in build/docs/man
	@$(SPHINX) -b html -d build/docs/.html docs build/docs/html
	@$(SPHINX) -b man -t man -d build/docs/.man docs build/docs/man

release: $(VENV)/.installed ## dist/smtpproxy-VERSION.tar.gz, with all that install.sh needs
	@export SOURCE_DATE_EPOCH=$$($(BIN)/python -m release epoch) && \
	    $(MAKE) --no-print-directory docs && $(BIN)/python -m release

install: ## copies the tarball and runs install.sh; TARGET_HOST=root@mx.example.net ARGS="--dry-run"
	@[ -n '$(TARGET_HOST)' ] || { \
	    echo 'Name the host: make install TARGET_HOST=root@mx.example.net'; \
	    echo 'On this machine: unpack dist/smtpproxy-*.tar.gz, and run its install.sh as root'; exit 2; }
	@$(MAKE) --no-print-directory release
	@release/install-on '$(TARGET_HOST)' "$$(ls -t dist/smtpproxy-*.tar.gz | head -1)" $(ARGS)

pins: $(VENV)/.installed ## the newest of all that the tarball has, into release/requirements.txt
	@$(BIN)/python -m release pins

lint: $(VENV)/.installed-test ## style, types, and which module may import which
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python -m tests.support.layers

format: $(VENV)/.installed-test ## puts the code into shape
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

venv: $(VENV)/.installed-test ## .venv with all that tests and documentation need, too

deps: $(VENV)/.installed ## programs for the integration tests, on Debian as root
	@PYTHON=$(BIN)/python tests/install-parts

clean: ## takes away all that was made here
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache \
	    .ruff_cache _trial_temp* tests.* twisted/plugins/dropin.cache
	find docs smtpproxy tests twisted -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: $(METADATA) | $(BIN)/pip
	@echo 'Installing smtpproxy into $(VENV)'
	@$(PIP) install $(EDITABLE) .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo 'Installing what the tests need into $(VENV)'
	@$(PIP) install $(EDITABLE) '.[test,dev,docs]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo 'Installing what the documentation needs into $(VENV)'
	@$(PIP) install $(EDITABLE) '.[docs]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	@echo 'Installing what the benchmark needs into $(VENV)'
	@$(PIP) install $(EDITABLE) '.[bench]'
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-test
	@echo 'Installing what fuzzing needs into $(VENV)'
	@$(PIP) install $(EDITABLE) '.[fuzz]' || echo 'atheris cannot be installed here'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo '$(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(INSTALL_VENV)
	@$(PYTHON) -m venv $(VENV)

INSTALL_VENV = \
    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
        echo 'Installing python3-venv'; \
        said=$$(apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y python3-venv 2>&1 </dev/null) || { echo "$$said"; exit 1; }; \
    else \
        echo 'python3-venv is missing. Type as root: apt-get install python3-venv'; exit 1; \
    fi
