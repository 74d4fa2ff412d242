# Every target sets itself up: a virtual environment, everything that pyproject.toml names, then its job.
# In an environment of your own:  make VENV="$VIRTUAL_ENV" figures   or   make VENV="$CONDA_PREFIX" figures

PROFILE ?= embedded
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed

# Threads that wait by spinning slow each other down on busy cores, many times over.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help figures site notebooks slides exercises test test-rows lint test-slow test-browser test-faults test-cluster fuzz mutants coverage matrix audit evidence bench lab clean

help: ## Show this list
	@echo 'make TARGET [PROFILE=$(PROFILE)] [PYTHON=$(PYTHON)] [VENV=$(VENV)]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

figures: $(STAMP) ## Run the narrative notebooks: figures to outputs/figures/
	@$(BIN)/oefsmc figures --profile $(PROFILE)

# Nothing is executed: the notebooks are shown with the outputs that they are committed with.
site: $(STAMP) ## README, docs and notebooks as static web pages: outputs/site/index.html
	@$(BIN)/python -m sphinx -q -b html -c docs . outputs/site && cp outputs/site/README.html outputs/site/index.html
	@echo "Open outputs/site/index.html in a browser; the folder needs no server and no network."

# Executed with their defaults, in place, so that who reads them on the web sees what they print and draw.
notebooks: $(STAMP) ## Execute the notebooks and write them back with outputs: notebooks/ (ONLY="01 02" for some)
	@$(BIN)/python -m oefsmc_lib.notebook.kept $(ONLY)

slides: $(STAMP) ## Each notebook's questions and figures as slides for a lecture: outputs/slides/
	@$(BIN)/jupyter nbconvert --to slides --no-input --log-level ERROR --output-dir outputs/slides notebooks/[0-9]*.ipynb
	@ls outputs/slides/*.html

exercises: $(STAMP) ## Student versions of the notebooks: notebooks/exercises/
	@$(BIN)/oefsmc exercises

# Tests and notebooks share one temporary store, so that nothing is written into the checkout. The notebooks are shown stored
# rows, of which a test computes some again; `make figures` computes all of them. These rows are of the teacher that comes with
# the library, so the notebooks' data folder is an empty one: a teacher of the user's own gives other accuracies. nbval runs
# every notebook with its defaults and compares the cells that carry a claim.
test: lint ## Check the code, run the tests and the examples, then every notebook
	@store=$$(mktemp -d) && trap 'rm -rf "$$store"' EXIT && export OEFSMC_OUTPUTS="$$store/outputs" OEFSMC_QUIET=1 && \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile tests && \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --doctest-modules oefsmc_lib && \
	mkdir -p "$$OEFSMC_OUTPUTS/results" && cp tests/notebook/rows.jsonl "$$OEFSMC_OUTPUTS/results" && \
	export OEFSMC_DATA="$$store/data" && $(BIN)/oefsmc figures --rows-only && \
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --nbval-lax --nbval-cell-timeout=1200 -o timeout=1200 -p no:cacheprovider notebooks

test-rows: $(STAMP) ## Compute the rows that `make test` shows the notebooks anew: tests/notebook/rows.jsonl (12 minutes)
	@store=$$(mktemp -d) && trap 'rm -rf "$$store"' EXIT && export OEFSMC_DATA="$$store/data" OEFSMC_OUTPUTS="$$store/outputs" && \
	$(BIN)/oefsmc figures --rows-only && \
	$(BIN)/python -c 'from oefsmc_lib.rows import store; store.pack(store.Store().rows(), "tests/notebook/rows.jsonl")'

lint: $(STAMP) ## Check the library's format, style and types (ruff, mypy)
	@$(BIN)/ruff format --check -q oefsmc_lib && $(BIN)/ruff check -q oefsmc_lib && $(BIN)/mypy

test-slow: $(STAMP) ## Run the tests that take minutes or read real data sets
	@$(BIN)/python -m pytest -m slow tests

test-browser: $(STAMP) ## Open the site and a notebook in Chromium, move a slider; skipped without Chromium
	@$(BIN)/python -m pytest -m browser tests/notebook

test-faults: $(STAMP) ## Kill processes, fill a disk, break rows: nothing may be lost (minutes)
	@$(BIN)/python -m pytest -m faults tests/engine/test_faults.py

test-cluster: $(STAMP) ## Run a grid through Slurm on this machine; skipped where it is not installed
	@$(BIN)/python -m pytest -m cluster tests/engine/test_cluster.py

fuzz: $(STAMP) ## Random inputs for MINUTES=10: a sentence or a result, never a traceback, a hang or half a file
	@OEFSMC_FUZZ_MINUTES=$(or $(MINUTES),10) OEFSMC_QUIET=1 $(BIN)/python -m pytest -q -m fuzz -s -o timeout=0 tests/fuzz

mutants: $(STAMP) ## Change the equations step by step: a test has to fail each time (an hour)
	@$(BIN)/python -m pip install -q mutmut==3.8.1 && OMP_NUM_THREADS=1 OEFSMC_QUIET=1 $(BIN)/python tests/strength.py mutants

coverage: $(STAMP) ## Which statements and branches of the library the tests reach (half an hour)
	@$(BIN)/python -m pip install -q 'coverage>=7.10' && OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q tests && \
	$(BIN)/python tests/strength.py coverage

# Environments of their own below .matrix/, about 3 GB each, one after the other.
matrix: $(STAMP) ## The tests on every supported Python that is here, with the lowest and the highest torch (hours)
	@$(BIN)/python tests/matrix.py

audit: $(STAMP) ## Ask the database of known weaknesses about every locked package (pip-audit, needs the network)
	@$(BIN)/python -m pip install -q pip-audit && $(BIN)/pip-audit --require-hashes --disable-pip -r requirements.lock

# From the packed rows and the timings alone: no images, no networks, no row that a run here left.
evidence: $(STAMP) ## Redo what is kept beside the rows: tables, the verdict, figures of real images, the README's numbers
	@$(BIN)/python -m oefsmc_lib.notebook.publish

# Each part writes a table of its own; PART="memory.py --cases resnet34:3000" runs one alone, with its options. On one thread,
# as grids run batches: the small networks' threads would mostly wait for one another.
BENCHES = startup.py evaluation.py 'recovery.py timing' 'recovery.py quality --networks vgg16-w0.25' floor.py growth.py memory.py \
	'precision.py steps' 'precision.py quality' latency.py
bench: $(STAMP) ## Time literal procedures against ours, the floor, growth, memory: outputs/bench/ (an idle machine, hours)
	@export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} && if [ -n "$(PART)" ]; then $(BIN)/python bench/$(PART); \
	else for part in $(BENCHES); do $(BIN)/python bench/$$part || exit 1; done; fi

lab: $(STAMP) ## Open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

clean: ## Remove caches and scratch; .venv, rows, figures and the data folder stay
	@rm -rf .pytest_cache .hypothesis .snakemake build dist *.egg-info outputs/executed outputs/runs outputs/site outputs/slides \
		outputs/tables/embedded
	@find oefsmc_lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# The stamp is touched last, so that an interrupted installation is taken up again.
$(STAMP): pyproject.toml
	@python="$(BIN)/python"; test -x "$$python" || python="$(PYTHON)"; \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "$$python is not Python 3.11, 3.12 or 3.13; install one and name it, as in make PYTHON=python3.12" >&2; exit 1; }
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	@echo "Installing into $(VENV); the first time this downloads PyTorch and takes some minutes."
	@"$(BIN)/python" -m pip install -q -e '.[all]'
	@touch $@
