# `make` alone tells what there is. Everything is made inside this folder; see tools/setup.py.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup check test demo demo-optimize demo-loop bench bench-loop bench-techniques bench-peers clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## make or complete the environments (minutes once, then seconds); PYTHON=python3.12 picks the Python
	@$(PYTHON) tools/setup.py

check: setup ## formatting, lint, types, layers
	$(VENV)/ruff format --check
	$(VENV)/ruff check
	$(VENV)/mypy
	$(VENV)/lint-imports

test: setup ## all tests, two files at a time
	$(VENV)/python -m pytest -n 2 --dist loadfile

demo: demo-optimize demo-loop ## optimise and serve the Fashion-MNIST model, then watch it being repaired

demo-optimize: setup ## the whole line on params.yaml, up to a served model
	$(VENV)/leanloop run --params params.yaml

demo-loop: setup ## change the world under the model that demo-optimize served; the loop repairs it
	$(VENV)/leanloop demo loop --params params.yaml

bench-loop: setup ## the figures of the closed loop, each with its bar; up to two hours
	$(VENV)/python benchmarks/bench_loop.py

bench-techniques: setup ## what each technique makes of the example, and all together, each with its bar; up to 90 minutes
	$(VENV)/python benchmarks/techniques.py

bench-peers: setup ## our winners beside Olive, NNCF, ONNX Runtime and torch.compile; up to 90 minutes
	$(VENV)/python benchmarks/peers.py

bench: setup ## the figures we promise, each with its bar; up to 90 minutes
	$(VENV)/python benchmarks/bench.py

clean: ## remove caches and build outputs; environments, stores and served models stay
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache benchmarks/out
	find components pipelines serving monitoring tests examples benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
