# Everything happens in .venv and in this folder.
# Needs Linux and Python 3.11, 3.12 or 3.13 with its venv module; make fetches the rest.

# Tried in this order; name one to choose it: make quickstart PYTHON=/path/to/python3.12
PYTHON ?= python3.11 python3.12 python3.13 python3 /usr/bin/python3
BIN := .venv/bin

# uv is the faster one. Where it is missing or cannot reach its registry, pip does it. Both compile
# what they install: else each of a study's dozen processes would, seconds of a core every time where
# PYTHONDONTWRITEBYTECODE is set, as it often is in containers.
install = $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
		-c constraints.txt -e '$(1)' || { \
	echo 'uv could not install; trying pip'; \
	$(BIN)/python -m pip install -c constraints.txt -e '$(1)'; }

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-cluster check-image install install-dev lint format docs constraints clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: ## Install what is missing and run the first study
	@set -e; \
	began=$$(date +%s); \
	$(MAKE) -s install; \
	installed=$$(date +%s); \
	$(BIN)/gam-ray run jobs/quickstart.yaml; \
	echo "install took $$((installed - began)) s, the run $$(($$(date +%s) - installed)) s"

test: lint ## Lint, then run all tests
	$(BIN)/pytest

test-cluster: .venv/.installed-dev ## Run the tests on clusters of several nodes and on S3, twelve minutes
	$(BIN)/pytest -m cluster

check-image: ## Build the image and run it, without Docker; as root on Debian, half an hour
	docker/check.sh

install: .venv/.installed ## Install gam-ray in .venv

install-dev: .venv/.installed-dev ## Install gam-ray and what its developers need

lint: .venv/.installed-dev ## Check style, types and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev ## Mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.installed-dev ## Build the site in build/site, with its generated pages
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build

constraints: ## Write constraints.txt anew from what .venv holds
	@set -e; \
	frozen=$$($(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable); \
	{ \
		echo '# The versions gam-ray is tested with: what `make constraints` found in .venv.'; \
		echo '# Newer ones: .venv/bin/uv pip install --upgrade -e ".[dev]" && make constraints test'; \
		echo "$$frozen" | grep -v '^pip==' | LC_ALL=C sort; \
	} > constraints.txt

clean: ## Remove .venv, caches and builds; studies and data stay
	rm -rf .venv build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: .venv/.created pyproject.toml constraints.txt
	@$(call install,.)
	@touch $@

.venv/.installed-dev: .venv/.created pyproject.toml constraints.txt
	@$(call install,.[dev])
	@touch .venv/.installed $@

# A .venv whose pip does not run was left half made, or its Python is gone: it is made anew.
.venv/.created:
	@set -e; \
	$(BIN)/python -m pip --version > /dev/null 2>&1 && exit; \
	bare=; \
	for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
			2> /dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2> /dev/null || { bare=$$python; continue; }; \
		echo "$$python -m venv --clear .venv"; \
		"$$python" -m venv --clear .venv; \
		exit; \
	done; \
	echo 'error: gam-ray needs Python 3.11, 3.12 or 3.13 with its venv module.' >&2; \
	if [ "$$bare" ]; then \
		echo "$$bare lacks that module; on Debian or Ubuntu: apt install python3-venv" >&2; \
	else \
		echo 'None of these is one: $(PYTHON)' >&2; \
		echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv; others:' >&2; \
		echo 'https://www.python.org/downloads/), or name yours: make PYTHON=/path/to/python' >&2; \
	fi; \
	exit 1
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv \
		|| echo 'uv cannot be had; pip will install, more slowly'
	@touch $@
