# make demo: every table and figure at demo scale.
# make docs: the pages as a site, site/index.html.
# make test: lint, types and the tests.  make quick: without what starts a process or takes half a second.  make test-all: also
# those on SLURM, in a browser, of LaTeX, and the long ones; what is not installed is skipped and named.
# All set up .venv from the lock file first; with CPU=1 without CUDA, a third of the size.
PYTHON ?= python3
BIN := .venv/bin
CPU_INDEX := https://download.pytorch.org/whl/cpu
READY := .venv/.ready
READY_DOCS := .venv/.ready-docs
# Where it is set, each of hundreds of processes would compile this package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-all quick lint style lock clean

demo: $(READY)
	$(BIN)/snakemake

docs: $(READY_DOCS)
	$(BIN)/sphinx-build -q -W --keep-going -b html -c docs/site -d .venv/.doctrees . site
	@echo site/index.html

test: style
	$(call checked,)

test-all: style $(READY_DOCS)
	$(call checked,--all)

quick: style
	$(call checked,-q -m "not process and not slow")

lint: style
	$(BIN)/mypy

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker works beside the tests, of which every core runs a file: what a file's tests share is made once. Files in our
# order (the longest first), not by their number of tests.
checked = $(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(1); tests=$$?; \
	wait $$types || { echo "mypy found what stands above the tests"; exit 1; }; exit $$tests

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@# A .venv without pip is what is left where making one failed half-way (Debian without python3-venv).
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(if $(CPU),grep -vE '^(nvidia|cuda|triton)',cat) requirements.lock > .venv/wanted.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(if $(CPU),--extra-index-url $(CPU_INDEX)) -r .venv/wanted.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# What builds the site is for who builds it: two dozen small packages, of versions that go with the others'.
$(READY_DOCS): docs/site/requirements.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r docs/site/requirements.lock
	touch $@

# Newer versions within pyproject's ranges: edit .venv by hand, test, then write down what is installed.
lock:
	{ grep '^#' requirements.lock; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable \
	  | grep -vxFf docs/site/requirements.lock | sed -E '/^(nvidia|cuda|triton)/ s/$$/ ; sys_platform == "linux"/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv .snakemake results/demo results/smoke site
