# The two commands of the README are `make demo` and `make test`; both build .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test compat test-fast golden lint format bench clean

demo: $(INSTALLED)
	ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 $(BIN)/accelerate launch --multi_gpu --num_machines 1 --num_processes 2 \
		--main_process_port 0 --mixed_precision no --dynamo_backend no recipes/dilt_digits.py $(ARGS)

test: $(INSTALLED) .compat/oldest
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

# Every family of timm, not only the quick ones, and the table in docs/: an hour of two cores at most
compat: $(INSTALLED) .compat/oldest
	rm -rf .compat/outcomes
	DILT_COMPAT=$(CURDIR)/.compat/outcomes $(BIN)/python -m pytest -n 2 --timeout 1800 tests/compatibility $(ARGS)
	cd tests && ../$(BIN)/python -m helpers.compatibility_table ../.compat/outcomes ../docs/compatibility.md

test-fast: ARGS += -m "not slow"
test-fast: test

# Record the numbers and the code of cached steps, after a version was raised or code was edited: see CONTRIBUTING.md
golden: $(INSTALLED)
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m helpers.golden

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .bootstrap .compat build dist runs .pytest_cache .ruff_cache .mypy_cache .hypothesis

# The oldest supported transformers, and the `kernels` of its time, over what .venv holds: for tests/compatibility
.compat/oldest: pyproject.toml | $(INSTALLED)
	rm -rf $@
	uv=$$(command -v uv || echo .bootstrap/bin/uv); $$uv pip install --quiet --no-deps --python $(BIN)/python \
		--target $@ transformers==5.0.0 kernels==0.11.7 huggingface_hub==1.3.7 tokenizers==0.22.2
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	set -e; uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
		$(PYTHON) -m venv .bootstrap; .bootstrap/bin/python -m pip install --quiet uv; uv=.bootstrap/bin/uv; \
	fi; \
	$$uv venv --quiet --allow-existing --python $(PYTHON) .venv; \
	$$uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable '.[dev]'
	touch $@
