# `make demo` sets everything up and runs the main job; `make test` sets everything up and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export TOKENIZERS_PARALLELISM := false

.PHONY: demo preference tools tiny test check format bench docs lock clean
SHELL := bash

demo: $(VENV)/.run  ## the main job: SmolLM2-135M and TAT-QA reports, from the start model to a gated assistant
	$(BIN)/posttrain run recipes/finops.yaml

preference: $(VENV)/.run  ## reward models, DPO on real pairs, two metrics read together
	$(BIN)/posttrain run recipes/preference.yaml

tools: $(VENV)/.run  ## from talking to acting: tool calls in a world of companies and on BFCL's functions, free and constrained
	$(BIN)/posttrain run recipes/tools.yaml

tiny: $(VENV)/.run  ## the same stairs in under 90 seconds with a tiny model trained from scratch
	$(BIN)/posttrain run recipes/tiny.yaml

test: $(VENV)/.dev  ## all tests; says what it skipped and why
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -rs --durations=15

check: $(VENV)/.dev  ## style, strict types, import layers, docs against the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/commands.py --check

docs: $(VENV)/.dev  ## write docs/commands.md from the commands' own help
	$(BIN)/python docs/commands.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## ours beside the peers; prints the ratios (long)
	$(BIN)/python benchmarks/run.py

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit("posttrain needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,qlora,mlflow,mcp,retrieval,peers]'
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

lock:  ## write constraints.txt from a fresh environment with every extra (keeps the torch that is pinned)
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --constraint <(grep '^torch==' constraints.txt) --editable '.[dev,qlora,mlflow,mcp,retrieval,peers]'
	(echo '# Exact versions everything is tested with; written by `make lock`.'; build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt
