# Each target sets up .venv first; it needs Python 3.11+, a C++ compiler and make.
# PYTHON=/path/to/python3 selects the interpreter; ARGS="..." is passed to pytest or regard.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTHON ?=
ARGS   ?=

SANITIZED := build/sanitize
# What `make sanitize` runs: fuzzers, traps (without those that start programs, limit memory or take long), long edges.
SANITIZABLE := any_shape_and_stride or any_mask_and_bias or edges and 513 or \
  traps and not (fork or control or memory_is or isa_names or same_bits or threads)

# A long module of the standard library: the first of these that this Python has.
DEMO   ?= logging subprocess

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# An editable install maps the modules that existed when it was made: it is renewed when the list of modules changes.
MODULES := $(VENV)/.modules
$(shell [ ! -d $(VENV) ] || find src/regard -name '*.py' | sort | cmp -s - $(MODULES) || \
  find src/regard -name '*.py' | sort > $(MODULES))

.DEFAULT_GOAL := help
.PHONY: help setup demo test sanitize bench web clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(READY) ## install regard and its tools into .venv

# Without node the page cannot be built: then the demo prints a message and shows the terminal's output.
demo: $(READY) ## see the attention of the embedded model on a long Python file
	@file=$$($(BIN)/python -c 'import sys, importlib.util as u; \
	  print(next(s.origin for s in map(u.find_spec, sys.argv[1:]) if s))' $(DEMO)) && \
	  { $(BIN)/regard look "$$file" --out page.html $(ARGS) || \
	  { [ $$? -eq 2 ] && [ ! -e src/regard/export/static/index.html ]; }; }

test: $(READY) ## check style, types and the direction of imports, and run the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

sanitize: $(READY) ## run the core's tests with address and undefined-behaviour sanitizers
	@$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DREGARD_STRICT=ON -DREGARD_SANITIZE=ON \
	  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" \
	  -DSKBUILD_PROJECT_VERSION="$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("regard"))')" \
	  --log-level=WARNING >/dev/null
	@$(BIN)/cmake --build $(SANITIZED) --target core
	@env REGARD_CORE="$$(ls $(CURDIR)/$(SANITIZED)/core.*)" \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/python -m pytest -q -p no:cacheprovider tests/native/test_fuzz.py tests/native/test_traps.py \
	  tests/agreement/test_native.py -k "$(SANITIZABLE)" $(ARGS)

bench: $(READY) ## measure speed and memory on this machine
	@$(BIN)/regard bench $(ARGS)

web: ## build the explorer's page (needs node 20.19 or newer)
	@node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
	  && command -v npm >/dev/null || { echo "the explorer's page is built by node 20.19 or newer with npm, and this machine has $$(node --version 2>/dev/null || echo none): install nodejs and npm, then make web. regard look and regard learn need neither" >&2; exit 1; }
	@cd web && npm ci --no-audit --no-fund --loglevel=error && npm test --silent && npm run --silent build

clean: ## remove what the other targets made
	rm -rf $(VENV) build web/node_modules src/regard/export/static page.html .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The build tools are installed in .venv and the build runs there (no isolation): one set of versions,
# and a change in native/ recompiles only the files that it affects.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*.* native/*/* $(MODULES))
	@ok='import sys; sys.exit(sys.version_info < (3, 11))'; \
	[ -x $(BIN)/python ] && $(BIN)/python -c "import pip; $$ok" 2>/dev/null && exit 0; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	  "$$python" -c "$$ok" 2>/dev/null && exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo 'regard needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not: make PYTHON=/path/to/python3.11' >&2; exit 1
	@command -v c++ >/dev/null || command -v $(CXX) >/dev/null || \
	  { echo 'regard needs a C++20 compiler, and this machine has neither c++ nor $(CXX): install g++ or set CXX' >&2; exit 1; }
	@echo 'setting up $(VENV): a few minutes the first time'
	@$(BIN)/python -m pip install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	@$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]' \
	  --config-settings=build-dir=build/editable --config-settings=cmake.define.REGARD_STRICT=ON
	@find src/regard -name '*.py' | sort > $(MODULES)
	@touch $@
