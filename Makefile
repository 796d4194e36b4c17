# `make` lists what there is. Everything runs in $(VENV), which scripts/install.py makes and keeps up to date.
.DEFAULT_GOAL := help
.PHONY: help install serve test test-images test-manifests test-cluster test-workflows check sbom acceptance bench soak demo-fleet demo-eval encoder lock docs clean

PYTHON ?= python3
VENV ?= .venv
SERVE_ARGS ?=
SOAK_MINUTES ?= 30
TEST_PROCESSES ?= 2
# A test that hangs shows where, and ends the run.
TEST_LIMIT := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
export VENV ENGINE

BIN := $(VENV)/bin
INSTALL := $(PYTHON) scripts/install.py

help: ## this list
	@echo "Adaptive LoRA. First: make serve"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "ENGINE=cpu|gpu forces the build, BASE_MODEL=org/name another model, SERVE_ARGS='--port 9000' flags."

install: ## make .venv and install what serving needs (the CUDA build only where it can run)
	@$(INSTALL) serve

serve: install ## serve at http://127.0.0.1:8000
	@$(BIN)/adaptive-lora serve $(SERVE_ARGS)

# Tests that start vLLM fill the machine: they run alone, and also if others have failed.
test: ## run all tests (12 minutes on two cores)
	@$(INSTALL) dev
	$(BIN)/python -m pytest -m "not acceptance and not vllm" -n $(TEST_PROCESSES) --dist loadfile --max-worker-restart 0 $(TEST_LIMIT); others=$$?; \
	    $(BIN)/python -m pytest -m "vllm and not acceptance" $(TEST_LIMIT) && exit $$others

test-images: ## build the CPU images and run the Compose stack on them (6 to 15 minutes; needs Docker); the last line is JSON
	@$(INSTALL) dev
	TEST_IMAGES=1 $(BIN)/python -m pytest -m acceptance tests/deploy/images
	@cat build/images/report.json

test-manifests: ## build, apply, validate and scan k8s/ (a minute; needs npm)
	@$(INSTALL) dev
	$(BIN)/python -m pytest tests/deploy/test_manifest*.py

test-cluster: ## k8s/ on a cluster, an update under load (15 minutes; docs/how-to/kubernetes.md says which clusters)
	@$(INSTALL) dev
	$(BIN)/python -m pytest tests/deploy/cluster

test-workflows: ## zizmor over .github, bandit over the code (half a minute)
	@$(INSTALL) dev
	$(BIN)/python -m pytest tests/project/test_workflow*.py

check: ## ruff, mypy --strict, import-linter, generated reference pages
	@$(INSTALL) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/gen_reference.py --check
	$(BIN)/python scripts/gen_dashboards.py --check

sbom: ## what each image installs from the locks, as CycloneDX, in build/sbom
	@$(INSTALL) workflows
	build/workflows/bin/python -m scripts.sbom build/sbom

acceptance: ## the long proofs
	@$(INSTALL) dev
	$(BIN)/python -m pytest -m acceptance

soak: ## half an hour (SOAK_MINUTES=30) of load with clients that are not nice; the last line is JSON
	@$(INSTALL) dev
	$(BIN)/python benchmarks/bench_soak.py --minutes $(SOAK_MINUTES)

bench: ## CPU multi-LoRA and server throughput; the last line is JSON
	@$(INSTALL) dev
	$(BIN)/python benchmarks/run.py

# Large tensors come and go: memory that goes back to the kernel each time costs a tenth of the build.
KEEP_MEMORY := glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=8000000000

demo-fleet: ## rebuild the demo's base model and agents (about two hours on two cores)
	@$(INSTALL) train
	GLIBC_TUNABLES=$(KEEP_MEMORY) $(BIN)/python -m demo.build --only base
	GLIBC_TUNABLES=$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m demo.build --only reasoning code creative analysis --jobs 2

demo-eval: ## score base, agents and auto on the held-out prompts; the last line is JSON
	@$(INSTALL) train
	$(BIN)/python -m demo.evaluate

encoder: ## rebuild the router's sentence encoder (models/encoder)
	@$(INSTALL) encoder
	$(BIN)/python scripts/build_encoder.py

lock: ## regenerate requirements/*.txt; UPGRADE=1 takes the newest versions
	$(PYTHON) scripts/lock.py

docs: ## regenerate docs/reference/{cli,settings}.md, and what k8s/ repeats
	@$(INSTALL) dev
	$(BIN)/python scripts/gen_reference.py
	$(BIN)/python scripts/gen_manifests.py
	$(BIN)/python scripts/gen_dashboards.py

clean: ## remove .venv, caches and build folders
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests scripts demo benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
