# Each target does its own set-up in .venv; nothing else needs to be installed but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench soak clean

demo: $(READY)
	$(BIN)/featureloop demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/bench_device.py
	$(BIN)/python benchmarks/bench_loop_polyps.py

soak: $(READY)
	$(BIN)/python benchmarks/soak_kill.py
	FEATURELOOP_FUZZ=1000000 $(BIN)/python -m pytest tests/sharing/test_codec_fuzz.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("featureloop needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[learner,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
