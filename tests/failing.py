"""Run commands in one process and let some of them fail.

`python -m tests.failing PLAN.json` reads a list of jobs, each with "arguments" and optionally with
an "error", the step "at" which it is raised, and an "environment". Every error contains the canary,
as errors of libraries contain data values.
"""

import csv
import json
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

CANARY = "PHI_CANARY_of_an_error lives alone"


def conversion_error():
    import duckdb

    duckdb.sql(f"SELECT CAST('{CANARY}' AS INTEGER)").fetchall()


def conversion_error_of_sqlalchemy():
    import sqlalchemy as sa

    with sa.create_engine("duckdb:///:memory:").connect() as con:
        con.execute(sa.text("SELECT CAST(:text AS INTEGER)"), {"text": CANARY}).fetchall()


def unicode_error():
    (CANARY.encode() + b"\xff").decode()


def missing_key():
    dict[str, str]()[CANARY]


def missing_key_as_project_error():
    from featurestore.errors import FeatureStoreError

    try:
        missing_key()
    except KeyError as error:
        raise FeatureStoreError("a key is missing - report this") from error


def cast_error_of_arrow():
    import pyarrow as pa

    pa.array([CANARY]).cast(pa.int64())


def csv_error_of_arrow():
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    pa_csv.read_csv(pa.py_buffer(f"a,b\n{CANARY}\n".encode()))


def onnx_runtime_error():
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    raise Fail(f"Non-zero status code returned while running node {CANARY}")


def text_as_file_name():
    Path(CANARY).read_text()


def system_error_with_text():
    raise OSError(28, CANARY, CANARY)


def system_error_without_number():
    raise OSError(CANARY)


def out_of_memory():
    raise MemoryError(CANARY)


def endless_recursion(text=CANARY):
    return endless_recursion(text) + CANARY


def system_error():
    raise SystemError(CANARY)


def exit_with_message():
    sys.exit(CANARY)


def json_error():
    json.loads(CANARY)


def csv_error():
    list(csv.reader([f'"{CANARY}'], strict=True))


def error_with_notes():
    error = AssertionError(CANARY)
    error.add_note(CANARY)
    raise error


def error_group():
    raise BaseExceptionGroup(CANARY, [KeyError(CANARY), SystemExit(CANARY)])


def error_without_message():
    class OddError(Exception):
        def __str__(self):
            raise ValueError(CANARY)

        __repr__ = __str__

    raise OddError(CANARY)


def rust_panic():
    from tokenizers import NormalizedString

    NormalizedString(CANARY).for_each(lambda letter: dict[str, str]()[CANARY])


def stopped():
    raise KeyboardInterrupt(CANARY)


def warn():
    warnings.warn(CANARY, stacklevel=1)


def log():
    try:
        missing_key()
    except KeyError:
        for name in ("sqlalchemy.engine", "transformers", "onnxruntime", "root"):
            logging.getLogger(name).exception("%s", CANARY)
            logging.getLogger(name).critical("%d", CANARY)  # cannot be formatted


def error_in_thread():
    thread = threading.Thread(target=missing_key)
    thread.start()
    thread.join()


def error_in_finalizer():
    class Lost:
        def __del__(self):
            missing_key()

    Lost()


def native_output():
    os.write(2, CANARY.encode())


# ERRORS stop a job; a job continues after NOISE.
ERRORS = (
    *(conversion_error, conversion_error_of_sqlalchemy, unicode_error, missing_key),
    *(cast_error_of_arrow, missing_key_as_project_error, csv_error_of_arrow, onnx_runtime_error),
    *(text_as_file_name, system_error_with_text, system_error_without_number, out_of_memory),
    *(endless_recursion, system_error, exit_with_message, json_error, csv_error),
    *(error_with_notes, error_group, error_without_message, rust_panic, stopped),
)
NOISE = (warn, log, error_in_thread, error_in_finalizer, native_output)
NAMED = {error.__name__: error for error in (*ERRORS, *NOISE)}


def run(plan):
    from featurestore.cli import main
    from featurestore.store import failpoints

    hit, environment = failpoints.hit, dict(os.environ)
    for job in plan:
        failpoints.hit = hit
        os.environ.clear()
        os.environ.update(environment)
        if "error" in job:
            raise_at(job["at"], NAMED[job["error"]])
        os.environ.update(job.get("environment", {}))
        mark = f"{json.dumps(job)}\n"
        for stream in (sys.stdout, sys.stderr):
            stream.write(mark)
            stream.flush()
        try:
            main(job["arguments"])
        except SystemExit as end:
            sys.stdout.write(f"exit {end.code}\n")


def raise_at(step, error):
    """Raise an error at a failpoint, or in a method of the encoder at its first call."""
    from featurestore.store import failpoints

    if step in failpoints.FAILPOINTS:
        failpoints.hit = lambda name: error() if name == step else None
        return
    from featurestore import OnnxEncoder

    method = getattr(OnnxEncoder, step)

    def fail_once(self, texts):
        setattr(OnnxEncoder, step, method)
        error()
        return method(self, texts)

    setattr(OnnxEncoder, step, fail_once)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
