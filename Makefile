# `make demo` runs the main job, `make test` the tests, `make docs` writes the site; all prepare .venv first.
# `make compat` tries other versions of Python and torch, such as PYTHONS="3.12 3.13" TORCHES="2.8.0 2.13.0"; TORCH_INDEX
# names an index of CPU builds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
TORCHES ?= 2.8.0 2.13.0
STAMP := $(VENV)/.installed

.PHONY: demo test docs compat install lint clean

demo: install
	$(BIN)/ttq search

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

compat:
	$(PYTHON) tests/compat.py --torches $(TORCHES) $(if $(PYTHONS),--pythons $(PYTHONS)) \
		$(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)

# PyTorch first and by its exact version: a range with none installed pulls gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "Python 3.11 to 3.14 is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,dev,docs]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
