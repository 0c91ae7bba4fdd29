# One command for each thing a user or developer does; `make` alone lists them.
# Needs GNU make and Python 3.11 or newer with venv; another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
# Stamps: pip runs when what is asked of it changed, not every time.
TOY := $(VENV)/.installed-toy
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
# Two processes of one thread each: torch's own threads would fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
DEMO := runs/toy
MINUTES ?= 60

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format slow faults soak fuzz audit sbom release docs tutorial clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(TOY) ## install, run the toy study on embedded digits, print its table (minutes)
	@if [ -f $(DEMO)/study.json ]; then \
	  echo "$(DEMO) is finished: writing its report again (remove the folder to run the study anew)"; \
	  $(BIN)/tracerft report $(DEMO); \
	else \
	  $(BIN)/tracerft study toy --size quick --out $(DEMO); \
	fi

test: $(DEV) ## install for development, run the fast tests
	$(PYTEST)

check: $(DEV) ## formatting, lint, types, layers, tests: what .ci/run asks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

format: $(DEV) ## rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: $(DEV) $(DOCS) ## the tests that train for minutes
	$(PYTEST) -m slow || [ $$? -eq 5 ]  # 5: no test carries the marker

faults: $(DEV) ## kill hundreds of runs and compare what resuming makes of them (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m faults tests/faults

soak: $(DEV) ## train with and without kills, 60 minutes or MINUTES=..., and watch memory and handles
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --out docs/results/soak

fuzz: $(DEV) ## damage thousands of files of every kind that is read (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m fuzz tests/fuzz

audit: constraints.txt | $(BIN)/python ## ask for known weaknesses of every pinned package (needs a network)
	@$(BIN)/python -m venv build/audit  # an environment of its own: what pip-audit needs is not ours to pin
	@build/audit/bin/python -m pip install --disable-pip-version-check --quiet 'pip-audit>=2.9' \
	  || { echo "NOT AUDITED: pip-audit cannot be installed" >&2; exit 2; }
	@build/audit/bin/python tests/supply/audit.py constraints.txt

sbom: $(DEV) ## write what is installed as a CycloneDX bill of materials, dist/sbom.json
	@$(BIN)/python -m venv build/sbom  # an environment of its own, or the bill would list what wrote it
	@build/sbom/bin/python -m pip install --disable-pip-version-check --quiet 'cyclonedx-bom>=7.0' \
	  || { echo "NO SBOM: cyclonedx-bom cannot be installed" >&2; exit 2; }
	@mkdir -p dist
	@build/sbom/bin/cyclonedx-py environment --output-reproducible --of JSON --pyproject pyproject.toml \
	  -o dist/sbom.json $(BIN)/python
	@$(BIN)/python -m tests.supply.sbom dist/sbom.json constraints.txt

release: $(DEV) ## build dist/ and check it as the index would
	@rm -f dist/tracerft-*
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/python -m venv build/release  # an environment of its own: what twine needs is not ours to pin
	@build/release/bin/python -m pip install --disable-pip-version-check --quiet 'twine>=6' \
	  || { echo "NOT CHECKED: twine cannot be installed" >&2; exit 2; }
	@build/release/bin/python -m twine check --strict dist/tracerft-*

docs: $(DOCS) ## build the site over docs/ into build/site; python3 -m http.server -d build/site shows it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

tutorial: | $(BIN)/python ## write docs/tutorial.ipynb from docs/tutorial.py
	$(BIN)/python tools/percent.py docs/tutorial.py

clean: ## remove builds and caches; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "tracerft needs Python 3.11 or newer; there is no $(PYTHON) on PATH; \
	install it, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tracerft needs Python 3.11 or newer; \
	$(PYTHON) is `$(PYTHON) -V 2>&1`; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make an environment; install its venv module \
	(Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }

$(TOY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[toy]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(TOY)

$(DOCS): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@
