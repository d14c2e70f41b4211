# Each target does its own set-up in .venv; nothing else needs to be installed but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: demo test check bench soak browser clean

demo: $(READY)
	$(BIN)/featureloop demo

test: $(READY) browser
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The pages are tested in Debian's Chromium. Where it can't be installed, those tests are skipped, and say so.
browser:
	@test -x /usr/bin/chromium || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  (apt-get install -y --no-install-recommends chromium || (apt-get update && \
	   apt-get install -y --no-install-recommends chromium)) >/dev/null 2>&1; } || \
	  echo "no /usr/bin/chromium: tests of the pages in a browser are skipped (Debian: apt-get install chromium)"

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
	FEATURELOOP_FUZZ=1000000 $(BIN)/python -m pytest tests/sharing/test_codec_fuzz.py tests/sharing/test_together.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("featureloop needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[learner,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
