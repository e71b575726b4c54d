# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# The few things a person types. Everything happens in this folder, mostly in .venv.

SHELL := /bin/bash
PYTHON ?= python3
BAG ?=
BUNDLE ?=
OUT ?= demo_output
ARGS ?=

# A ROS 2 sourced in this shell must not mix with the one in .venv, and neither demo nor tests
# have any business on the network.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH
unexport COLCON_PREFIX_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
# Threads that wait by spinning make a busy machine many times slower.
export OMP_WAIT_POLICY := passive

.PHONY: help demo env test lint check clean bundle quantization-table

help:
	@echo 'make demo [BAG=recording] [BUNDLE=engines/name] [OUT=folder] [ARGS=...]'
	@echo '            plays a camera recording through the node; results in demo_output/'
	@echo 'make test   linters, types and tests  [ARGS="-k name"]'
	@echo 'make bundle  the demo engine, made again from engines/demo/model.safetensors'
	@echo 'make env    .venv alone: rclpy, engine, builder and tests (PYTHON=python3.12 picks one)'
	@echo 'make lint   ruff and mypy alone'
	@echo 'make clean  removes .venv and everything made here'
	@echo 'On a robot with ROS 2: colcon build, then ros2 launch qvggt_ros reconstruct.launch.py'

# The builder, and PyTorch with it, is needed only where there is no bundle yet.
DEMO_LAYERS := runtime report $(if $(or $(BUNDLE),$(wildcard engines/demo/manifest.json)),,build)

env: .python
	@$(PYTHON) tools/make_env.py runtime report build test

demo: .python
	@$(PYTHON) tools/make_env.py $(DEMO_LAYERS)
	@.venv/bin/qvggt demo $(if $(BAG),--bag '$(BAG)') $(if $(BUNDLE),--bundle '$(BUNDLE)') \
	    --out '$(OUT)' $(ARGS)

# The demo's engine, made again from the trained model; it is committed, so that the first try needs
# no builder. The figures of docs/quantization.md: `make quantization-table`.
bundle: env
	@.venv/bin/qvggt build --model demo --precision w8a8 --method dsfq --out engines/demo $(ARGS)

quantization-table: env
	@.venv/bin/qvggt quantization-table $(ARGS)

lint: env check

check:
	@echo 'ruff: style and common mistakes'
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo 'mypy: types'; .venv/bin/mypy; \
	else echo 'mypy: left out, numpy for Python 3.10 has other types'; fi

test: lint
	@echo 'pytest: every test, the slow ones last'
	@.venv/bin/python -m pytest $(ARGS)

clean:
	rm -rf .venv .venv.lock build install log *.egg-info demo_output
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: .python
.python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'no $(PYTHON) on this machine: sudo apt install python3' >&2; exit 1; }
