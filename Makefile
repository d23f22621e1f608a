# Virtual environments are stamped files: they are made again when pyproject.toml changed, not every time.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
DEMO_VENV := .venv
TEST_VENV := .venv-test
SERVE_VENV := .venv-serve
TEST_EXTRAS := train,export,triton,openvino,verify,bench,dev
PYTEST := ERASABLEMASK_SERVE_ENVIRONMENT=$(SERVE_VENV) $(TEST_VENV)/bin/python -m pytest

.PHONY: demo test lint serve-env serve-test bench-env check-extras clean

## demo: protect and erase the example photos with the shipped bundle; results in demo/
demo: $(DEMO_VENV)/stamp
	$(DEMO_VENV)/bin/python examples/demo.py

## test: everything that continuous integration checks, real servers included
test: lint serve-env
	$(PYTEST)

## lint: style, types and the table of who may import whom
lint: $(TEST_VENV)/stamp
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports

## serve-env: the environment that `erasablemask serve` runs the wheel's Triton server from
serve-env: $(TEST_VENV)/stamp
	$(TEST_VENV)/bin/erasablemask serve-env $(SERVE_VENV)

## serve-test: a real server with the shipped bundle, its answers, and what it does when something breaks
serve-test: serve-env
	$(PYTEST) tests/test_serve_*.py

## bench-env: the load generator for `python -m benchmarks.serving throughput`, into the server's environment
bench-env: serve-env
	$(SERVE_VENV)/bin/python -m pip install --quiet --no-deps tritonclient==2.51.0

## check-extras: each extra alone in a fresh environment, installed and imported (slow, many downloads)
check-extras:
	$(PYTHON) scripts/check_extras.py

## clean: environments, caches and the demo's results
clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) $(SERVE_VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache

# The demo installs the package itself, as a user would: not editable, so its sources are prerequisites too.
$(DEMO_VENV)/stamp: pyproject.toml $(shell find runtime training export -type f -not -name '*.pyc')
	$(call make_venv,$(DEMO_VENV))
	rm -rf build/lib build/bdist.*
	$(DEMO_VENV)/bin/python -m pip install --quiet '.[verify]'
	touch $@

$(TEST_VENV)/stamp: pyproject.toml
	$(call make_venv,$(TEST_VENV))
	$(TEST_VENV)/bin/python -m pip install --quiet --editable '.[$(TEST_EXTRAS)]'
	touch $@

include benchmarks/bench.mk

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(1)
endef
