# make quickstart   train and test a small HaloNet on real handwritten digits
# make test         lint, types, the documentation's site and tests
# Both set up .venv first when it is missing or out of date. `make help` lists the rest.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
SETUP_INPUTS := pyproject.toml constraints.txt scripts/setup.sh
# One process a core, one thread a process: more threads than cores makes torch's tests several times slower.
WORKERS ?= auto

export PYTHON
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint setup setup-dev browser docs site clean distclean
.DEFAULT_GOAL := help

help:
	@echo 'make quickstart   set up, train the default model on the digits, test it, say where the result lies'
	@echo 'make test         set up, then ruff, mypy, the site and pytest'
	@echo 'make lint         ruff and mypy only'
	@echo 'make setup        only make .venv with what training needs (setup-dev: and what the tests need)'
	@echo 'make browser      find or install a Chromium, for the tests that look at pages'
	@echo 'make site         build the documentation into build/site, failing on links that lead nowhere'
	@echo 'make docs         draw the pictures of docs/, and the table of backends, again'
	@echo 'make clean        remove caches; make distclean: .venv too'
	@echo 'PYTHON=python3.12 selects the interpreter (3.10 to 3.13)'

# A stamp lies in the environment itself, so that deleting .venv also forgets it.
$(VENV)/.train-is-set-up: $(SETUP_INPUTS)
	@scripts/setup.sh $(VENV) cpu,train,detection
	@touch $@

$(VENV)/.dev-is-set-up: $(SETUP_INPUTS)
	@scripts/setup.sh $(VENV) cpu,train,detection,data,export,explore,docs,dev
	@touch $@ $(VENV)/.train-is-set-up

setup: $(VENV)/.train-is-set-up
setup-dev: $(VENV)/.dev-is-set-up

quickstart: $(VENV)/.train-is-set-up
	@$(BIN)/halonet fit

lint: $(VENV)/.dev-is-set-up
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/.dev-is-set-up
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'build/site/index.html'

test: lint site
	OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --maxprocesses 8 -q

browser: $(VENV)/.dev-is-set-up
	@scripts/browser.sh $(VENV)

docs: $(VENV)/.train-is-set-up
	$(BIN)/python docs/draw_mechanism.py
	$(BIN)/python docs/draw_scenes.py
	$(BIN)/python docs/backend_table.py

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist halonet.egg-info
	find halonet tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
