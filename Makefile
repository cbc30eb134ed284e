# The words of the house. Each works on a fresh checkout: what it needs is made first and remembered in .venv/.
# ARGS adds arguments to the command behind a word: make serve ARGS="--listen tcp://0.0.0.0:1883"
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
ENGINE := $(wildcard fastmq/_*.pyx fastmq/_*.pxd)

.PHONY: serve build test check bench micro spec fuzz crash cluster asan wheel sdist docs clean

serve: build
	$(BIN)/fastmq serve $(ARGS)

build: $(VENV)/.built

test: build $(VENV)/.installed-dev $(VENV)/.provisioned
	$(BIN)/pytest $(ARGS)

check: build $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH=$(BIN):$$PATH cython-lint fastmq  # it looks for pycodestyle on the path
	$(BIN)/python -m tests.check_stubs

bench: build $(VENV)/.installed-dev $(VENV)/.provisioned
	$(BIN)/python -m bench $(ARGS)

# The same tests run in `make test`, once each and without the clock.
micro: build $(VENV)/.installed-dev
	$(BIN)/pytest bench/micro --benchmark-enable --benchmark-only $(ARGS)

spec: build $(VENV)/.installed-dev $(VENV)/.provisioned
	$(BIN)/pytest tests/spec $(ARGS)

fuzz: build $(VENV)/.installed-dev
	$(BIN)/pytest tests/fuzz $(ARGS)

# The same tests run in `make test`, with fewer rounds.
crash: build $(VENV)/.installed-dev $(VENV)/.provisioned
	CRASH_ROUNDS=200 $(BIN)/pytest tests/crash $(ARGS)

# The same.
cluster: build $(VENV)/.installed-dev $(VENV)/.provisioned
	CRASH_ROUNDS=30 $(BIN)/pytest tests/cluster $(ARGS)

asan: $(VENV)/.installed-dev $(VENV)/.provisioned
	bash .ci/asan.sh $(ARGS)

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel

sdist: $(VENV)/.installed-dev
	$(BIN)/python -m build --sdist

docs: build
	$(BIN)/python -m fastmq.config.reference

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info fastmq/*.so $(VENV)/.built
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.made: scripts/make-venv.sh
	PYTHON=$(PYTHON) scripts/make-venv.sh $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py
	FASTMQ_ENGINE=0 $(PIP) install --no-build-isolation -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	FASTMQ_ENGINE=0 $(PIP) install --no-build-isolation -e '.[dev]'
	touch $@

$(VENV)/.provisioned: tests/provision.sh tests/interop/node/package.json tests/interop/node/package-lock.json
	bash tests/provision.sh
	touch $@

$(VENV)/.built: $(VENV)/.installed $(ENGINE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@
