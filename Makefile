# `make serve` and `make test` are all a fresh clone needs; each first makes the environment that it needs.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MODELS ?= exported
# The model for requests that name none, if the models are those of the repository.
DEFAULT_MODEL ?= $(if $(filter exported,$(MODELS)),vqvae-mnist)

VENV := .venv
BIN := $(VENV)/bin
# Where there is an NVIDIA driver, CUDA is installed too: ten times as much.
SERVE_ON ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)
# The environment of the service alone, from the lock of its image, unless the one for everything is up to date.
SERVE := $(if $(shell test $(VENV)/.installed -nt requirements.lock && echo yes),$(VENV),build/serve-$(SERVE_ON))

# What checks the service's page: a type checker, a linter and axe-core, by the npm of the environment.
PAGE := build/page

.PHONY: help serve quick test coverage architecture wheel check fix screenshot docs lock bench peers clean $(VENV)

help:
	@echo "make serve   serve exported/ on http://$(HOST):$(PORT); installs the service alone"
	@echo "make quick   run what takes a minute"
	@echo "make test    run all tests"
	@echo "make coverage      run all tests, report the lines that none runs, and check that 85 % of each wing are run"
	@echo "make architecture  print files, circles, walks and names beside their limits"
	@echo "make wheel   build the wheels of the library with the service, and of the trainer, into dist"
	@echo "make check   lint and type-check, the page of the service too; changes nothing"
	@echo "make fix     format and apply the linter's safe fixes"
	@echo "make screenshot    renew the picture of the page in its document"
	@echo "make docs    build the site from docs/ into build/docs; a dead link fails"
	@echo "make lock    renew requirements.lock, and those of the images, from both pyproject.toml"
	@echo "make peers   install the servers that ours is measured against, into build/peers"
	@echo "make bench   measure the training loop and the service against their peers (installs them into build)"
	@echo "make clean   remove .venv, build, dist and the caches"
	@echo "make .venv   the environment for all else, with PyTorch; made again when the lock is newer"

serve: $(SERVE)/.installed
	$(SERVE)/bin/python -m service --host $(HOST) --port $(PORT) --models $(MODELS) $(if $(DEFAULT_MODEL),--default-model $(DEFAULT_MODEL))

PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder
# The least coverage of each wing and of the library, in per cent of its lines.
COVERED := 85

quick: $(VENV)
	$(PYTEST) -m "not slow and not e2e" --hypothesis-profile quick tests/unit tests/architecture

test: $(VENV) $(PAGE)/.installed
	$(PYTEST)

coverage: $(VENV) $(PAGE)/.installed
	$(PYTEST) -p tests.imported_untraced --cov --cov-report=term-missing:skip-covered
	$(BIN)/python -m tests.covered $(COVERED)

architecture: $(VENV)
	$(BIN)/python -m tests.architecture

# In an environment of their own: wheels are built without PyTorch.
wheel:
	rm -rf dist
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist . ./trainer

check: $(VENV) $(PAGE)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/node $(PAGE)/node_modules/.bin/tsc --project tests/browser/tsconfig.json
	$(BIN)/node $(PAGE)/node_modules/.bin/biome ci --error-on-warnings --config-path tests/browser/biome.json service/page

fix: $(VENV) $(PAGE)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/node $(PAGE)/node_modules/.bin/biome check --write --config-path tests/browser/biome.json service/page

# The picture of the page in docs/page.md.
screenshot: $(VENV)
	$(BIN)/python -m tests.browser.screenshot

docs: build/docs-venv/.installed $(VENV)
	DOCS_PYTHON=$(BIN)/python build/docs-venv/bin/python -m mkdocs build --strict

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-emit-index-url --no-header --no-emit-package tessera-codes --quiet
# An image has the versions that were tested.
COMPILE_IMAGE := $(COMPILE) --constraint requirements.lock

lock: $(VENV)
	$(COMPILE) pyproject.toml trainer/pyproject.toml --extra server --extra hf --extra hub --extra wandb --extra large --extra bulk --extra cluster --extra traces --extra gpu-metrics --group dev -o requirements.lock
	$(COMPILE) trainer/pyproject.toml --group bench --constraint requirements.lock \
		-o tests/benchmarks/requirements.lock
	$(COMPILE) --group docs -o docs/requirements.lock
	$(COMPILE_IMAGE) pyproject.toml --extra server --extra hub --extra cuda --extra large --extra traces --extra gpu-metrics -o docker/cuda.lock
	$(COMPILE_IMAGE) pyproject.toml docker/cpu.in --excludes docker/cpu.excludes --extra server --extra hub --extra large --extra traces -o docker/cpu.lock
	$(COMPILE_IMAGE) trainer/pyproject.toml docker/cpu.in --excludes docker/cpu.excludes --extra hf --extra hub -o docker/trainer.lock
	$(COMPILE) tests/benchmarks/peers.in --no-config -o tests/benchmarks/peers.lock

bench: build/bench/.installed build/peers/.installed $(VENV)
	build/bench/bin/python -m tests.benchmarks training
	$(BIN)/python -m tests.benchmarks serving

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamp is written last, so that an interrupted installation is not taken for a finished one.
define install
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Tessera needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
endef

$(VENV): $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	@test ! -L $(VENV) || { echo "$(VENV) is a link to another environment: install requirements.lock there" >&2; exit 1; }
	$(install)

$(PAGE)/.installed: tests/browser/package-lock.json tests/browser/package.json | $(VENV)
	@mkdir -p $(@D)
	cp tests/browser/package.json tests/browser/package-lock.json $(@D)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --prefix $(@D) --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

build/serve-%/.installed: docker/%.lock
	$(install)

peers: build/peers/.installed

build/peers/.installed: tests/benchmarks/peers.lock
	$(install)

build/bench/.installed: tests/benchmarks/requirements.lock
	$(install)

build/docs-venv/.installed: docs/requirements.lock
	$(install)
