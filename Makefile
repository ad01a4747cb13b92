# Two commands do all the set-up: `make run` and `make test`; `make studio` adds a real Label Studio.
#
#   PYTHON=python3.12     the Python (>= 3.11) that makes the virtual environment
#   TORCH_INDEX=URL       take torch and torchvision from that package index, e.g. a CPU-only one

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Label Studio pins old versions of much that we use: it lives in a virtual environment of its own.
RAM_STUDIO_VENV ?= .venv-studio
STUDIO_VERSION := 1.23.2
STUDIO_STAMP := $(RAM_STUDIO_VENV)/.installed-$(STUDIO_VERSION)

# label-studio-ml pins a Flask of 2020: its virtual environment is its own, and sees ours behind it.
RAM_STOCK_HOST_VENV ?= .venv-stock-host
STOCK_HOST_VERSION := 1.0.9
STOCK_HOST_STAMP := $(RAM_STOCK_HOST_VENV)/.installed-$(STOCK_HOST_VERSION)
SITE_PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: install label-studio stock-host run demo studio test test-fast docs mutants simulations fuzz lint pin-images clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ram_backend needs Python >= 3.11; try: make install PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV)/ (PyTorch and friends: some minutes and 6 GB; less with TORCH_INDEX)"
	$(if $(TORCH_INDEX),$(BIN)/pip install --index-url $(TORCH_INDEX) torch torchvision)
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

label-studio: $(STUDIO_STAMP)

$(STUDIO_STAMP):
	@echo "Installing Label Studio $(STUDIO_VERSION) into $(RAM_STUDIO_VENV)/ (about three minutes and 1 GB)"
	test -x $(RAM_STUDIO_VENV)/bin/python || $(PYTHON) -m venv $(RAM_STUDIO_VENV)
	$(RAM_STUDIO_VENV)/bin/pip install --disable-pip-version-check label-studio==$(STUDIO_VERSION)
	@touch $@

stock-host: $(STOCK_HOST_STAMP)

$(STOCK_HOST_STAMP): | $(STAMP)
	@echo "Installing label-studio-ml $(STOCK_HOST_VERSION) into $(RAM_STOCK_HOST_VENV)/ (some seconds and 70 MB)"
	test -x $(RAM_STOCK_HOST_VENV)/bin/python || $(BIN)/python -m venv $(RAM_STOCK_HOST_VENV)
	$(RAM_STOCK_HOST_VENV)/bin/pip install --disable-pip-version-check label-studio-ml==$(STOCK_HOST_VERSION)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE_PACKAGES))')" \
	  > "$$($(RAM_STOCK_HOST_VENV)/bin/python $(SITE_PACKAGES))/ram_backend.pth"
	@touch $@

# Tags the photos that come with the project, then serves, with a worker beside that learns, until Ctrl-C.
run: demo
	@$(BIN)/ram-backend serve --with-worker

# Tags those photos, and that is all.
demo: install
	@$(BIN)/ram-backend demo

# A real Label Studio with those photos in a demo project, pre-annotated by the backend; Ctrl-C stops both.
studio: install label-studio
	@$(BIN)/ram-backend studio --label-studio $(RAM_STUDIO_VENV)/bin/label-studio

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything whose prerequisites exist, in two processes; the summary lists what was left out and why.
test: install lint docs
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -m '' -n 2 --dist loadfile --no-loadscope-reorder

# The pages of docs/ as a site in build/docs; a dead link or a page that no list names fails.
docs: install
	$(BIN)/sphinx-build --quiet --fail-on-warning --nitpicky docs build/docs

# Breaks each guard and some promises in turn, and expects a test to fail: half an hour, when one of them has changed.
mutants: install
	$(BIN)/python tests/security/mutants.py

# Power of the gate, nothing to win, annotators and near-duplicates on labelled photos: DATA=FOLDER, a quarter of an hour.
simulations: install
	PYTHONPATH=. $(BIN)/python benchmarks/gate_simulation.py --data $(DATA)

# Random requests to every route for about an hour: nothing may answer above 499 (but 503), hang, or keep memory.
fuzz: install
	FUZZ_TIMES=100 $(BIN)/pytest tests/security/test_endpoints.py

# What needs no services, in a few minutes, for while you work.
test-fast: install
	$(BIN)/pytest

# Adds to each image tag in docker/ the digest that the registry gives for it now (needs docker buildx).
pin-images:
	sh docker/pin-images.sh

clean:
	rm -rf $(VENV) .venv-studio .venv-stock-host build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
