# Every target sets up what it needs; a second run is quick. Caches live outside the tree (XDG cache).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := inference_server/engines/kernels/libkernels.so
VLLM := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kaito/vllm
ONLY ?=
PROCESSES ?= 2
# Of the order of the tests, which is the same everywhere; SEED=default takes another each time.
SEED ?= 1

.PHONY: help setup packages kernels tools model demo test karpenter crash gpu vllm unit lint fix golden crds reference lock bench images e2e docs down clean weights

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: packages $(VENV)/ready kernels tools model ## system packages, virtual environment, control-plane binaries, model

packages: # bubblewrap and nftables, by apt when root
	@$(PYTHON) scripts/packages.py

$(VENV)/ready: requirements/dev.txt pyproject.toml
	@echo "· virtual environment (locked with hashes; a minute when cold)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

kernels: $(KERNELS) # the native engine's own, where there is a C compiler

$(KERNELS): $(wildcard $(dir $(KERNELS))*.[ch]) scripts/kernels.py
	@$(PYTHON) scripts/kernels.py || true # the engine works without

tools: $(VENV)/ready # etcd, the control plane, kubectl and helm
	@$(BIN)/python -m local_cluster.binaries

model: $(VENV)/ready ## convert the embedded model once, print its directory
	@$(BIN)/python -m local_cluster.model

demo: setup ## a Workspace becomes an answering model, on this machine
	@$(BIN)/kaito demo

test: setup lint ## every test, linters and type checks first
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadscope --no-loadscope-reorder --randomly-seed=$(SEED) $(if $(ONLY),-m "$(ONLY)",)

karpenter: $(VENV)/ready tools # our NodeClaims against a real Karpenter, built from source
	@$(BIN)/python -m local_cluster.binaries karpenter
	@$(BIN)/python -m pytest -n0 -m karpenter

crash: $(VENV)/ready tools # the operator dies before and after every write of every scenario, five minutes
	@$(BIN)/python -m pytest -n0 -m crash

gpu: setup # what only a card can answer; without one each test says so
	@$(BIN)/python -m pytest -n0 -m gpu

vllm: $(VENV)/ready model # the server over real vLLM, built for processors; 6 GB in the cache, a quarter of an hour
	@test -x $(VLLM)/bin/python || $(BIN)/python -m venv $(VLLM)
	@$(BIN)/uv pip install --quiet --python $(VLLM)/bin/python --no-deps --require-hashes -r requirements/vllm.txt
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n0 -m vllm tests/inference_server

unit: $(VENV)/ready # what needs no cluster and no model
	@$(BIN)/python -m pytest -m "not system and not controlplane and not server and not tuning and not e2e"

lint: $(VENV)/ready ## ruff, mypy strict, import-linter
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary .
	@$(BIN)/lint-imports --no-logo > /tmp/lint-imports.$$$$ 2>&1 || { cat /tmp/lint-imports.$$$$; rm -f /tmp/lint-imports.$$$$; exit 1; }; rm -f /tmp/lint-imports.$$$$

fix: $(VENV)/ready ## let ruff format and mend what it can
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --fix --quiet .

golden: $(VENV)/ready ## rewrite the golden YAML; the diff is the review
	@$(BIN)/python -m pytest -q --write-golden

crds: $(VENV)/ready ## write the CRDs from the models
	@$(BIN)/python -m kaito_operator.api.crd

reference: $(VENV)/ready ## write the pages that are made from the code
	@$(BIN)/python -m scripts.reference

lock: # the locked requirements, from pyproject.toml
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra dev pyproject.toml -o requirements/dev.txt
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra operator pyproject.toml -o requirements/operator.txt
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra server --extra tuning pyproject.toml -o requirements/server.txt
	@$(BIN)/uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --quiet --override requirements/vllm-overrides.txt requirements/vllm.in -o requirements/vllm.txt

docs: $(VENV)/ready ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --clean
	@echo "site/index.html"

images: $(VENV)/ready ## both container images, by docker, podman or buildah; BASE=IMAGE for another base
	@$(BIN)/python -m scripts.images

weights: setup # the embedded model, where a build of the preset image finds it
	@rm -rf weights && cp -r "$$($(BIN)/python -m local_cluster.model)" weights

e2e: setup weights ## build both images, run them as containers, installed by helm; root, 20 GB, a quarter of an hour
	@$(PYTHON) scripts/packages.py e2e
	@COMPILER=$${COMPILER:-$${BASE:-$$($(BIN)/python -m scripts.base_image compiler)}}; \
	  BASE=$${BASE:-$$($(BIN)/python -m scripts.base_image)}; export BASE COMPILER; \
	  BUILDER=buildah TORCH=cpu WEIGHTS=weights MODEL=smollm2-135m-instruct $(BIN)/python -m scripts.images
	@$(BIN)/python -m pytest -n0 -m e2e tests/e2e

bench: setup ## measure; ONLY=prefix for a part
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY),)

down: ## stop the local cluster; nothing stays behind
	@test ! -x $(BIN)/kaito || $(BIN)/kaito local down

clean: down ## down, and remove what was built in the tree
	@rm -rf $(VENV) bench/out site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
