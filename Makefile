# The commands that developers and CI run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Quiet twice: errors only. Warnings about pip's settings on this machine do not concern mlo.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# One more test at a time than CPUs: half of their time is waiting, for processes to start and for what is timed.
WORKERS := $(shell expr $$(nproc) + 1)
# Which of the end-to-end tests: an expression over their marks, such as E2E=kubernetes.
E2E ?= e2e
# Scripts that bring a Docker Engine and a cluster up, where there are any; otherwise those that are there are used.
ENGINES ?= $(or $(MLO_ENGINES),../shared/engines)

.PHONY: help install demo demo-docker demo-kubernetes test unit tools e2e lint format bench cmdbench serverbench gatewaybench loadbench searchbench formatbench peerbench wheel clean protos

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## install everything into .venv: all extras and test tools

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "mlo needs Python 3.11 or later; select one with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "this Python cannot create virtual environments; on Debian, run: apt-get install python3-venv" >&2; exit 1; }
	@echo "mlo: creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "mlo: installing the packages of constraints.txt (a few minutes the first time)"
	@$(PIP) --upgrade pip setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[all,dev]'
	@# Tests read rendered files with its messages. Without dependencies, since they include a second build of TensorFlow.
	@$(PIP) --no-deps tensorflow-serving-api
	@$(BIN)/python -m compileall -q orchestrator  # pip does not compile editable installs
	@touch $@

demo: install  ## apply the digits spec, then send real images to its server
	@$(BIN)/python specs/digits/demo.py

demo-docker: install  ## the same as a container of the Docker Engine
	@if [ -x "$(ENGINES)/docker-up" ] && [ "$$(id -u)" = 0 ]; then "$(ENGINES)/docker-up"; fi
	@$(BIN)/python specs/digits/demo.py docker.yaml digits-docker

demo-kubernetes: install  ## the same in a pod of kubectl's cluster, or of a test cluster if it has none
	@tools=; if [ -z "$$KUBECONFIG" ] && [ ! -e "$$HOME/.kube/config" ] && [ -x "$(ENGINES)/cluster-up" ] && [ "$$(id -u)" = 0 ]; then \
	  KUBECONFIG="$$(.ci/cluster "$(ENGINES)" | tail -1)"; export KUBECONFIG; \
	  tools="$$("$(ENGINES)/tools" | tail -1)"; PATH="$$tools:$$PATH"; \
	fi; \
	[ -n "$$KUBECONFIG" ] || [ -e "$$HOME/.kube/config" ] \
	  || { echo "there is no test cluster; set KUBECONFIG to that of the cluster to deploy to" >&2; exit 1; }; \
	$(BIN)/python specs/digits/demo.py kubernetes.yaml digits-kubernetes || exit; \
	[ -z "$$tools" ] || echo "It is on a test cluster; first run: export KUBECONFIG=$$KUBECONFIG PATH=$$tools:\$$PATH"

test: install  ## lint and all tests except end-to-end
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not e2e'

unit: install  ## the tests that run in one process; takes seconds
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m 'not e2e and not frameworks and not processes'

tools: install  ## install helm and kubectl into .venv for the tests of charts
	@$(BIN)/python tests/get_tools.py

e2e: install  ## end-to-end tests with real servers and container engines
	$(BIN)/python -m pytest -m "e2e and ($(E2E))"

lint: install  ## the checks that CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: install  ## generate the Python classes of TensorFlow Serving's messages
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. orchestrator/backends/tensorflow_serving/messages.proto

bench: install  ## all the benchmarks below, one after the other; about four hours, needs an idle machine
	@missed=; for each in cmdbench loadbench gatewaybench serverbench formatbench peerbench searchbench; do \
	  $(MAKE) --no-print-directory $$each || missed="$$missed $$each"; \
	done; \
	[ -z "$$missed" ] || { echo "limits missed, or not measured:$$missed" >&2; exit 1; }

cmdbench: install  ## measure mlo's commands; takes five minutes, needs an idle machine
	$(BIN)/python benchmarks/run.py

loadbench: install  ## compare the load generator with wrk and with known delays; a quiet machine, under four minutes
	$(BIN)/python benchmarks/load/run.py

formatbench: install  ## weigh three models in each format and try the usual claims about formats; ten minutes, a quiet machine
	$(BIN)/python benchmarks/formats/run.py

serverbench: install  ## compare the ONNX Runtime server with others; takes minutes, needs an idle machine
	$(BIN)/python benchmarks/server/run.py

searchbench: install  ## compare the search with an exhaustive one on three models; two hours, needs an idle machine
	$(BIN)/python benchmarks/search/run.py --check

peerbench: install  ## compare mlo's pick with Olive, OpenVINO, torch.compile and others; 25 minutes, a quiet machine
	$(BIN)/python benchmarks/peers/run.py --check

gatewaybench: install  ## measure with wrk how much the local target adds to a request; takes two minutes, needs an idle machine
	$(BIN)/python benchmarks/gateway/run.py

wheel: install  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean:  ## remove everything that make created (but not your .mlo)
	rm -rf $(VENV) benchmarks/server/.peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
