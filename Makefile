# `make` lists the targets. Everything runs in the environment below $(VENV), which every target sets up when needed.
# Conda users: make <target> VENV="$CONDA_PREFIX".

VENV ?= .venv
# Options of `make reproduce`: which tables from now on, such as TABLES="table2 table4" or TABLES=all, with which SEEDS,
# such as SEEDS="0 1 2" (default: those of the knob files), on which data set, such as DATASET=scenes (written into
# params.yaml), and how many trainings at a time (default: one for each GPU, or without one for each core that has 2 GB
# of memory).
TABLES ?=
DATASET ?=
SEEDS ?=
JOBS ?=
# Further options of pytest, such as PYTEST='-m "not slow"' for a quick pass.
PYTEST ?=
# A test that hangs fails by its name, with the stacks of its threads, and ends the run; none takes a quarter of these
# seconds.
PATIENCE := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true --max-worker-restart 0
FULL ?=
HOST ?= 127.0.0.1
PORT ?= 5000

# Small tensors: threads inside an operator cost more than they give, and waiting ones would spin on shared cores.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

# `dvc` and the `python` of its stages must be those of the environment, activated or not.
ACTIVATE := PATH="$(abspath $(VENV))/bin:$$PATH"; export PATH;

CACHES := .pytest_cache .ruff_cache .hypothesis
REPORTS := $(filter-out reports/snapshot/ reports/seed_study/,$(sort $(dir $(wildcard reports/*/statistics reports/*/tables))))
RESULTS := data recipes runs logs predictions results metrics $(REPORTS) scratch mlruns dvc_plots .dvc/cache .dvc/tmp .venv

.DEFAULT_GOAL := help
.PHONY: help setup reproduce snapshot test test-slurm test-postgres lint format compare ui doctor clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.stamp ## create the environment in .venv (compiles mmcv-full once for each torch)

# Any Python 3 can read setup_env and say which one the project needs.
$(VENV)/.stamp: environment.yml constraints.txt $(wildcard tools/*.py)
	@for python in python3.11 python3 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then \
	        exec $$python -m tools.setup_env --venv "$(VENV)"; \
	    fi; \
	done; \
	echo "error: no Python on PATH: install python3.11, python3.11-venv and python3.11-dev and repeat" >&2; exit 1

reproduce: setup ## make the chosen tables and figures on the chosen dataset (TABLES=all: every one) and print Table 2, or all others
	@$(ACTIVATE) python -m commands.select $(TABLES) $(if $(SEEDS),--seeds $(SEEDS)) $(DATASET:%=--dataset %) && exec python -m commands.launch $(JOBS:%=--jobs %)
	@$(ACTIVATE) python -m commands.show

snapshot: reproduce ## reproduce, then copy the finished report to reports/snapshot and README.md, for git to track
	@$(ACTIVATE) python -m commands.snapshot

test: lint ## lint, then run every test (quick pass: make test PYTEST='-m "not slow"')
	@$(ACTIVATE) python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PATIENCE) $(PYTEST)

test-slurm: setup ## run Table 2 through a real Slurm of two nodes on this machine, as root (FULL=1: at full length)
	@$(ACTIVATE) CONTRASTMASK_FULL="$(FULL)" python -m pytest -m slurm tests/slurm $(PYTEST)

test-postgres: setup ## show MLflow on PostgreSQL with eight writers and an outage; needs Debian's package postgresql
	@$(ACTIVATE) CONTRASTMASK_FULL=1 python -m pytest -s -m postgres tests/tracking

lint: setup ## check code and format with ruff
	@$(ACTIVATE) python -m ruff check . && python -m ruff format --check -q .

format: setup ## format, sort imports and mend what ruff can
	@$(ACTIVATE) python -m ruff check --fix . && python -m ruff format -q .

compare: setup ## print the free run's experiments side by side: changed knobs and headline numbers
	@$(ACTIVATE) python -m commands.compare

ui: setup ## open the MLflow store on http://127.0.0.1:5000 (another port: make ui PORT=5001)
	@$(ACTIVATE) exec python -m commands.ui --host $(HOST) --port $(PORT)

doctor: ## check Python, torch, GPU, operators, DVC, MLflow, disk and data, and say what to do
	@$(ACTIVATE) "$$(command -v python || echo python3)" -m commands.doctor

clean: ## remove caches; with CONFIRM=1 also data, runs, results, reports, the MLflow store and the environment
	@echo "removing: $(CACHES) and __pycache__"
	@rm -rf $(CACHES)
	@find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +
ifeq ($(CONFIRM),1)
	@du -sh $(RESULTS) 2>/dev/null | sed 's/^/removing: /' || true
	@rm -rf $(RESULTS)
else
	@du -sh $(RESULTS) 2>/dev/null | sed 's/^/kept (CONFIRM=1 removes it): /' || true
endif
