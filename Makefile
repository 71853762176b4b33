# make demo: every table and figure at demo scale.  make test: the tests.  make quick: lint, types and the tests that start no process.
# All set up .venv from the lock file first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test quick lint lock clean

demo: $(READY)
	$(BIN)/snakemake

test: lint
	$(BIN)/python -m pytest

# The type checker works beside the tests: each takes a core.
quick: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not process"; tests=$$?; wait $$types && exit $$tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@# A .venv without pip is what is left where making one failed half-way (Debian without python3-venv).
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Newer versions within pyproject's ranges: edit .venv by hand, test, then write down what is installed.
lock:
	{ grep '^#' requirements.lock; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable \
	  | sed -E '/^(nvidia|cuda|triton)/ s/$$/ ; sys_platform == "linux"/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv .snakemake results/demo results/smoke
