# make demo      draw images, learn from their tags, score, write a report
# make check     all that must pass before a change is kept: lint, test, docs
# make lint      ruff and mypy
# make test      the test suite on all cores, with the share of lines that it covers
# make docs      the documentation as a site, in site/; a broken link or an undocumented public name fails
# make dist      the wheel and the source archive, in dist/
# make bench     what is missing of the benchmarks; make results: docs/results.md from their JSON files
# make lock      requirements.lock from pyproject.toml
# make clean     remove whatever the targets above have made
#
# Each target does its own set-up in .venv; Python 3.11 or newer and make are all it needs.

SUITABLE := for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done
PYTHON ?= $(shell $(SUITABLE))
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
READY := .venv/ready

ifdef UV
VENV = "$(PYTHON)" -m venv --without-pip .venv
INSTALL = "$(UV)" pip install --quiet --python $(BIN)/python
else
VENV = "$(PYTHON)" -m venv .venv
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo check lint test docs dist bench results lock clean

demo: $(READY)
	$(BIN)/frugalseg demo

check: lint test docs

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# One process for each core, each with one thread. `make test TEST="tests/test_rle.py --no-cov"` runs a part.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=10 \
		--numprocesses auto --dist worksteal --cov --cov-report= $(TEST)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict --clean

dist: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

# Continues where it stopped; `make bench BENCH="--only voc20 --jobs 4"` chooses, `BENCH=--list` says where every cell stands.
bench: $(READY)
	$(BIN)/python -m benchmarks.cells $(BENCH)
	$(BIN)/python -m benchmarks.page

results: $(READY)
	$(BIN)/python -m benchmarks.page

# Versions already locked stay; `make lock UPGRADE=--upgrade` takes the newest. torch and torchvision must agree on CUDA's version.
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv (pip install uv)."; exit 1; }
	uv pip compile pyproject.toml --extra dev --extra docs --output-file requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE)

clean:
	rm -rf .venv build dist site .coverage .coverage.* .pytest_cache .ruff_cache .mypy_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made again only when what it is made from has changed.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "frugalseg needs Python 3.11 or newer; found: $$(python3 --version 2>&1)." \
		"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1)," \
		"frugalseg needs 3.11 or newer. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up .venv with $$("$(PYTHON)" --version) and $(if $(UV),uv,pip): some minutes the first time, mostly PyTorch."
	@$(VENV) || { echo "Python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
