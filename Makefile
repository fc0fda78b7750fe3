# Two commands set everything up on a machine with Python >= 3.11, git and make: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
# Plain `snakemake --cores all` does the same; its hundreds of short jobs then each load their libraries.
SNAKEMAKE := $(BIN)/python -m modalign.preload $(BIN)/snakemake --cores all
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/src
# Large packages are compiled when they are first imported; keep that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test smoke lint format bench lock clean

demo: $(STAMP)  ## the default run: all tables and figures on built-in phantoms
	$(SNAKEMAKE)
	@echo
	@# Without the marks that only a Markdown viewer understands.
	@sed 's/<br><sub>/ (/g; s/<\/sub>/)/g; s/<\/\?ins>//g; s/\\\*/*/g; s/&lt;/</g' results/papers/rbg/table_1.md
	@echo
	@echo "The report is at $(CURDIR)/results/report.html"

test: $(STAMP)  ## the test suite
	$(BIN)/python -m modalign.preload $(BIN)/python -m pytest -n 2 --dist worksteal

smoke: $(STAMP)  ## the whole workflow, tiny
	$(SNAKEMAKE) --directory results/smoke --configfile config.yaml config/smoke.yaml --quiet progress

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow
	$(BIN)/snakemake --lint

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

bench: $(STAMP)  ## speed against the peer that a user would pick instead, as ratios
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/accelerator.py
	$(BIN)/python benchmarks/registration.py

lock: .tools/uv  ## requirements.lock from pyproject.toml
	.tools/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra test \
	    --no-header --no-emit-index-url --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .tools

$(STAMP): requirements.lock .tools/uv
	test -x $(BIN)/python || .tools/uv venv --quiet --no-python-downloads --python $(PYTHON) .venv
	.tools/uv pip sync --quiet --python $(BIN)/python requirements.lock
	.tools/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $@

# uv comes with the machine or, from the package registry, into the project's own folder.
.tools/uv:
	mkdir -p .tools
	if command -v uv > /dev/null; then ln -sf "$$(command -v uv)" $@; else \
	    { $(PYTHON) -m venv .tools/python && .tools/python/bin/python -m pip install --quiet uv && \
	      ln -sf python/bin/uv $@; } || \
	    { $(PYTHON) -m pip install --quiet --target .tools/packages uv && ln -sf packages/bin/uv $@; }; fi
