# Two commands on a fresh machine do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check verify install install-dev clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and pinned: a looser request pulls gigabytes of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps k-diffusion==0.1.1.post1
	touch $@

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

demo: install
	$(BIN)/calotype generate "a red apple" --seed 7 -o demo.png

test: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

verify: install-dev
	$(BIN)/python -m pytest -n 2 -m verify -o timeout=1500

clean:
	rm -rf $(VENV) build dist src/*.egg-info
