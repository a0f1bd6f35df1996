# Everything runs in .venv, made from the lock files in envs/.
#   CORES=8      cores for the workflow and the tests (default: all)
#   TORCH=cuda   build of torch: cpu or cuda (default: cuda where an NVIDIA driver is found)
#   PYTHON=...   the Python 3.11 to start from

SHELL := /bin/bash
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --config scale=demo
export TORCH PYTHON
unexport PYTHONPATH PYTHONHOME
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help env demo test lint lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## Make or update .venv (seconds when it is current)
	@bash envs/setup.sh

demo: env ## Run every task on small data and write the report
	$(SNAKEMAKE)
	@echo "Report: $(CURDIR)/results/demo/report.html"

test: env ## Run every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(CORES)

lint: env ## Check style and workflow without changing a file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

lock: env ## Resolve envs/*.in into the lock files (UPGRADE=1: newest versions)
	$(BIN)/python envs/lock.py $(if $(UPGRADE),--upgrade)

clean: ## Delete the results of demo and tiny and all caches; .venv stays
	rm -rf results/demo results/tiny .snakemake .pytest_cache .ruff_cache .hypothesis
	find scgpt tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
