# What a person and the CI run: the same commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors alone. Warnings about a machine's own settings of pip say nothing of mlo.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
CPUS := $(shell nproc)

.PHONY: help install demo test unit tools e2e lint format bench serverbench wheel clean protos

help:  ## show this list
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## set .venv up with everything: all extras and what the tests need

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "mlo needs Python 3.11 or later; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "mlo: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "mlo: installing the packages of constraints.txt (a few minutes the first time)"
	@$(PIP) --upgrade pip setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[all,dev]'
	@# Its messages, which tests read rendered files with; what it requires is a second build of TensorFlow.
	@$(PIP) --no-deps tensorflow-serving-api
	@$(BIN)/python -m compileall -q orchestrator  # pip compiles what it installs, but not what it links to
	@touch $@

demo: install  ## apply the digits spec, then send real images to the server that it started
	@$(BIN)/python specs/digits/demo.py

test: install  ## lint and every test that needs minutes at most
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(CPUS) --dist worksteal -m 'not e2e'

unit: install  ## the tests of what is computed in one process: seconds
	$(BIN)/python -m pytest -n $(CPUS) --dist worksteal -q -m 'not e2e and not frameworks and not processes'

tools: install  ## helm and kubectl beside Python, for the tests of charts
	@$(BIN)/python tests/get_tools.py

e2e: install  ## whole applies, real servers, real engines
	$(BIN)/python -m pytest -m e2e

lint: install  ## the checks of the CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install  ## put the code into the one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: install  ## generate the Python classes of TensorFlow Serving's messages
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. orchestrator/backends/tensorflow_serving/messages.proto

bench: install  ## measure mlo itself and write the table
	$(BIN)/python benchmarks/run.py

serverbench: install  ## measure the ONNX Runtime server beside its peers; a quiet machine, minutes
	$(BIN)/python benchmarks/server/run.py

wheel: install  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean:  ## remove what this file made (not your .mlo)
	rm -rf $(VENV) benchmarks/server/.peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
