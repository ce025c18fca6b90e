# convcg: `make demo` runs the whole system on the built-in world, `make test` runs the tests. Both set everything up.
#
#   PYTHON       the interpreter that makes the virtual environment (3.11 or newer)
#   TORCH_INDEX  where a CPU build of torch comes from, for machines without a GPU:
#                make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   FAISS        cpu, or gpu on Linux x86-64 with CUDA 12 (the two wheels overwrite each other)

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
FAISS ?= cpu

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(FAISS)
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test test-slow check format bench clean

demo: $(INSTALLED)  ## train, evaluate and serve the built-in world; ends with a recall table and a served answer
	$(BIN)/convcg pipeline --recipe demo --workdir runs/demo
	@$(BIN)/convcg serve --bundle runs/demo/channel & service=$$!; \
	$(BIN)/convcg query --wait 120 --surface search --query "rustic plants" --user user_000042 -k 5; \
	code=$$?; kill $$service; wait $$service; exit $$code

test: $(INSTALLED)  ## everything that takes minutes, not more
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)  ## the rest: killed runs, submitted jobs, whole pipelines
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)  ## linter, formatter, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## the measurements of benchmarks/RESULTS.md that need no data of your own
	$(BIN)/convcg pipeline --recipe demo --workdir runs/demo
	$(BIN)/python -m benchmarks.serving --bundle runs/demo/bundle

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch goes first and alone, so that TORCH_INDEX serves nothing else.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(FAISS),eval,graph,dev]'
	touch $@
