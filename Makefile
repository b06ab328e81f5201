# Every target creates what it needs. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check bench faults reproduce-mini clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## search, caption and generate; open demo-output/index.html afterwards
	$(BIN)/mmfm demo -o demo-output

test: $(VENV)/.installed-dev ## run all tests but the slow ones, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.installed-dev ## format, lint, types and the laws of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy mmfm
	$(BIN)/python -m pytest tests/laws

bench: $(VENV)/.installed-dev ## run every benchmark; each prints JSON lines
	@failed=0; for file in benchmarks/[a-z]*.py; do \
		name=$$(basename "$$file" .py); echo "# benchmarks.$$name" >&2; \
		$(BIN)/python -m "benchmarks.$$name" || failed=1; done; exit $$failed

faults: $(VENV)/.installed-dev ## the slow tests: kills, corrupted files, long runs
	$(BIN)/python -m pytest -m slow

# Where it works, and settings that make it short: make reproduce-mini DATA=few SCENES=few-scenes RUNS=trial MEASURE=--quick \
#   SETTINGS='towers.num_steps=2 flow.num_steps=2' CAPTION_SETTINGS='loop.num_steps=2'
DATA ?= data/drawings
SCENES ?= data/scenes
RUNS ?= runs
# cpu: hours of two cores; gpu: minutes of a large GPU
RECIPE ?= cpu

reproduce-mini: $(VENV)/.installed-dev $(DATA)/manifest.json $(SCENES)/manifest.json ## from packages to bundle: drawings, every stage, figures, card (hours)
	for stage in towers flow refine pixels few_steps matching; do \
		$(BIN)/python -m train.mini --data $(DATA) --scenes $(SCENES) -o $(RUNS)/mini --recipe $(RECIPE) --stage $$stage $(SETTINGS) || exit; done
	$(BIN)/python -m train.captions --data $(DATA) -o $(RUNS)/captions model=$(RUNS)/mini/matching/bundle $(CAPTION_SETTINGS)
	$(BIN)/python -m train.mini --data $(DATA) --scenes $(SCENES) -o $(RUNS)/mini --recipe $(RECIPE) --stage bundle --bundle $(RUNS)/captions/bundle $(MEASURE) $(SETTINGS)
	$(BIN)/mmfm card $(RUNS)/mini/bundle -o $(RUNS)/mini/card.md

$(DATA)/manifest.json: | $(VENV)/.installed-dev
	$(BIN)/python -m data_pipelines.drawings -o $(DATA)

$(SCENES)/manifest.json: $(DATA)/manifest.json
	$(BIN)/python -m data_pipelines.scenes $(DATA) -o $(SCENES) $(SCENE_SETTINGS)

clean: ## remove the environment, caches and what demo and builds left (data/ and runs/ stay)
	rm -rf $(VENV) build dist demo-output *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in three stamps: made, package installed, development tools installed.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "make: '$(PYTHON)' is not a Python of 3.10 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: '$(PYTHON)' cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed
