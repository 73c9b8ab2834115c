# `make` runs the experiment that config.yaml names and writes its report; `make help` lists the rest.
# Nothing but Python 3.11 is needed: pip brings uv, uv brings Snakemake, Snakemake brings the stages.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# A Python 3.11 that runs (a shim that does not answer is passed over).
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
EXPERIMENT ?= $(shell sed -n 's/^experiment: *\([A-Za-z0-9_-]*\).*/\1/p' config.yaml)

export PYTHONNOUSERSITE := 1
# Without cached bytecode the trainers and servers take twice as long to start.
unexport PYTHONDONTWRITEBYTECODE
BOOTSTRAP := .venvs/snakemake
RUN := PATH="$(CURDIR)/$(BOOTSTRAP)/bin:$$PATH"
RESULTS := results/$(EXPERIMENT)
REPORT := $(RESULTS)/report.html

.DEFAULT_GOAL := report
.PHONY: report quick controls bootstrap environments test test-system test-cluster faults coverage lint docs \
	docs-serve lock bench clean help

report: bootstrap ## Run the experiment (EXPERIMENT=mini) and write its report
	@$(RUN) snakemake --config experiment=$(EXPERIMENT)
	@PYTHONPATH=src .venvs/figures/bin/python -m subnetworks report --results $(RESULTS) --brief
	@PYTHONPATH=src .venvs/figures/bin/python -m subnetworks times --results $(RESULTS) --brief
	@echo "The report: $(CURDIR)/$(REPORT)"

quick: ## Tables 1, 2 and 4, Figures 1 and 3 from five trainings, into results/quick
	@$(MAKE) report EXPERIMENT=quick

controls: bootstrap ## Make what readers ask next, too, and write the report with it
	@$(RUN) snakemake --config experiment=$(EXPERIMENT) -- controls
	@$(MAKE) report

bootstrap: # Snakemake and uv, in an environment of their own
	@[[ "$$(uname -sm)" == "Linux x86_64" ]] || { echo "make: the trainers need Linux on x86-64, this is" \
		"$$(uname -sm); the command line runs here, too: pip install '.[measure]', subnetworks --help" >&2; exit 1; }
	@[[ -n "$(PYTHON)" ]] || { echo "make: needs Python 3.11 (as python3.11 or python3 on the PATH," \
		"or make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@$(PYTHON) envs/build.py snakemake --into $(BOOTSTRAP)

environments: bootstrap # Every stage's, for tests; the workflow builds those it needs by itself
	@for name in download figures measure parity train-cpu evaluate-cpu; do \
		$(BOOTSTRAP)/bin/python envs/build.py $$name --into .venvs/$$name; done

test: environments ## Run all tests, the miniature from end to end among them
	@$(RUN) python tests/run.py

test-system: environments ## Before a release: damaged files at length, the cluster's and the faults' tests
	@FUZZ_EXAMPLES=20000 SUBNETWORKS_LAYOUTS=400 $(RUN) python tests/run.py \
		tests/unit/measuring/test_fuzz.py tests/unit/cli/test_layouts.py
	@$(MAKE) test-cluster
	@$(MAKE) faults

test-cluster: environments ## Run a small experiment through a SLURM on this machine (Debian, root)
	@tests/system/cluster/one_node.sh install
	@$(RUN) python tests/run.py tests/system/cluster

faults: environments ## Disturb a small experiment in every way, and see that its results stay
	@$(RUN) python tests/system/faults/campaign.py

coverage: bootstrap ## Say which share of each part the unit tests run; of two parts it must be 90 %
	@$(BOOTSTRAP)/bin/python envs/build.py coverage --into .venvs/coverage
	@PYTHONPATH=src .venvs/coverage/bin/python -m pytest -q --cov --cov-report= $(or $(TESTS),tests/unit)
	@for part in src/subnetworks/[a-z]*/; do printf '%3s %% of %s\n' \
		"$$(.venvs/coverage/bin/coverage report --include="$$part*" --format=total)" "$$part"; done
	@for part in artefacts experiment; do \
		.venvs/coverage/bin/coverage report --include="src/subnetworks/$$part/*" --fail-under=90; done

lint: bootstrap ## Check style, types, the workflow and the documentation
	@$(BOOTSTRAP)/bin/python envs/build.py lint --into .venvs/lint
	.venvs/lint/bin/ruff check
	.venvs/lint/bin/ruff format --check
	.venvs/lint/bin/mypy
	PYTHONPATH=src .venvs/lint/bin/lint-imports --no-cache
	.venvs/lint/bin/python -m pytest -q tests/unit/environments/test_layers.py
	.venvs/lint/bin/snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint
	@$(MAKE) docs

docs: bootstrap ## Build the documentation into build/docs; a broken link is an error
	@$(BOOTSTRAP)/bin/python envs/build.py docs --into .venvs/docs
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs build --strict
	@echo "The documentation: $(CURDIR)/build/docs/index.html"

docs-serve: docs ## Serve it at http://127.0.0.1:8000 and follow changes
	@NO_MKDOCS_2_WARNING=1 .venvs/docs/bin/mkdocs serve

lock: bootstrap ## Resolve pyproject.toml into envs/ (UPGRADE=1: newest versions)
	@$(BOOTSTRAP)/bin/python envs/lock.py $(if $(UPGRADE),--upgrade)

bench: bootstrap ## Time and weigh measuring, training within masks and evaluation
	@$(BOOTSTRAP)/bin/python envs/build.py measure --into .venvs/measure
	@for part in measure overlap rank; do \
		PYTHONPATH=src .venvs/measure/bin/python tests/system/benchmarks/measuring.py $$part; done
	@PYTHONPATH=src .venvs/measure/bin/python tests/system/benchmarks/scale.py
	@$(BOOTSTRAP)/bin/python envs/build.py train-cpu --into .venvs/train-cpu
	@for part in optimiser steps; do .venvs/train-cpu/bin/python tests/system/benchmarks/$$part.py; done
	@$(BOOTSTRAP)/bin/python envs/build.py evaluate-cpu --into .venvs/evaluate-cpu
	@.venvs/evaluate-cpu/bin/python tests/system/benchmarks/evaluating.py

clean: ## Remove environments and caches; results and downloads stay
	rm -rf .venvs .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
