# A thin door to the commands of the README. `make` alone lists the targets.
#
# One environment, $(VENV), serves all of them. It always holds the built wheel, never the checkout.
# Each step leaves a stamp and is repeated only when what it depends on has changed.

PYTHON      ?= python3
VENV        ?= .venv
BIN          = $(VENV)/bin
PIP         ?= $(BIN)/python -m pip
# The tests of a file run on one of pytest's workers, so that what they share, a Ray cluster or a corpus, is made once.
# By file: the groups of xdist 3.8 are none under pytest 9.2, silently.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile

CONSTRAINTS  = constraints.txt
# Its interpreter runs the GPU kernels' tests on a CPU; torch for CUDA brings a Triton of its own, which stays.
TRITON       = triton==3.9.0
# Found by the shell of the recipe: make reads a recipe's lines before the first of them has built the wheel.
WHEEL        = $$(echo "$(CURDIR)"/dist/cdgen-*.whl)
# Folders are listed too, so that a deleted file counts as a change.
PACKAGED    := pyproject.toml README.md LICENSE NOTICE \
               $(shell find cdgen recipes builders -name __pycache__ -prune -o -print)

.DEFAULT_GOAL := help
.PHONY: help quickstart install smoke dev format check format-check lint types layers test test-hub constraints docs docs-reference clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|'

quickstart: install ## Build the quickstart corpus: make the environment, install cdgen, `cdgen build quickstart`.
	$(BIN)/cdgen build quickstart

install: $(VENV)/.installed ## Install cdgen (the built wheel) and what it needs at run time.

smoke: install ## Time `cdgen --help`; before `make dev` this runs with run-time dependencies only.
	@$(BIN)/python -c "from importlib.util import find_spec; print('smoke:', 'the development tools are installed too' if find_spec('pytest') else 'run-time dependencies only')"
	@$(BIN)/python -c "import subprocess, sys, time; t = time.perf_counter(); subprocess.run(sys.argv[1:], check=True); s = time.perf_counter() - t; print(f'cdgen --help took {s:.2f} s (limit 2 s)'); sys.exit(s > 2)" $(BIN)/cdgen --help

dev: $(VENV)/.dev ## Add the tools of CONTRIBUTING.md to the environment.

format: dev ## Rewrite the source in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

check: format-check lint types layers ## Everything that reads the source: format, lint, types, layers.

format-check: dev
	$(BIN)/ruff format --check .

lint: dev
	$(BIN)/ruff check .

types: dev
	$(BIN)/mypy

layers: dev
	$(BIN)/lint-imports

test: install dev ## Run the tests on the installed wheel, from outside the checkout.
	@elsewhere=$$(mktemp -d) && trap 'rm -rf "$$elsewhere"' EXIT && cd "$$elsewhere" && \
	CDGEN_WHEEL="$(WHEEL)" "$(abspath $(BIN))/python" -m pytest \
	    -c "$(CURDIR)/pyproject.toml" $(PYTEST_ARGS) "$(CURDIR)/tests"

# Each in an environment of its own that holds one package and looks for the others in $(VENV).
test-hub: install dev ## Run the tests of publishing on the oldest and the newest huggingface_hub that cdgen supports.
	@set -e; floor=$$(sed -n 's/^ *"huggingface_hub>=\([0-9.]*\),<\([0-9]*\)".*/==\1/p' pyproject.toml); \
	below=$$(sed -n 's/^ *"huggingface_hub>=\([0-9.]*\),<\([0-9]*\)".*/<\2/p' pyproject.toml); \
	for version in "$$floor" "$$below"; do \
	    rm -rf build/hub && $(BIN)/python -m venv build/hub; \
	    $(BIN)/python -c "import site; print('import site; site.addsitedir(%r)' % site.getsitepackages()[0])" \
	        > "$$(build/hub/bin/python -c 'import site; print(site.getsitepackages()[0])')/beside.pth"; \
	    build/hub/bin/python -m pip install --quiet --upgrade "huggingface_hub$$version"; \
	    build/hub/bin/python -c "import huggingface_hub; print('huggingface_hub', huggingface_hub.__version__)"; \
	    (elsewhere=$$(mktemp -d) && trap 'rm -rf "$$elsewhere"' EXIT && cd "$$elsewhere" && \
	     "$(CURDIR)/build/hub/bin/python" -m pytest -c "$(CURDIR)/pyproject.toml" $(PYTEST_ARGS) "$(CURDIR)/tests/hub"); \
	done

constraints: ## Resolve the pinned set again in a fresh environment and write constraints.txt.
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	grep '^torch==' $(CONSTRAINTS) > build/torch.txt
	build/constraints/bin/python -m pip install --quiet -c build/torch.txt '.[dev,ray]'
	{ sed -n '/^#/p' $(CONSTRAINTS); \
	  build/constraints/bin/python -m pip freeze --exclude cdgen \
	  | sed -e 's/+[a-z0-9.]*$$//' -e '/^cuda-/d' -e '/^nvidia-/d' -e '/^triton=/d'; } > build/constraints.txt
	mv build/constraints.txt $(CONSTRAINTS)
	rm -rf build/constraints build/torch.txt

docs: install dev ## Build the guide as a site, in build/docs; every link in it must lead somewhere.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet -f docs/site/mkdocs.yml

# From the installed wheel, so that the files say what the program does.
docs-reference: install ## Write the JSON Schemas, docs/recipes.md, docs/run-files.md and docs/sweep-files.md again, after a change of the schema.
	@mkdir -p build
	$(BIN)/cdgen schema recipe > build/schema && mv build/schema recipes/recipe.schema.json
	$(BIN)/cdgen schema builder > build/schema && mv build/schema builders/builder.schema.json
	$(BIN)/cdgen schema run > build/schema && mv build/schema recipes/run.schema.json
	$(BIN)/python -m cdgen.recipes.reference > build/reference && mv build/reference docs/recipes.md
	$(BIN)/python -m cdgen.recipes.reference runs > build/reference && mv build/reference docs/run-files.md
	$(BIN)/cdgen schema sweep > build/schema && mv build/schema recipes/sweep.schema.json
	$(BIN)/python -m cdgen.recipes.reference sweeps > build/reference && mv build/reference docs/sweep-files.md

clean: ## Remove the environment, the wheel and the caches (never shards/).
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cdgen needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot create environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@touch $@

dist/.built: $(PACKAGED) | $(VENV)/.created
	rm -f dist/*.whl
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@touch $@

$(VENV)/.installed: dist/.built $(CONSTRAINTS)
	@echo "Installing cdgen and what it needs into $(VENV) (the first time: some minutes, mostly for torch)"
	@$(PIP) uninstall --quiet --yes cdgen 2>/dev/null
	$(PIP) install --quiet -c $(CONSTRAINTS) "$(WHEEL)"
	@touch $@

# Not a prerequisite but a step: the checks read the source and need no fresh wheel.
$(VENV)/.dev: pyproject.toml $(CONSTRAINTS)
	@$(MAKE) --no-print-directory install
	$(PIP) install --quiet -c $(CONSTRAINTS) "$(WHEEL)[dev]"
	@$(BIN)/python -c "import triton" 2>/dev/null || $(PIP) install --quiet --no-deps $(TRITON)
	@touch $@
