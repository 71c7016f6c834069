# `make demo` shows the whole way from a click log to a gRPC answer; `make help` lists the rest.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
UV_VERSION := 0.13.9
UV := .venv/bin/uv
STAMP := .venv/.complete
COMPILE := $(UV) pip compile --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --quiet
DOCKER ?= docker
VERSION := $(shell sed -n 's/^ *version="\(.*\)",$$/\1/p' setup.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint lock images clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: $(STAMP) ## Create .venv with the exact versions of requirements.lock

demo: $(STAMP) ## Click log -> preprocessing -> training -> export -> gRPC answers; options in DEMO_FLAGS
	.venv/bin/python -m benchmarks.demo $(DEMO_FLAGS)

test: $(STAMP) ## Run the tests; options in PYTEST_FLAGS
	.venv/bin/python -m pytest -q --durations=15 tests $(PYTEST_FLAGS)

lint: $(STAMP) ## Check the style
	.venv/bin/ruff check .
	.venv/bin/hadolint Dockerfile

lock: $(STAMP) ## Bring the lock files in line with setup.py; LOCK_FLAGS=--upgrade for the newest versions
	$(COMPILE) $(LOCK_FLAGS) --extra dev -o requirements.lock setup.py
	$(COMPILE) --constraints requirements.lock -o requirements-serving.lock requirements-serving.in

images: ## Build the images of the Dockerfile; options in IMAGE_FLAGS, another builder as DOCKER=podman
	for target in trainer serving tf-serving; do \
		$(DOCKER) build --target $$target --tag dgenctr-$$target:$(VERSION) $(IMAGE_FLAGS) . || exit 1; done

clean: ## Remove .venv, the demo's folder and caches
	rm -rf .venv demo_run build dist dgenctr.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that a set-up that was killed is made again.
$(STAMP): requirements.lock setup.py Makefile
	@rm -f $@
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else \
		"error: requirements.lock is for Python 3.11 or 3.12 and $(PYTHON) is %d.%d: install one of those and run make with PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip sync --quiet --require-hashes --compile-bytecode --python .venv/bin/python requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv/bin/python --editable .
	@touch $@
