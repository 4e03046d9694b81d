# Two commands on a bare machine: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
COMPAT ?= .venv-compat
# Formats whose packages stay out of what everything else runs in: transformers imports torchao
# wherever it is installed, LiteRT has constraints of its own.
LITERT ?= .venv-litert
EXECUTORCH ?= .venv-executorch
PIP_FLAGS ?= --disable-pip-version-check -q
DEMO ?= build/demo
# Processes that share the tests; each holds torch and a model or two.
WORKERS ?= 2
TESTS ?=

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
# One thread each: small tensors gain nothing from two, and processes fight over cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
DEV := $(VENV)/.dev

.PHONY: demo test test-all check format compat formats bench docs-table wheel clean

demo: $(RUNTIME)  ## compress a real encoder on a generated task, end to end
	$(BIN)/python -m toolchain.demo -o $(DEMO)

test: $(DEV)  ## everything that needs minutes, not more
	$(PYTEST) -m "not slow" $(TESTS)

test-all: $(DEV)  ## the slow ones too
	$(PYTEST) $(TESTS)

check: $(DEV)  ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

compat: $(COMPAT)/.installed  ## the road's core tests with transformers 4.57 and optimum
	$(COMPAT)/bin/python -m pytest -m "not slow" tests/compat tests/integration tests/unit/export tests/unit/distill tests/contracts $(TESTS)

formats: $(LITERT)/.installed $(EXECUTORCH)/.installed  ## LiteRT's and ExecuTorch's own tests
	$(LITERT)/bin/python -m pytest tests/unit/export/test_litert.py tests/integration/test_formats.py
	$(EXECUTORCH)/bin/python -m pytest tests/unit/export/test_executorch.py tests/integration/test_formats.py

bench: $(DEV)  ## figures for benchmarks/, those of every method among them (about an hour)
	$(BIN)/python benchmarks/export_graph.py
	$(BIN)/python benchmarks/methods.py --shared ../shared
	$(BIN)/python benchmarks/speed.py --shared ../shared

docs-table: $(DEV)  ## the tables of docs/methods.md, from the code
	$(BIN)/python -c "from pathlib import Path; from toolchain.distill.catalogue import filled_in; \
	page = Path('docs/methods.md'); page.write_text(filled_in(page.read_text()))"

wheel: $(DEV)
	$(BIN)/python -m pip wheel $(PIP_FLAGS) --no-deps -w dist .

clean:
	rm -rf $(VENV) $(COMPAT) $(LITERT) $(EXECUTORCH) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e .
	touch $@

$(DEV): $(RUNTIME)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

$(COMPAT)/.installed: pyproject.toml constraints-compat.txt
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install $(PIP_FLAGS) -c constraints-compat.txt -e '.[optimum,test]'
	touch $@

$(LITERT)/.installed: pyproject.toml constraints-litert.txt
	$(PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/python -m pip install $(PIP_FLAGS) -c constraints-litert.txt -e '.[litert,openvino,test]'
	touch $@

$(EXECUTORCH)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EXECUTORCH)
	$(EXECUTORCH)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[executorch,openvino,test]'
	touch $@
